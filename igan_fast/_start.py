"""The command line's settings of OpenMP. OpenMP reads them when it is loaded, so they are set before PyTorch is loaded.

Only the command line sets them. A program that imports the package may set them itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

from igan_fast._interrupt import is_command
from igan_fast.cores import allowed_cores, usable_cores

__all__ = ["SPIN_COUNT", "THREADS_GIVEN", "is_command", "prepare"]

#: Whether the user has set the number of OpenMP threads.
THREADS_GIVEN = "OMP_NUM_THREADS" in os.environ

#: How many times a waiting thread of GNU OpenMP polls before it sleeps. The default of 300,000 takes longer than the
#: kernel's time slice. So beside other busy programs a waiting thread takes the core from the thread that it waits for.
#: The lower count costs a few percent of the speed on an idle machine, and gains several times as much beside busy
#: programs. ``python -m bench.neighbours`` measures it.
SPIN_COUNT = 1_000


def prepare(environment: MutableMapping[str, str]) -> None:
    """Set the spin count, and the number of threads if a control group limits the CPU time of this process.

    Variables that the user has set are left alone.
    """
    if not environment.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        environment["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
    # PyTorch takes the number of cores from the affinity; it does not know of quotas.
    if "OMP_NUM_THREADS" not in environment and (usable := usable_cores()) < allowed_cores():
        environment["OMP_NUM_THREADS"] = str(usable)


if is_command(sys.argv, sys.orig_argv):
    prepare(os.environ)

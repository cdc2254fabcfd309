"""What the command line sets before PyTorch is loaded, because OpenMP reads it once: at its own loading.

A program that imports the package sets this for itself, or leaves it: only the command line does it here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

from igan_fast._interrupt import is_command
from igan_fast.cores import allowed_cores, usable_cores

__all__ = ["SPIN_COUNT", "THREADS_GIVEN", "is_command", "prepare"]

#: Whether the user has said how many threads OpenMP shall have.
THREADS_GIVEN = "OMP_NUM_THREADS" in os.environ

#: How often a thread of GNU's OpenMP looks whether the others have come before it sleeps. Its own 300,000 are longer
#: than the kernel's time slice: where another program wants the core, a thread that waits takes it away from the very
#: thread that it is waiting for. Alone this costs some percent, beside others it gains several times as much, and a
#: neighbour may come at any time. ``python -m bench.neighbours`` measures it.
SPIN_COUNT = 1_000


def prepare(environment: MutableMapping[str, str]) -> None:
    """Set how long a thread waits busily, and how many threads there are where a control group allows less than all.

    What the user has set stays.
    """
    if not environment.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        environment["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
    # PyTorch counts the cores that it may run on; of a quota of their time it knows nothing.
    if "OMP_NUM_THREADS" not in environment and (usable := usable_cores()) < allowed_cores():
        environment["OMP_NUM_THREADS"] = str(usable)


if is_command(sys.argv, sys.orig_argv):
    prepare(os.environ)

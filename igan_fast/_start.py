"""What the command line sets before PyTorch is loaded, because OpenMP reads it once: at its own loading.

A program that imports the package sets this for itself, or leaves it: only the command line does it here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

from igan_fast._interrupt import is_command
from igan_fast.cores import allowed_cores, busy_elsewhere, usable_cores

__all__ = ["SPIN_COUNT", "SPIN_COUNT_BUSY", "THREADS_GIVEN", "is_command", "prepare"]

#: Whether the user has said how many threads OpenMP shall have.
THREADS_GIVEN = "OMP_NUM_THREADS" in os.environ

#: How often a thread of GNU's OpenMP looks whether the others have come before it sleeps: some tenths of a millisecond.
#: That bridges the gap between two operators; its own 300,000 are longer than the kernel's time slice, so that where
#: another program wants the core, a thread that waits takes it away from the very thread that it is waiting for.
#: ``python -m bench.neighbours`` measures it.
SPIN_COUNT = 10_000

#: The same where other programs keep cores busy already: alone it costs some percent, beside them it gains much more.
SPIN_COUNT_BUSY = 1_000

#: Seconds that are watched before training to see whether they do, and how many cores' worth of work counts.
WATCHED = 0.1
BUSY = 0.5


def prepare(environment: MutableMapping[str, str], *, busy: bool = False) -> None:
    """Set how long a thread waits busily, and how many threads there are where a control group allows less than all.

    What the user has set stays.

    Args:
        environment: where it is set.
        busy: whether other programs keep cores busy.
    """
    if not environment.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        environment["GOMP_SPINCOUNT"] = str(SPIN_COUNT_BUSY if busy else SPIN_COUNT)
    # PyTorch counts the cores that it may run on; of a quota of their time it knows nothing.
    if "OMP_NUM_THREADS" not in environment and (usable := usable_cores()) < allowed_cores():
        environment["OMP_NUM_THREADS"] = str(usable)


if is_command(sys.argv, sys.orig_argv):
    training = "train" in sys.argv[1:2] or "igan_fast.train" in sys.orig_argv
    prepare(os.environ, busy=training and busy_elsewhere(WATCHED) >= BUSY)

"""A program for torchrun: ``igan-fast train`` in which one process is killed, unless it was started again."""

from __future__ import annotations

import os
import signal
import sys

import distributed_trainings

from igan_fast.app.cli import main

if __name__ == "__main__":
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        distributed_trainings.send_in_iteration(5, signal.SIGKILL)
    sys.exit(main(sys.argv[1:]))

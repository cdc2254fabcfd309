"""``python -m igan_fast.ops``: which implementations this machine has, how they were built, and why one is missing.

``igan-fast doctor`` shows the same, the rest of the machine, and how to install what is missing.
"""

from __future__ import annotations

import torch

from igan_fast._version import __version__
from igan_fast.ops import status


def report() -> str:
    """The implementations and settings, as text of several lines."""
    heading = f"igan_fast {__version__}, torch {torch.__version__}, {torch.get_num_threads()} CPU threads"
    return f"{heading}\n\n{status.render(status.sections())}"


if __name__ == "__main__":
    print(report())

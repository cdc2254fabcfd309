"""``python -m igan_fast.ops``: what the operators run on here, how they were built, and why anything is missing.

``igan-fast doctor`` tells that too, what the machine has besides, and how to mend what is missing.
"""

from __future__ import annotations

import torch

from igan_fast._version import __version__
from igan_fast.ops import status


def report() -> str:
    """What there is, as text of several lines."""
    heading = f"igan_fast {__version__}, torch {torch.__version__}, {torch.get_num_threads()} CPU threads"
    return f"{heading}\n\n{status.render(status.sections())}"


if __name__ == "__main__":
    print(report())

"""``import igan_fast`` beside ``import torch`` alone, each in a fresh interpreter: the difference is what we add."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable


def fresh(code: str) -> Callable[[], object]:
    """Runs code in an interpreter of its own, on one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return lambda: subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_import(compare):
    compare(
        {"kind": "import", "operator": "import igan_fast", "layout": "", "dtype": "", "batch": 1},
        {"ours": (fresh("import torch, igan_fast"), None), "torch alone": (fresh("import torch"), None)},
        {},
    )

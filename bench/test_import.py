"""The time of ``import torch, igan_fast`` against ``import torch``, each in a fresh interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable


def in_fresh_interpreter(code: str) -> Callable[[], object]:
    """A function that runs ``code`` in a new interpreter with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return lambda: subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_import(compare):
    compare(
        {"kind": "import", "operator": "import igan_fast", "layout": "", "dtype": "", "batch": 1},
        {
            "ours": (in_fresh_interpreter("import torch, igan_fast"), None),
            "torch alone": (in_fresh_interpreter("import torch"), None),
        },
        {},
    )

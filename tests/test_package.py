"""The package as a whole: who may import whom, how light the import is, and what it offers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import igan_fast

ROOT = Path(__file__).resolve().parents[1]


def run_python(code: str) -> str:
    # As a user has it: the tests' own Triton runs in its interpreter, which is loaded at once.
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.skipif(importlib.util.find_spec("importlinter") is None, reason="import-linter is not installed")
def test_no_import_runs_upward() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_importing_the_package_waits_for_no_heavy_library() -> None:
    code = "import igan_fast, sys, json; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(run_python(code)))
    assert "igan_fast.reference" in loaded
    heavy = {"matplotlib", "tensorboard", "torchmetrics", "tyro", "triton", "PIL", "safetensors"}
    assert not loaded & heavy


def test_computing_on_a_cpu_loads_no_triton() -> None:
    code = """
import sys, torch, igan_fast
model = igan_fast.IterativeGAN(image_size=32, attributes=5, latent=6, width=16)
model.encode(torch.zeros(64, 3, 32, 32)).z.sum().backward()
print("triton" in sys.modules)
"""
    assert run_python(code).strip() == "False"


def test_every_public_name_is_there() -> None:
    for name in igan_fast.__all__:
        assert getattr(igan_fast, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Generador'"):
        _ = igan_fast.Generador


def test_the_version_is_the_one_installed() -> None:
    assert igan_fast.__version__ == version("igan-fast")


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(igan_fast.__file__).parent / "py.typed").exists()

"""The package as a whole: its import rules, what importing it loads, and its public names."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from preloaded import run_preloaded

import igan_fast
import igan_fast.app.evaluate
import igan_fast.app.report
import igan_fast.evaluate
import igan_fast.report
from igan_fast import app

ROOT = Path(__file__).resolve().parents[1]


def run_python(code: str, **environment: str) -> str:
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | environment
    done = run_preloaded(code, environment=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(importlib.util.find_spec("importlinter") is None, reason="import-linter is not installed")
def test_no_import_runs_upward() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("interpreter", ["0", "1"])
def test_importing_the_package_loads_no_other_library(interpreter: str) -> None:
    """It loads no library but torch, no part of torch that ``import torch`` does not load, and no optional module."""
    code = """
import sys, json, torch
before = set(sys.modules)
import igan_fast
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    loaded = set(json.loads(run_python(code, TRITON_INTERPRET=interpreter)))
    assert {name for name in loaded if name.partition(".")[0] != "igan_fast"} == set()
    rooms = {name.split(".")[1] for name in loaded if "." in name}
    assert {"reference", "ops", "models"} <= rooms
    assert not rooms & {"train", "checkpoint", "data", "editor", "evaluate", "metrics", "report", "app"}
    assert "igan_fast.ops.triton" not in loaded


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_a_compiled_function_may_be_the_first_to_need_triton() -> None:
    code = """
import sys, torch
from igan_fast import ops

def loss(x, y):
    return ops.feature_l1([x], [y], impl="triton") + ops.norm_act(x, None, None, impl="triton").square().mean()

assert "triton" not in sys.modules
x, y = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 4, 4)
torch._dynamo.config.error_on_recompile = True
compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
outputs = [function(x, y) for function in (compiled, compiled, loss)]
first, _, plain = [torch.autograd.grad(output, x)[0] for output in outputs]
assert torch.equal(outputs[0], outputs[2]), outputs
assert torch.equal(first, plain)
print("igan_fast.ops.triton.norm_act" in sys.modules)
"""
    assert run_python(code, TRITON_INTERPRET="1").strip() == "True"


def test_computing_on_a_cpu_loads_no_triton() -> None:
    code = """
import sys, torch, igan_fast
model = igan_fast.IterativeGAN(image_size=32, attributes=5, latent=6, width=16)
model.encode(torch.zeros(64, 3, 32, 32)).z.sum().backward()
print("triton" in sys.modules)
"""
    assert run_python(code).strip() == "False"


@pytest.mark.parametrize("module", ["editor", "evaluate", "baselines.cnn", "checkpoint"])
def test_using_a_model_loads_nothing_that_trains_one(module: str) -> None:
    code = f"""
import sys, igan_fast.{module}
print(*(name for name in sys.modules if name == "igan_fast.train" or name.startswith("igan_fast.train.")))
"""
    assert run_python(code).split() == []


def test_the_command_line_starts_without_the_training_loop() -> None:
    code = """
import sys, igan_fast.app.cli
print("igan_fast.train.config" in sys.modules, "igan_fast.train.loop" in sys.modules, "tensorboard" in sys.modules)
from igan_fast.train import TrainResult, train
import igan_fast.train
print(igan_fast.train.loop.train is train, igan_fast.train.train is train)
print({"train", "TrainResult"} <= set(dir(igan_fast.train)))
"""
    assert run_python(code).split() == ["True", "False", "False", "True", "True", "True"]
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = igan_fast.train.trian


def test_every_public_name_is_there() -> None:
    for name in igan_fast.__all__:
        assert getattr(igan_fast, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Generador'"):
        _ = igan_fast.Generador


def test_the_documented_names_of_the_evaluation_are_the_applications_own() -> None:
    for module, source in ((igan_fast.evaluate, app.evaluate), (igan_fast.report, app.report)):
        for name in module.__all__:
            assert getattr(module, name) is getattr(source, name)


def test_dir_names_what_is_loaded_later_and_loads_nothing() -> None:
    code = """
import sys, json, igan_fast
names = dir(igan_fast)
print(json.dumps([names, sorted(name for name in sys.modules if name.startswith("igan_fast"))]))
"""
    names, loaded = json.loads(run_python(code))
    assert {*igan_fast.__all__, "train", "ops", "__doc__"} <= set(names)
    assert names == sorted(set(names))
    assert not {"igan_fast.editor", "igan_fast.fusion", "igan_fast.train"} & set(loaded)


def test_the_version_is_the_one_installed() -> None:
    assert igan_fast.__version__ == version("igan-fast")


def test_the_package_has_a_py_typed_marker() -> None:
    assert (Path(igan_fast.__file__).parent / "py.typed").exists()

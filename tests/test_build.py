"""What setup.py decides to build, and that an installation without a compiler succeeds."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import cpp_extension

from igan_fast.ops.cuda_targets import parse_targets

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def setup_py():
    spec = importlib.util.spec_from_file_location("igan_fast_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses looks there
    spec.loader.exec_module(module)
    return module


def decide(setup_py, torch_cuda="13.0", nvcc="/cuda/bin/nvcc", compiler="/usr/bin/c++", **env):
    return setup_py.decide(env, torch_cuda, nvcc, compiler)


def test_builds_what_there_is(setup_py):
    assert decide(setup_py) == setup_py.Plan(True, "/cuda/bin/nvcc", "")
    assert decide(setup_py, torch_cuda=None) == setup_py.Plan(True, None, "without CUDA: this torch has none")
    assert decide(setup_py, nvcc=None) == setup_py.Plan(True, None, "without CUDA: nvcc was not found")


def test_honours_the_environment(setup_py):
    assert decide(setup_py, NO_CUDA="1").cuda is None
    assert decide(setup_py, NO_CUDA="0").cuda is not None
    assert decide(setup_py, FORCE_CUDA="1", torch_cuda=None).cuda == "/cuda/bin/nvcc"
    assert not decide(setup_py, NO_EXTENSION="1").extension
    assert "NO_EXTENSION" in decide(setup_py, NO_EXTENSION="1").reason


def test_names_the_gpus_that_it_was_built_for(setup_py, monkeypatch):
    """In the form that the package reads, from the flags that PyTorch makes of TORCH_CUDA_ARCH_LIST."""
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", setup_py.CUDA_TARGETS)
    targets = setup_py.targets_of(cpp_extension._get_cuda_arch_flags())
    assert set(targets.split()) == {"sm_80", "sm_90a", "sm_90", "compute_90"}
    assert set(parse_targets(targets)) == {(8, 0, ""), (9, 0, "a"), (9, 0, ""), (9, 0, "ptx")}


def test_without_a_compiler_nothing_is_built_and_said_why(setup_py):
    plan = decide(setup_py, compiler=None)
    assert not plan.extension
    assert "no C++ compiler was found" in plan.reason


@pytest.mark.parametrize(
    ("env", "options", "message"),
    [
        ({"FORCE_CUDA": "1", "NO_CUDA": "1"}, {}, "FORCE_CUDA and NO_CUDA are both set"),
        ({"FORCE_CUDA": "1", "NO_EXTENSION": "1"}, {}, "FORCE_CUDA and NO_EXTENSION are both set"),
        ({"FORCE_CUDA": "1"}, {"nvcc": None}, "FORCE_CUDA is set, but nvcc was not found"),
    ],
)
def test_contradictions_are_refused(setup_py, env, options, message):
    with pytest.raises(SystemExit, match=message):
        decide(setup_py, **options, **env)


def test_the_recipe_finds_every_source_once(setup_py):
    recipe = json.loads((ROOT / "csrc" / "build.json").read_text(encoding="utf-8"))
    found = setup_py.sources(recipe, cuda=True)
    there = [str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*") if p.suffix in (".cpp", ".cu")]
    assert sorted(found) == sorted(there)
    assert not [name for name in setup_py.sources(recipe, cuda=False) if name.endswith(".cu")]


WRITES_A_NUMBER = """
#include <cstring>
#include <sstream>
extern "C" __attribute__((visibility("default"))) void written(char* to) {
  std::ostringstream text;
  text << "found " << 7;
  std::strcpy(to, text.str().c_str());
}
"""


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("g++"), reason="is about g++ on Linux")
def test_a_library_with_a_cpp_library_of_its_own_can_write_numbers_beside_torch(tmp_path):
    """As the messages of errors do. Without the flags for linking, ``found `` is all that is written."""
    recipe = json.loads((ROOT / "csrc" / "build.json").read_text(encoding="utf-8"))
    source, library = tmp_path / "writes.cpp", tmp_path / "writes.so"
    source.write_text(WRITES_A_NUMBER, encoding="utf-8")
    flags = ["-shared", "-fPIC", "-static-libstdc++", *recipe["cxx_flags"], *recipe["link_flags"]]
    subprocess.run(["g++", *flags, str(source), "-o", str(library)], check=True)
    text = ctypes.create_string_buffer(100)
    ctypes.CDLL(str(library)).written(text)  # torch is loaded
    assert text.value == b"found 7"


def test_a_pattern_that_matches_nothing_is_refused(setup_py):
    recipe = {"kernels": ["cpu/*/no_such.cpp"], "module": [], "operators": []}
    with pytest.raises(SystemExit, match=r"csrc/cpu/\*/no_such\.cpp matches no file"):
        setup_py.sources(recipe, cuda=False)


@pytest.mark.slow
@pytest.mark.parametrize("reason", ["on request", "no compiler", "compiler that fails"])
def test_installing_without_an_extension_succeeds(tmp_path, reason):
    """A wheel from a copy of the tree, unpacked: it imports, runs on the reference and says why."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "csrc", tree / "csrc")
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "_build_failure.txt")
    shutil.copytree(ROOT / "igan_fast", tree / "igan_fast", ignore=ignored)
    env = {k: v for k, v in os.environ.items() if k not in ("NO_EXTENSION", "CXX", "FORCE_CUDA", "NO_CUDA")}
    if reason == "on request":
        env["NO_EXTENSION"] = "1"
    elif reason == "no compiler":
        env["CXX"] = "no-such-compiler"
    else:
        compiler = tmp_path / "broken-c++"
        compiler.write_text("#!/bin/sh\necho 'internal compiler error' >&2\nexit 1\n", encoding="utf-8")
        compiler.chmod(0o755)
        env["CXX"] = env["CC"] = str(compiler)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-build-isolation",
        "--no-deps",
        "-w",
        str(tmp_path),
        str(tree),
    ]
    built = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "site", "zip")
    code = """
import sys
# Without the checkout, which is installed for these tests.
sys.meta_path = [finder for finder in sys.meta_path if "ditable" not in repr(finder)]
import torch
from igan_fast import ops
ops.norm_act(torch.randn(3, 4), None, None)
print(ops.backends()["native-cpu"])
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=env | {"PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    expected = {"on request": "NO_EXTENSION", "no compiler": "no C++ compiler", "compiler that fails": "was not built"}
    assert expected[reason] in ran.stdout

"""The tests that ``.ci/run`` runs for one build only: with the native extension, and not without it.

These are, first, the tests whose result does not depend on the extension (``any_build``). A test counts as dependent
unless its file is named here, or it is marked ``any_build``. That claim is checked: such a test fails when it reads
whether the extension exists, or calls an operator of it. It also fails when it starts a process, because that could do
the same unseen. A file of a folder named here counts as dependent nevertheless if it imports a module that starts
processes.

Second, they are the tests of what is built on the operators (``above_operators``), such as commands and runs. The
operators, layers, networks, losses and steps have tests for both builds, and nothing above them asks which one it is. A
few tests of each folder are marked ``every_build``: a training, its exact resumption, each command once.
"""

from __future__ import annotations

import contextlib
import multiprocessing.util
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from igan_fast.ops import backend

__all__ = ["ONE_BUILD", "hide_extension", "mark", "runs_for_one_build"]

TESTS = Path(__file__).resolve().parent

#: ``pytest -m`` with this leaves those tests out.
ONE_BUILD = "not any_build and not above_operators"

#: Files and folders that do not depend on the extension. The text: why the processes that they start do not either.
ANY_BUILD = {
    "app/paper/test_recognition.py": "",
    "app/test_report.py": "",
    "app/web": "the browser and its driver, which hold no part of the package",
    "baselines": "",
    "data": "",
    "faces": "",
    "ops/blocks": "",
    "ops/triton/test_convolution.py": "",
    "ops/triton/test_convolution_cost.py": "",
    "ops/triton/test_convolution_image.py": "",
    "ops/triton/test_compile.py": "it compiles Triton's kernels, for which there is one build",
    "ops/triton/test_indices.py": "",
    "ops/triton/test_convolution_compile.py": "it compiles Triton's kernels, for which there is one build",
    "reference": "",
    "release": "compilers, loaders and libraries made up for the test",
    "test_encoded_faces.py": "",
    "test_interpolation.py": "",
    "test_build.py": "it makes builds of its own",
    "test_metrics.py": "",
    "train/test_balance.py": "",
    "train/test_ema.py": "",
    "train/test_grids.py": "",
    "train/test_optimizer_state.py": "",
}

#: The folders of the second kind.
ABOVE_OPERATORS = ("app", "checkpoint", "distributed", "export", "train")

_FACTS = ("_NATIVE_CPU", "_BUILD_INFO", "_CUDA_TARGETS")
_PROCESSES = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system")
_STARTERS = {"subprocess", "multiprocessing"}

#: matplotlib lists the fonts; Triton looks for CUDA's library and compiles its kernels.
_TOOLS = {"fc-list", "file", "ldconfig", "gcc", "clang", "cc", "ptxas", "ptxas-blackwell"}

_processes_forbidden = False  # whether starting a process is forbidden now


def mark(items: Iterable[pytest.Function]) -> None:
    """Mark the tests of ``ANY_BUILD`` with ``any_build``, and those of ``ABOVE_OPERATORS`` with ``above_operators``. A
    test marked ``every_build`` loses the former mark instead."""
    for item in items:
        if item.get_closest_marker("every_build"):
            item.own_markers = [marker for marker in item.own_markers if marker.name != "any_build"]
            continue
        if _is_above_operators(item.path):
            item.add_marker("above_operators")
        why = _reason(item.path)
        if why is not None and (why or not _STARTERS & set(vars(item.module))):
            item.add_marker(pytest.mark.any_build(processes=why))


def runs_for_one_build(path: Path) -> bool:
    """Whether ``mark`` marks all tests of a file with ``any_build`` or ``above_operators``, as its text tells without
    an import of it."""
    why, above = _reason(path), _is_above_operators(path)
    if (why is None and not above) or path.suffix != ".py":
        return False
    text = path.read_text(encoding="utf-8")
    return "every_build" not in text and (above or bool(why) or not any(starter in text for starter in _STARTERS))


def _is_above_operators(path: Path) -> bool:
    return TESTS in path.parents and path.relative_to(TESTS).parts[0] in ABOVE_OPERATORS


def _reason(path: Path) -> str | None:
    """What ``ANY_BUILD`` says of a file or of a folder that it is in; None if it says nothing."""
    names = (place.relative_to(TESTS).as_posix() for place in (path, *path.parents) if TESTS in place.parents)
    return next((ANY_BUILD[name] for name in names if name in ANY_BUILD), None)


@contextlib.contextmanager
def hide_extension(*, processes: bool) -> Iterator[None]:
    """Inside the block it is an error to read whether the extension exists, and to call its operators.

    Args:
        processes: whether processes may be started.
    """
    global _processes_forbidden
    with pytest.MonkeyPatch.context() as patch:
        for name in _FACTS:
            patch.setattr(backend, name, Hidden())
        patch.setattr(torch.ops, backend.NATIVE, Hidden())
        _processes_forbidden = not processes
        try:
            yield
        finally:
            _processes_forbidden = False


class Hidden:
    """Replaces a fact about the extension: every access fails the test, even inside ``except Exception``."""

    def _fail_on_access(self, *_: Any, **__: Any) -> NoReturn:
        _fail("it reads a fact about the native extension")

    __eq__ = __ne__ = __hash__ = __bool__ = __str__ = __repr__ = __iter__ = __len__ = __getitem__ = _fail_on_access
    __contains__ = __getattr__ = _fail_on_access


def _fail(what: str) -> NoReturn:
    pytest.fail(f"{what}: a test that does so must run with and without it; mark it every_build (tests/builds.py)")


def _on_audit(event: str, arguments: Any) -> None:
    if _processes_forbidden and event in _PROCESSES and not _starts_tool(event, arguments):
        _fail("it starts a process, which may use the native extension")


def _starts_tool(event: str, arguments: Any) -> bool:
    """Whether a library starts one of its tools, as it does in whichever test needs it first."""
    # Popen may call os.posix_spawn, which is an event of its own.
    return event in ("subprocess.Popen", "os.posix_spawn") and Path(os.fspath(arguments[0])).name in _TOOLS


def _spawn(*arguments: Any) -> Any:
    if _processes_forbidden:
        _fail("multiprocessing starts a process, which may use the native extension")
    return _start(*arguments)


_start = multiprocessing.util.spawnv_passfds  # it raises no audit event
multiprocessing.util.spawnv_passfds = _spawn
sys.addaudithook(_on_audit)

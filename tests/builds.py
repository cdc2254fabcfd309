"""Which tests come out the same whether the native extension was built or not, so that ``.ci/run`` runs them once.

A test is taken to depend on it unless it is named here, or marked ``any_build``. What is said so is held to it: in such
a test whoever looks at a fact about the extension, calls an operator of it, or starts a process, whose looks nobody
sees, fails. A file that can start one, because it imports what does, is left out of what is named by folder.
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

__all__ = ["blindfold", "mark"]

TESTS = Path(__file__).resolve().parent

#: Files and folders; and why a process that they start cannot look either, where they start any.
ANY_BUILD = {
    "app/test_report.py": "",
    "baselines": "",
    "data": "",
    "ops/triton/test_compile.py": "it compiles Triton's kernels, for which there is one build",
    "reference": "",
    "release": "compilers, loaders and libraries made up for the test",
    "test_build.py": "it makes builds of its own",
    "test_metrics.py": "",
    "train/test_balance.py": "",
    "train/test_ema.py": "",
    "train/test_grids.py": "",
    "train/test_optimizer_state.py": "",
}

_FACTS = ("_NATIVE_CPU", "_BUILD_INFO", "_CUDA_TARGETS")
_PROCESSES = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system")
_STARTERS = {"subprocess", "multiprocessing"}
_watched = False  # whether a process must not be started now


def mark(items: Iterable[pytest.Function]) -> None:
    """Mark what is named above, unless it is marked ``every_build``, which also lifts a parameter's ``any_build``."""
    places = {TESTS / name: why for name, why in ANY_BUILD.items()}
    for item in items:
        if item.get_closest_marker("every_build"):
            item.own_markers = [marker for marker in item.own_markers if marker.name != "any_build"]
            continue
        place = next((place for place in (item.path, *item.path.parents) if place in places), None)
        if place and (places[place] or not _STARTERS & set(vars(item.module))):
            item.add_marker(pytest.mark.any_build(processes=places[place]))


@contextlib.contextmanager
def blindfold(*, processes: bool) -> Iterator[None]:
    """Until left, nobody here sees whether there is an extension; ``processes``: whether one may be started."""
    global _watched
    with pytest.MonkeyPatch.context() as patch:
        for name in _FACTS:
            patch.setattr(backend, name, Unseen())
        patch.setattr(torch.ops, backend.NATIVE, Unseen())
        _watched = not processes
        try:
            yield
        finally:
            _watched = False


class Unseen:
    """In place of a fact: every look fails the test, past any ``except Exception``."""

    def _look(self, *_: Any, **__: Any) -> NoReturn:
        _fail("it looks at a fact about the native extension")

    __eq__ = __ne__ = __hash__ = __bool__ = __str__ = __repr__ = __iter__ = __len__ = __getitem__ = _look
    __contains__ = __getattr__ = _look


def _fail(what: str) -> NoReturn:
    pytest.fail(f"{what}: a test that does so must run with and without it; mark it every_build (tests/builds.py)")


def _on_audit(event: str, arguments: Any) -> None:
    if _watched and event in _PROCESSES and not _lists_fonts(event, arguments):
        _fail("it starts a process, which may look at the native extension")


def _lists_fonts(event: str, arguments: Any) -> bool:
    """matplotlib asks for the machine's fonts where it has no list of them yet, in whichever test loads it first."""
    return event == "subprocess.Popen" and Path(os.fspath(arguments[0])).name == "fc-list"


def _spawn(*arguments: Any) -> Any:
    if _watched:
        _fail("multiprocessing starts a process, which may look at the native extension")
    return _start(*arguments)


_start = multiprocessing.util.spawnv_passfds  # which raises no event
multiprocessing.util.spawnv_passfds = _spawn
sys.addaudithook(_on_audit)

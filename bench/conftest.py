"""The ``compare`` fixture, the options, and the result file of a run."""

from __future__ import annotations

import datetime
import getpass
import json
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import core, table
from igan_fast.devices import keep_freed_memory

RESULTS: list[dict[str, Any]] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("igan_fast benchmarks")
    group.addoption("--quick", action="store_true", help="tiny inputs and few rounds: whether it runs, not how fast")
    group.addoption("--ours-only", action="store_true", help="time ours alone, for a comparison of two commits")
    group.addoption("--rounds", type=int, default=21, help="rounds of each comparison (default 21)")
    group.addoption("--bench-device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    group.addoption(
        "--memory",
        choices=["kept", "malloc"],
        default="kept",
        help="on a CPU: keep freed memory for the next allocation (default), or leave it to malloc",
    )
    group.addoption(
        "--launches",
        action="store_true",
        help="on a GPU: count kernel launches instead of measuring times, and add the counts to the results in the "
        "file (a separate run, because the profiler may slow down all that runs after it in the same process)",
    )
    group.addoption("--results", type=Path, help="the folder for MACHINE.json (default: no file is written)")


def pytest_configure(config: pytest.Config) -> None:
    if limit := os.environ.get("ATEN_CPU_CAPABILITY"):
        # torch.compile's cache does not know the limit. It would load code for other instructions, which may crash.
        own_cache = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}_{limit}"
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(own_cache))
    if config.getoption("--memory") == "kept":
        keep_freed_memory()
    if config.getoption("--quick"):
        torch.set_num_threads(1)  # more threads do not help tiny inputs, and on a busy machine they wait for each other


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """With ``--quick``, keep only as many cases of a benchmark as contain each value of each of its parameters."""
    if not config.getoption("--quick"):
        return
    seen: set[tuple[str, str, str]] = set()
    kept, left_out = [], []
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        new = {(item.nodeid.partition("[")[0], name, repr(value)) for name, value in parameters.items()} - seen
        (kept if new or not parameters else left_out).append(item)
        seen |= new
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


@pytest.fixture(autouse=True)
def tf32_is_off() -> Iterator[None]:
    """Switch TF32 off, which PyTorch's convolutions use on a GPU by default."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield
    for backend, value in zip(backends, before, strict=True):
        backend.allow_tf32 = value


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--bench-device"))


@pytest.fixture
def batches(request: pytest.FixtureRequest, device: torch.device) -> Callable[[int], int]:
    """A function from 0 (small) or 1 (large) to a batch size that suits the device."""
    sizes = (2, 2) if request.config.getoption("--quick") else (64, 256) if device.type == "cuda" else (16, 64)
    return lambda index: sizes[index]


@pytest.fixture
def compare(request: pytest.FixtureRequest, benchmark: Any, device: torch.device) -> Callable[..., None]:
    """compare(subject, peers, moved, flops=…, precision=…, memory_of=…, in_a_row=…): measure a comparison and store its
    result.

    ``subject`` describes the benchmark; its operator, batch, dtype and layout identify it in the result file. ``peers``
    maps names to implementations; one is called "ours". ``moved`` is the fewest bytes that each pass has to move. If
    ``moved`` is given, a large copy is timed in the same rounds as a ceiling. If ``flops`` is given, a large matrix
    product is timed. ``memory_of`` maps each peer that replays a CUDA graph to the peer that the graph recorded. Its
    peak memory is reported for both, because a replay itself allocates nothing. ``in_a_row`` is that of
    ``core.rounds_of``.

    Each round of pytest-benchmark first runs all peers, which ``core`` times, and then ours once more. So
    pytest-benchmark's own table holds only our times; ``extra_info`` and the result file hold the comparison.
    """
    config = request.config
    quick = config.getoption("--quick")
    rounds = 1 if quick else request.config.getoption("--rounds")

    def once(peer: core.Peer) -> None:
        core.run_once(peer)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def run(
        subject: dict[str, Any],
        peers: dict[str, core.Peer],
        moved: dict[str, int],
        *,
        flops: int = 0,
        precision: str = "fp32",
        memory_of: Mapping[str, str] | None = None,
        in_a_row: int = 1,
    ) -> None:
        if config.getoption("--launches"):
            if device.type != "cuda":
                pytest.skip("a CPU launches no kernels")
            keep({**subject, "launches": {name: core.launches(peer) for name, peer in peers.items()}}, config)
            return
        if config.getoption("--ours-only"):
            benchmark.pedantic(once, (peers["ours"],), warmup_rounds=1 if quick else 3, rounds=rounds, iterations=1)
            return
        large = 1 << 22 if quick else 1 << 30 if device.type == "cuda" else 1 << 29
        side = 256 if quick else 8192 if device.type == "cuda" else 2048
        everyone = dict(peers)
        if moved:
            everyone[core.COPY] = core.copy_peer(device, large)
        if flops:
            everyone[core.PRODUCT] = core.product_peer(device, side, precision)
        warm_up = core.rounds_of(everyone, device, in_a_row)
        for _ in range(1 if quick else 3):
            warm_up()
        one_round = core.rounds_of(everyone, device, in_a_row)

        def setup() -> None:
            one_round()

        benchmark.pedantic(once, (peers["ours"],), setup=setup, rounds=rounds, iterations=1)
        times = one_round().summary()
        result = {
            **subject,
            "date": datetime.date.today().isoformat(),
            "commit": commit(),
            "rounds": rounds + 1,
            "in_a_row": in_a_row,
            "times": {name: value for name, value in times.items() if name not in (core.COPY, core.PRODUCT)},
            "peak_bytes": {name: core.peak_bytes(peer, device) for name, peer in peers.items()},
        }
        for name, recorded in (memory_of or {}).items():
            result["peak_bytes"][name] = result["peak_bytes"][recorded]
        if moved:
            ceiling = large / (times[core.COPY]["forward"]["median_ms"] / 1e3)
            result |= {
                "copy_gb_per_s": ceiling / 1e9,
                "bytes": moved,
                "share_of_copy": {
                    name: count / (times["ours"][name]["median_ms"] / 1e3) / ceiling for name, count in moved.items()
                },
            }
        if flops:
            ceiling = 2 * side**3 / (times[core.PRODUCT]["forward"]["median_ms"] / 1e3)
            result |= {
                "flops": flops,
                "product_gflop_per_s": ceiling / 1e9,
                "share_of_product": flops / (times["ours"]["both"]["median_ms"] / 1e3) / ceiling,
            }
        benchmark.extra_info.update(result)
        keep(result, config)

    return run


def keep(result: dict[str, Any], config: pytest.Config) -> None:
    """Add a result to this session's and write it to the file at once: the session may be stopped at any time."""
    RESULTS.append(result)
    path = results_file(config)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The file keeps the results of benchmarks that this session does not run.
        old = core.read_results(path)
        core.write_results(
            path, {**old, "machine": machine_of(config), "results": merged(old.get("results", []), [result])}
        )


def results_file(config: pytest.Config) -> Path | None:
    """The result file of this session; None without ``--results``."""
    folder = config.getoption("--results")
    return None if folder is None else folder / f"{machine_of(config)['name']}.json"


def machine_of(config: pytest.Config) -> dict[str, Any]:
    """``describe_machine``, with the options that change what is measured as part of the machine's name."""
    described = describe_machine(torch.device(config.getoption("--bench-device")))
    described["memory"] = config.getoption("--memory")
    if described["memory"] != "kept":
        described["name"] += f"-{described['memory']}"
    if config.getoption("--quick"):
        described["name"] += "-quick"  # such times are meaningless, so they go to a separate file
    return described


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not RESULTS:
        return
    path = results_file(session.config)
    if path is not None:
        print(f"\nwritten: {path}")
    if session.config.getoption("--launches"):
        for result in RESULTS:
            print(f"{result['operator']}, {result['layout']} {result['dtype']}: {result['launches']}")
    else:
        results = RESULTS if path is None else json.loads(path.read_text(encoding="utf-8"))["results"]
        print("\n" + table.render([{"machine": machine_of(session.config), "results": results}]))


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Replace the old results of each subject that has new ones. The order is by subject.

    A new result without times (the counts of ``--launches``) is added to its subject's old result, or dropped if there
    is none.
    """

    def subject(result: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(result[key] for key in ("operator", "batch", "dtype", "layout"))

    kept = {subject(result): result for result in old}
    for result in new:
        key = subject(result)
        if "times" in result:
            kept[key] = result
        elif key in kept:
            kept[key] = kept[key] | result
    return [kept[key] for key in sorted(kept)]


def describe_machine(device: torch.device) -> dict[str, Any]:
    """The hardware, the versions and the commit that the times depend on. ``name`` is usable as a file name."""
    if device.type == "cuda":
        hardware, cores = torch.cuda.get_device_name(device), 0
    else:
        cores = torch.get_num_threads()
        hardware = f"{cpu_name()} ({torch.backends.cpu.get_cpu_capability()}), {cores} threads"
    return {
        "name": re.sub(r"[^a-z0-9]+", "-", hardware.lower()).strip("-"),
        "hardware": hardware,
        "threads": cores,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit() -> str:
    """The short hash of the commit, with a "+" if files were changed since."""
    try:
        command = ["git", "describe", "--always", "--dirty=+"]
        here = Path(__file__).parent
        return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("IGAN_FAST_COMMIT", "unknown")

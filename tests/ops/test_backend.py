"""Which implementation is chosen, the reasons given for the others, and the report."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
import time

import pytest
import torch
from preloaded import run_preloaded
from torch.autograd import forward_ad

from igan_fast import ops
from igan_fast.ops import backend, cuda_targets
from igan_fast.reference import ops as reference

CPU = torch.device("cpu")
FLOAT = (torch.float32,)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python process of its own, without this process's settings."""
    settings = ("IGAN_FAST_IMPL", "IGAN_FAST_CPU_ISA", "TRITON_INTERPRET", "ATEN_CPU_CAPABILITY")
    kept = {k: v for k, v in os.environ.items() if k not in settings}
    return run_preloaded(code, environment=kept | environment)


@pytest.fixture
def native_missing(monkeypatch):
    monkeypatch.setattr(backend, "_NATIVE_CPU", "the extension was not built: no C++ compiler was found")


def test_every_backend_has_a_status():
    found = ops.backends()
    assert list(found) == ["native-cpu", "native-cuda", "triton", "reference"]
    assert found["reference"] == "available"
    assert all(isinstance(status, str) and status for status in found.values())


def test_auto_prefers_native_and_falls_back(native_missing):
    assert backend.namespace("auto", CPU, FLOAT) is None
    assert backend.namespace("reference", CPU, FLOAT) is None
    x = torch.randn(3, 4)
    assert torch.equal(ops.norm_act(x, None, None), reference.norm_act(x, None, None))
    assert torch.equal(ops.feature_l1([x], [x * 2]), reference.feature_l1([x], [x * 2]))


@pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])
def test_auto_takes_the_extension():
    assert backend.namespace("auto", CPU, FLOAT) == "igan_fast"
    assert backend.namespace("native", CPU, (torch.bfloat16, torch.float64)) == "igan_fast"


def test_other_devices_and_dtypes_go_to_the_reference():
    assert backend.namespace("auto", torch.device("meta"), FLOAT) is None
    assert backend.namespace("auto", CPU, (torch.int64,)) is None
    assert backend.namespace("auto", CPU, (torch.complex64,)) is None


def test_an_explicit_choice_that_cannot_run_says_why(native_missing):
    with pytest.raises(RuntimeError, match=r"impl='native' cannot run on cpu: .* no C\+\+ compiler"):
        ops.norm_act(torch.randn(3, 4), None, None, impl="native")
    with pytest.raises(RuntimeError, match="impl='native' cannot run on meta: there are no native kernels for meta"):
        backend.namespace("native", torch.device("meta"), FLOAT)
    with pytest.raises(RuntimeError, match=r"impl='native' cannot run torch.int32; expected float16"):
        backend.namespace("native", CPU, (torch.int32,))


def test_triton_on_a_cpu_needs_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="set TRITON_INTERPRET=1"):
        backend.namespace("triton", CPU, FLOAT)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="impl is 'cuda'; expected one of auto, native, triton, reference"):
        ops.feature_l1([torch.ones(1)], [torch.ones(1)], impl="cuda")


def test_the_environment_variable_sets_what_auto_means():
    code = "import torch; from igan_fast.ops import backend; print(backend.namespace('auto', torch.device('cpu'), ()))"
    assert run(code, IGAN_FAST_IMPL="reference").stdout.strip() == "None"
    wrong = run(code, IGAN_FAST_IMPL="fastest")
    assert wrong.returncode != 0
    assert "the environment variable IGAN_FAST_IMPL is 'fastest'; expected one of auto, native" in wrong.stderr
    assert run("import igan_fast, igan_fast.ops", IGAN_FAST_IMPL="fastest").returncode == 0


def test_an_extension_that_does_not_load_is_a_reason_not_a_crash(monkeypatch):
    real = importlib.import_module

    def broken(name, *rest):
        if name == "igan_fast._C":
            raise ImportError("undefined symbol: _ZN5torch")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", broken)
    reason, info = backend._load_native()
    assert info == {}
    assert "undefined symbol" in reason or "not built" in reason or "left out" in reason


def test_the_note_of_a_failed_build_is_the_reason(monkeypatch, tmp_path):
    def missing(name, *_):
        raise ImportError(f"No module named {name!r}")

    (tmp_path / "ops").mkdir()
    (tmp_path / "_build_failure.txt").write_text("the extension was not built: the disk was full\n", encoding="utf-8")
    monkeypatch.setattr(backend, "__file__", str(tmp_path / "ops" / "backend.py"))
    monkeypatch.setattr(importlib, "import_module", missing)
    assert backend._load_native() == ("the extension was not built: the disk was full", {})
    (tmp_path / "_build_failure.txt").unlink()
    assert backend._load_native() == ("the extension was not built", {})
    (tmp_path / "_C.cpython-311-x86_64-linux-gnu.so").touch()
    assert backend._load_native()[0].startswith(
        "the extension does not load (No module named 'igan_fast._C'); build it"
    )


@pytest.mark.parametrize(
    ("targets", "capability", "covered"),
    [
        ("sm_80 sm_90a sm_90 compute_90", (8, 0), True),
        ("sm_80 sm_90a sm_90 compute_90", (8, 9), True),
        ("sm_80 sm_90a sm_90 compute_90", (9, 0), True),
        ("sm_80 sm_90a sm_90 compute_90", (12, 0), True),
        ("sm_80 sm_90a sm_90 compute_90", (7, 5), False),
        ("sm_90a", (9, 0), True),
        ("sm_90a", (10, 0), False),
        ("sm_86", (8, 0), False),
        ("sm_100a compute_120", (10, 0), True),
        ("", (9, 0), False),
    ],
)
def test_which_devices_the_cuda_targets_cover(targets, capability, covered):
    assert cuda_targets.covers(cuda_targets.parse_targets(targets), capability) is covered


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("triton", [False, True])
def test_a_gpu_runs_large_tensors_in_triton(monkeypatch, native, triton):
    device, there = torch.device("cuda"), {True: backend.AVAILABLE, False: "it is not there"}
    monkeypatch.setattr(backend, "_DEFAULT", "auto")
    monkeypatch.setattr(backend, "_native_cuda_reason", lambda device=None: there[native])
    monkeypatch.setattr(backend, "_triton_reason_for", lambda device: there[triton])
    small, large = (
        torch.empty(1024, count, device="meta") for count in (backend.LARGE // 1024 - 1, backend.LARGE // 1024)
    )
    found = [backend._best(device, tensors) for tensors in ((), (small, None), (large, None), (small, large))]
    if native and triton:
        assert found == [backend.NATIVE, backend.NATIVE, backend.TRITON, backend.TRITON]
        assert backend.chosen(device) == "triton, native for small tensors"
    else:
        assert found == [backend.NATIVE if native else backend.TRITON if triton else None] * 4
        assert backend.chosen(device) == ("native" if native else "triton" if triton else "reference")


def test_a_device_is_asked_once(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None: asked.append(index) or (9, 0))
    monkeypatch.setattr(backend, "_capabilities", {})
    assert [backend._capability(index) for index in (1, 1, 0, 1)] == [(9, 0)] * 4
    assert asked == [1, 0]
    assert [backend._capability(None) for _ in range(2)] == [(9, 0)] * 2  # which device is current may change
    assert asked == [1, 0, None, None]


@pytest.mark.parametrize("missing", [False, True])
def test_threads_that_ask_for_triton_at_once(monkeypatch, missing):
    """Triton's operators are registered once, and all of them before any thread uses one."""
    registered, found = [], []

    def register(namespace: str) -> None:
        time.sleep(0.05)
        registered.append(namespace)

    def imported(name: str) -> None:
        if missing:
            raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", imported)
    monkeypatch.setattr(backend, "_loaded", [])
    monkeypatch.setattr(backend, "_registrations", [register, register])
    monkeypatch.setattr(backend, "_triton_failure", "")

    def ask() -> None:
        loads = backend._triton_can_load()
        found.append((loads, len(registered)))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(False, 0) if missing else (True, 2)] * 4


def test_forward_mode_is_refused_where_an_implementation_is_named():
    x = torch.randn(3, 4)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="impl='native' has no forward-mode derivatives"):
        ops.norm_act(forward_ad.make_dual(x, x), None, None, impl="native")


def test_report():
    finished = subprocess.run([sys.executable, "-m", "igan_fast.ops"], capture_output=True, text=True, check=True)
    for line in (
        "native-cpu",
        "native-cuda",
        "triton",
        "reference",
        "auto on cpu",
        "IGAN_FAST_IMPL",
        "IGAN_FAST_CPU_ISA",
        "IGAN_FAST_CONVOLUTION",
    ):
        assert line in finished.stdout


@pytest.mark.skipif(ops.backends()["native-cpu"] != "available", reason=ops.backends()["native-cpu"])
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same(isa):
    """Each runs in its own process, because a process chooses once. A CPU that lacks an instruction set takes
    the best one that it has, which PyTorch names."""
    code = """
import torch
from igan_fast import ops
from igan_fast.ops import backend
from igan_fast.reference import ops as reference
torch.manual_seed(0)
for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    for shape in ((4, 17, 9, 7), (3, 64, 8, 8), (5, 3), (2, 6, 1, 3)):
        for format in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(shape, dtype=dtype)
            x = (x.to(memory_format=format) if x.dim() == 4 else x).requires_grad_()
            target = torch.randn(shape, dtype=dtype)
            results = []
            for module in (ops, reference):
                loss = module.feature_l1([x, x * 2], [target, x.detach()])
                y = module.norm_act(x, None, None)
                results.append([loss, y])
                if dtype.itemsize > 2:  # test_norm_act.py compares those of half types
                    results[-1] += torch.autograd.grad(loss + (y * target).sum(), x)
            for a, e in zip(*results):
                scale = e.abs().max().clamp_min(1e-3)
                assert ((a - e).abs().max() / scale).item() < (2e-5 if dtype.itemsize > 2 else 1e-2), (dtype, shape)
print(backend.build_info()["cpu_instruction_set_used"], torch.backends.cpu.get_cpu_capability())
"""
    finished = run(code, IGAN_FAST_CPU_ISA=isa)
    assert finished.returncode == 0, finished.stderr
    used, has = finished.stdout.split()
    best = {"AVX2": "avx2", "AVX512": "avx512"}.get(has, "baseline")
    assert used == min(isa, best, key=("baseline", "avx2", "avx512").index)

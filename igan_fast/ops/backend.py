"""Which implementation runs, and why another one does not.

``igan_fast._C`` (the native kernels) and Triton are both optional. Whatever is missing is missing for a reason, which
is kept here and shown by ``backends()`` and by ``igan-fast doctor``."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from igan_fast.ops.transforms import forward_mode, transformed

__all__ = [
    "AVAILABLE",
    "IMPLEMENTATIONS",
    "NATIVE",
    "TRITON",
    "backends",
    "build_info",
    "chosen",
    "forward_mode",
    "has_native_cpu",
    "has_triton",
    "namespace",
    "on_load",
    "plain_only",
    "switched_off",
]

IMPLEMENTATIONS = ("auto", "native", "triton", "reference")
NATIVE, TRITON = "igan_fast", "igan_fast_triton"  # the dispatcher's namespaces
AVAILABLE = "available"

_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})

#: What "auto" stands for. Checked when it is first used: a bad value must not stop the package from being imported.
_DEFAULT = os.environ.get("IGAN_FAST_IMPL") or "auto"

_registrations: list[Callable[[str], None]] = []
_loaded: list[str] = []


def on_load(register: Callable[[str], None]) -> None:
    """Have ``register(namespace)`` called once for each namespace of operators that is loaded, now or later."""
    _registrations.append(register)
    for loaded in _loaded:
        register(loaded)


def backends() -> dict[str, str]:
    """For "native-cpu", "native-cuda", "triton" and "reference": "available", or the reason why not."""
    return {
        "native-cpu": _NATIVE_CPU,
        "native-cuda": _native_cuda_reason(),
        "triton": _triton_reason(),
        "reference": AVAILABLE,
    }


def build_info() -> dict[str, str]:
    """How the native extension was built (compiler, flags, CUDA targets, …); empty where it is missing."""
    return dict(_BUILD_INFO)


def namespace(
    impl: str, device: torch.device, dtypes: Iterable[torch.dtype], tensors: Iterable[Tensor | None] = ()
) -> str | None:
    """The dispatcher's namespace whose operators take such tensors, or None for the reference.

    Args:
        tensors: those that are there already, which may be others than such in memory: see ``plain_only``.

    Raises:
        ValueError: an unknown ``impl``.
        RuntimeError: ``impl`` insists on an implementation that cannot run such tensors, or not here.
    """
    if impl == "auto":
        impl = _DEFAULT
    if impl not in IMPLEMENTATIONS:
        source = "the environment variable IGAN_FAST_IMPL" if impl == _DEFAULT else "impl"
        raise ValueError(f"{source} is {impl!r}; expected one of {', '.join(IMPLEMENTATIONS)}")
    if impl == "reference":
        return None
    unsupported = [dtype for dtype in dtypes if dtype not in _DTYPES]
    if impl == "auto":
        return None if unsupported or transformed(*tensors) else _best(device)
    if unsupported:
        raise RuntimeError(f"impl={impl!r} cannot run {unsupported[0]}; expected float16, bfloat16, float32 or float64")
    if forward_mode():  # the dispatcher would drop the tangents without a word
        raise RuntimeError(
            f"impl={impl!r} has no forward-mode derivatives (dual_level, torch.func.jvp); use 'reference'"
        )
    if transformed(*tensors):
        raise RuntimeError(
            f"impl={impl!r} takes ordinary tensors, outside of torch.func, batched gradients, tracing, export and "
            "dispatch modes; use 'reference'"
        )
    reason = _native_reason(device) if impl == "native" else _triton_reason_for(device)
    if reason != AVAILABLE:
        raise RuntimeError(f"impl={impl!r} cannot run on {device}: {reason}")
    return NATIVE if impl == "native" else TRITON


def plain_only(*tensors: Tensor | None) -> bool:
    """Whether these tensors are for PyTorch's own functions, here and now: under a function transform, tracing and
    export, where one of them is not an ordinary tensor, and where IGAN_FAST_IMPL is "reference"."""
    return switched_off() or transformed(*tensors)


def switched_off() -> bool:
    """Whether IGAN_FAST_IMPL is "reference": then everything is the reference's, bit for bit."""
    return _DEFAULT == "reference"


def chosen(device: torch.device) -> str:
    """In words, what "auto" takes on a device: "native (avx2)", "native", "triton" or "reference".

    Raises:
        ValueError, RuntimeError: as ``namespace``: what IGAN_FAST_IMPL names is unknown, or cannot run there.
    """
    name = {NATIVE: "native", TRITON: "triton", None: "reference"}[namespace("auto", device, ())]
    if name == "native" and device.type == "cpu":
        return f"native ({_BUILD_INFO['cpu_instruction_set_used']})"
    return name


def has_native_cpu() -> bool:
    """Whether the extension is there; unlike ``backends`` without a look at what else there may be."""
    return _NATIVE_CPU == AVAILABLE


def has_triton(device: torch.device) -> bool:
    """Whether Triton's kernels are what a GPU's tensors are to run on where there are no native ones."""
    return not switched_off() and device.type == "cuda" and _triton_reason_for(device) == AVAILABLE


def _best(device: torch.device) -> str | None:
    if device.type == "cpu":
        return NATIVE if _NATIVE_CPU == AVAILABLE else None
    if device.type == "cuda":
        if _native_reason(device) == AVAILABLE:
            return NATIVE
        if _triton_reason_for(device) == AVAILABLE:
            return TRITON
    return None


def _native_reason(device: torch.device) -> str:
    if device.type == "cpu":
        return _NATIVE_CPU
    if device.type == "cuda":
        return _native_cuda_reason(device)
    return f"there are no native kernels for {device.type}"


def _native_cuda_reason(device: torch.device | None = None) -> str:
    if _NATIVE_CPU != AVAILABLE:
        return _NATIVE_CPU
    if not _CUDA_TARGETS:
        return "the extension was built without CUDA (igan-fast doctor tells more)"
    capability = _capability(None if device is None else device.index)
    if capability is None:
        return "there is no CUDA device"
    if not _covers(capability):
        name = f"sm_{capability[0]}{capability[1]}"
        return f"the extension was built for {_BUILD_INFO['cuda_targets']}, and this device is {name}"
    return AVAILABLE


_capabilities: dict[int, tuple[int, int]] = {}


def _capability(index: int | None) -> tuple[int, int] | None:
    """Of a device, the current one where ``index`` is None; None where there is none. Asked by every operator's call,
    so that a device's is kept: to ask PyTorch takes longer than all the rest of the choice."""
    if index in _capabilities:
        return _capabilities[index]
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_capability(index)
    if index is not None:
        _capabilities[index] = found
    return found


# What ``torch.compiler.assume_constant_result`` does; see ``_triton_can_load``.
_capability._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _covers(capability: tuple[int, int]) -> bool:
    """Whether a kernel was compiled for a device: for its major version and at most its minor one, exactly for it where
    the target ends in "a", or as PTX for it or an older one."""
    major, minor = capability
    for target_major, target_minor, suffix in _CUDA_TARGETS:
        if suffix == "ptx" and (target_major, target_minor) <= capability:
            return True
        if suffix == "a" and (target_major, target_minor) == capability:
            return True
        if not suffix and target_major == major and target_minor <= minor:
            return True
    return False


def _parse_targets(targets: str) -> tuple[tuple[int, int, str], ...]:
    """ "sm_80 sm_90a compute_90" → ((8, 0, ""), (9, 0, "a"), (9, 0, "ptx"))."""
    parsed = []
    for target in targets.split():
        kind, _, version = target.partition("_")
        digits = version.rstrip("af")
        suffix = "ptx" if kind == "compute" else version[len(digits) :]
        parsed.append((int(digits[:-1]), int(digits[-1]), suffix))
    return tuple(parsed)


def _triton_reason() -> str:
    if TRITON in _loaded or _triton_can_load():
        return AVAILABLE if _interpreted() or torch.cuda.is_available() else "there is no CUDA device"
    return _triton_failure


def _triton_reason_for(device: torch.device) -> str:
    if device.type != "cuda" and not (device.type == "cpu" and _interpreted()):
        hint = " (on a CPU only in Triton's interpreter: set TRITON_INTERPRET=1)" if device.type == "cpu" else ""
        return f"Triton's kernels run on CUDA devices{hint}"
    return AVAILABLE if _triton_can_load() else _triton_failure


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


_triton_failure = "it has not been tried"
_loading = threading.Lock()  # nn.DataParallel's threads, for one, all come here first at once


def _triton_can_load() -> bool:
    """Load Triton's operators where they are not loaded yet; False and a reason where that fails."""
    global _triton_failure
    with _loading:
        if TRITON in _loaded:
            return True
        try:
            importlib.import_module("triton")
        except Exception as error:  # a broken installation of it raises other things than ImportError too
            _triton_failure = f"Triton cannot be imported ({error})"
            return False
        for name in ("feature_l1", "norm_act", "gather_images"):
            importlib.import_module(f"igan_fast.ops.triton.{name}")
        _announce(TRITON)
        return True


# A function that is compiled may be the first to ask. What ``torch.compiler.assume_constant_result`` does, without the
# second that importing the compiler takes: it calls the function, instead of looking into it, and keeps the answer.
_triton_can_load._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _announce(loaded: str) -> None:
    _loaded.append(loaded)
    for register in _registrations:
        register(loaded)


def _load_native() -> tuple[str, dict[str, str]]:
    """AVAILABLE and how the extension was built, or the reason why it is missing."""
    try:
        extension = importlib.import_module("igan_fast._C")
        info = dict(extension.build_info())
    except Exception as error:  # most often ImportError; whatever it is must not stop the package from being imported
        package = Path(__file__).resolve().parents[1]
        if any(package.glob("_C.*.so")) or any(package.glob("_C.*.pyd")):
            return f"the extension does not load ({error}); build it again for torch {torch.__version__}", {}
        note = package / "_build_failure.txt"
        if note.is_file():
            return note.read_text(encoding="utf-8").strip(), {}
        return "the extension was not built", {}
    return AVAILABLE, info


_NATIVE_CPU, _BUILD_INFO = _load_native()
_CUDA_TARGETS = _parse_targets(_BUILD_INFO.get("cuda_targets", ""))
if _NATIVE_CPU == AVAILABLE:
    _announce(NATIVE)

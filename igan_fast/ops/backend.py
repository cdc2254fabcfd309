"""The choice of the implementation, and the reasons why others cannot run.

The native extension (``igan_fast._C``) and Triton are optional. If one is missing, ``backends()`` and ``igan-fast
doctor`` show the reason.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from igan_fast.ops.cuda_targets import covers, parse_targets
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

#: From this number of elements on, "auto" takes Triton's kernels on a GPU: measured, they are faster there. For smaller
#: tensors the native ones are, because their launches take half of the time (docs/pages/gpu.md).
LARGE = 1 << 23

#: The implementation that "auto" names. It is checked at the first use, so that a wrong value does not break imports.
_DEFAULT = os.environ.get("IGAN_FAST_IMPL") or "auto"

_registrations: list[Callable[[str], None]] = []
_loaded: list[str] = []


def on_load(register: Callable[[str], None]) -> None:
    """Call ``register(namespace)`` once for each namespace of operators that is loaded, now or later.

    ``register`` registers what PyTorch needs besides kernels: the output shapes (fake implementations) and gradients.
    """
    _registrations.append(register)
    for loaded in _loaded:
        register(loaded)


def backends() -> dict[str, str]:
    """The status of "native-cpu", "native-cuda", "triton" and "reference": "available", or why it is not."""
    return {
        "native-cpu": _NATIVE_CPU,
        "native-cuda": _native_cuda_reason(),
        "triton": _triton_reason(),
        "reference": AVAILABLE,
    }


def build_info() -> dict[str, str]:
    """The facts about the build of the native extension: compiler, flags, CUDA targets and so on. Empty without it."""
    return dict(_BUILD_INFO)


def namespace(
    impl: str, device: torch.device, dtypes: Iterable[torch.dtype], tensors: Iterable[Tensor | None] = ()
) -> str | None:
    """The dispatcher's namespace whose operators run tensors of this device and these dtypes; None for the reference.

    Args:
        impl: "auto", "native", "triton" or "reference".
        tensors: the arguments of the call. Some tensors need PyTorch's own functions: see ``plain_only``.

    Raises:
        ValueError: an unknown ``impl``.
        RuntimeError: ``impl`` names an implementation that cannot run these tensors.
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
        return None if unsupported or transformed(*tensors) else _best(device, tensors)
    if unsupported:
        raise RuntimeError(f"impl={impl!r} cannot run {unsupported[0]}; expected float16, bfloat16, float32 or float64")
    if forward_mode():  # the dispatcher would drop the tangents silently
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
    """Whether PyTorch's own functions have to compute the result: under a function transform, tracing, export or a
    dispatch mode, if a tensor is not an ordinary one, and if IGAN_FAST_IMPL is "reference"."""
    return switched_off() or transformed(*tensors)


def switched_off() -> bool:
    """Whether IGAN_FAST_IMPL is "reference": then every result is the reference's, bit for bit."""
    return _DEFAULT == "reference"


def chosen(device: torch.device) -> str:
    """The implementations that "auto" chooses from on a device: "native (avx2)", "triton, native for small tensors" …

    Raises:
        ValueError: IGAN_FAST_IMPL names no implementation.
        RuntimeError: IGAN_FAST_IMPL names an implementation that cannot run on the device.
    """
    name = {NATIVE: "native", TRITON: "triton", None: "reference"}[namespace("auto", device, ())]
    if name == "native" and device.type == "cpu":
        return f"native ({_BUILD_INFO['cpu_instruction_set_used']})"
    if name == "native" and _DEFAULT == "auto" and _triton_reason_for(device) == AVAILABLE:
        return "triton, native for small tensors"
    return name


def has_native_cpu() -> bool:
    """Whether the native extension is loaded. Unlike ``backends``, this does not try to load Triton."""
    return _NATIVE_CPU == AVAILABLE


def has_triton(device: torch.device) -> bool:
    """Whether an operator without native kernels runs in Triton on this device by default."""
    return not switched_off() and device.type == "cuda" and _triton_reason_for(device) == AVAILABLE


def _best(device: torch.device, tensors: Iterable[Tensor | None]) -> str | None:
    if device.type == "cpu":
        return NATIVE if _NATIVE_CPU == AVAILABLE else None
    if device.type == "cuda":
        native = _native_reason(device) == AVAILABLE
        if native and not _are_large(tensors):
            return NATIVE
        if _triton_reason_for(device) == AVAILABLE:
            return TRITON
        if native:
            return NATIVE
    return None


def _are_large(tensors: Iterable[Tensor | None]) -> bool:
    """Whether the tensors have ``LARGE`` elements. False under a compiler, which would compile anew for other sizes."""
    if torch.compiler.is_compiling():
        return False
    return sum(tensor.numel() for tensor in tensors if tensor is not None) >= LARGE


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
    if not covers(_CUDA_TARGETS, capability):
        name = f"sm_{capability[0]}{capability[1]}"
        return f"the extension was built for {_BUILD_INFO['cuda_targets']}, and this device is {name}"
    return AVAILABLE


_capabilities: dict[int, tuple[int, int]] = {}


def _capability(index: int | None) -> tuple[int, int] | None:
    """The compute capability of a device (the current one if ``index`` is None). None if there is no CUDA device.

    It is cached, because every operator call needs it, and PyTorch's function takes longer than the rest of the choice.
    """
    if index in _capabilities:
        return _capabilities[index]
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_capability(index)
    if index is not None:
        _capabilities[index] = found
    return found


# ``torch.compiler.assume_constant_result`` sets this too; see ``_triton_can_load``.
_capability._dynamo_marked_constant = True  # type: ignore[attr-defined]


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
_loading = threading.Lock()  # several threads may try to load Triton at the same time, as in nn.DataParallel


def _triton_can_load() -> bool:
    """Load Triton's operators, and return whether they are loaded. If not, ``_triton_failure`` is the reason."""
    global _triton_failure
    with _loading:
        if TRITON in _loaded:
            return True
        try:
            importlib.import_module("triton")
        except Exception as error:  # a broken installation does not always raise ImportError
            _triton_failure = f"Triton cannot be imported ({error})"
            return False
        importlib.import_module("igan_fast.ops.triton")
        _announce(TRITON)
        return True


# ``torch.compiler.assume_constant_result`` sets this too, but imports the compiler, which takes a second. Dynamo calls
# the function instead of tracing into it, and keeps its result. A compiled function may be the first caller.
_triton_can_load._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _announce(loaded: str) -> None:
    _loaded.append(loaded)
    for register in _registrations:
        register(loaded)


def _load_native() -> tuple[str, dict[str, str]]:
    """Return AVAILABLE and how the extension was built, or the reason why it is missing and an empty dictionary."""
    try:
        extension = importlib.import_module("igan_fast._C")
        info = dict(extension.build_info())
    except Exception as error:  # no error of any kind may keep the package from being imported
        package = Path(__file__).resolve().parents[1]
        if any(package.glob("_C.*.so")) or any(package.glob("_C.*.pyd")):
            return f"the extension does not load ({error}); build it again for torch {torch.__version__}", {}
        note = package / "_build_failure.txt"
        if note.is_file():
            return note.read_text(encoding="utf-8").strip(), {}
        return "the extension was not built", {}
    return AVAILABLE, info


_NATIVE_CPU, _BUILD_INFO = _load_native()
_CUDA_TARGETS = parse_targets(_BUILD_INFO.get("cuda_targets", ""))
if _NATIVE_CPU == AVAILABLE:
    _announce(NATIVE)

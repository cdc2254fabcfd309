"""The rewriting of a model: what can be fused, what must be left alone, and why."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import nn

from igan_fast.fusion.flow import Flow, Tree
from igan_fast.fusion.modules import ACTIVATIONS, CONVOLUTIONS, NORMS, install, restored
from igan_fast.fusion.report import Entry, FusionReport
from igan_fast.fusion.run import Place, Run, slope_of
from igan_fast.ops import backend, winograd_conv

__all__ = ["fuse", "unfuse"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LINEAR = (nn.Linear, nn.Bilinear)


def fuse(model: nn.Module) -> FusionReport:
    """Put a network's normalisations, with the convolutions before and the (Leaky)ReLUs behind them, on the fused
    operators: in place, and with the same results.

    Covered are runs of a convolution or transposed convolution (1-D to 3-D, any stride, padding, dilation and groups,
    with or without bias), ``nn.BatchNorm1d/2d/3d`` or ``nn.InstanceNorm1d/2d/3d`` (affine or not, with or without
    running statistics), and ``nn.ReLU``, ``nn.LeakyReLU`` or nothing. A normalisation without a convolution before it,
    as behind an ``nn.Linear``, is fused with its activation; so is a convolution without a normalisation, where there
    are kernels of ours for it on a CPU. Runs are found in ``nn.Sequential``, and wherever a ``forward`` calls a module
    on another's result: by ``torch.fx`` along every path where that can follow, from the source otherwise. Where
    a path depends on plain attributes of the module (``if self.downsample``), a run is fused for as long as these are
    what they were. Where it depends on anything else that is not given to ``forward`` (a global, a random number,
    whether gradients are on, a list), only what the source calls one directly on the other's result is fused.

    Every parameter and buffer stays the same tensor under the same name: optimisers made before go on, ``state_dict``
    is as it was. Modules keep their identity, and stay instances of their classes; an activation alone is replaced by
    a copy. Whatever is not certain is left alone: modules that are shared or have hooks, or whose results are seen by
    others too; that are parametrised (spectral norm, weight norm), synchronised, subclassed or not initialised yet; or
    wrapped (``DataParallel``, ``DistributedDataParallel``, FSDP, ``torch.compile``: fuse before you wrap). A hook that
    is registered later sees what it would have seen; code outside of the model that calls parts of it one by one
    (``net.main[0](x)``) does not: the first of a run gives the whole run's result. ``copy.deepcopy``, ``torch.save``,
    ``nn.DataParallel`` and ``torch.compile`` take a fused model; for TorchScript, ONNX and ``torch.func``'s transforms
    call ``unfuse`` first.

    The gradient of a convolution's bias before a normalisation by the batch's own statistics is exactly 0, where
    PyTorch's is rounding noise. On a CPU in float32, convolutions that our kernels take are computed by minimal
    filtering (Winograd): an error of about 2e-6 of the largest value at most, where PyTorch's is about 3e-7, and a NaN
    or Inf spreads as far as its tile. The environment variable ``IGAN_FAST_IMPL=reference`` turns all of this off.

    Args:
        model: any module, in any mode, on any device, of float16, bfloat16, float32 or float64.

    Returns:
        What was fused and what was left alone, and why. It prints as a table.

    Raises:
        TypeError: ``model`` is not an ``nn.Module``.
    """
    unfuse(model)
    tree = Tree(model)
    flow = Flow(tree)
    wrapped = _wrapped(model)
    runs: list[Run] = []
    entries: dict[int, Entry] = {}  # by the id of the module that they begin with
    covered: set[tuple[int, str]] = set()  # activations, by place
    joined: set[int] = set()  # convolutions

    def add(run: Run, entry: Entry, first: nn.Module) -> None:
        runs.append(run)
        entries[id(first)] = entry
        joined.add(id(run.conv))
        covered.update(act.key for act in run.acts)

    for norm in filter(_is_norm, tree.modules):
        refusal = wrapped.get(id(norm)) or _norm_refusal(norm, tree)
        place = tree.place(norm)
        if refusal or place is None:
            entries[id(norm)] = Entry((tree.names[id(norm)],), (type(norm).__name__,), 0, refusal or "the model itself")
            continue
        add(*_run_of(place, tree, flow))
    for conv in filter(_is_faster_alone, tree.modules):
        place = tree.place(conv)
        if place is not None and not (id(conv) in joined or wrapped.get(id(conv)) or _conv_refusal(conv, tree)):
            add(*_run_alone(place, tree, flow))
    ordered: list[Entry] = []
    for module in tree.modules:
        if id(module) in entries:
            ordered.append(entries[id(module)])
        elif id(module) not in joined:
            ordered += _left_over(module, tree, covered, wrapped)
    for run in runs:
        install(run)
    return FusionReport(ordered)


def unfuse(model: nn.Module) -> int:
    """Undo ``fuse``: every module is again what it was, with its parameters and buffers as they are now.

    Returns:
        How many modules were fused.

    Raises:
        TypeError: ``model`` is not an ``nn.Module``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected an nn.Module")
    return sum(1 for _ in restored(model))


def _run_of(norm: Place, tree: Tree, flow: Flow) -> tuple[Run, Entry, nn.Module]:
    """The run around a normalisation, what is to be told about it, and the module that it begins with."""
    conv = flow.before(norm)
    reasons: list[str] = []
    before = conv.module if conv is not None else None
    if isinstance(before, _LINEAR):
        conv = None
    elif conv is None or before is None or not _is_convolution(before):
        doubt = flow.doubt(norm)
        if doubt:
            reasons.append(f"neighbours left alone: {doubt}")
        conv, before = None, None
    else:
        refusal = _conv_refusal(before, tree)
        if refusal:
            reasons.append(f"{type(before).__name__} left alone: {refusal}")
            conv = None
    acts, shared = _activations_of(norm, tree, flow, reasons)
    held = (*(flow.conditions(conv) if conv is not None else ()), *(flow.conditions(norm) if acts else ()))
    return _told(Run(conv, norm, acts, shared, held), [conv, norm, *acts[:1]], tree, reasons)


def _run_alone(conv: Place, tree: Tree, flow: Flow) -> tuple[Run, Entry, nn.Module]:
    """As ``_run_of``, of a convolution without a normalisation."""
    reasons: list[str] = []
    acts, shared = _activations_of(conv, tree, flow, reasons)
    held = flow.conditions(conv) if acts else ()
    run = Run(conv, None, acts, shared, held, writable=bool(acts) and _is_writable(acts[0], shared, flow))
    return _told(run, [conv, *acts[:1]], tree, reasons)


def _is_writable(act: Place, shared: bool, flow: Flow) -> bool:
    """Whether somebody may write into an activation's result, and PyTorch allows it: not where the next module is all
    that sees it, and only reads."""
    following = None if shared else flow.after(act)
    reads = following is not None and isinstance(following.module, (*CONVOLUTIONS, *NORMS, *_LINEAR))
    return not (reads or getattr(act.module, "inplace", False))


def _activations_of(place: Place, tree: Tree, flow: Flow, reasons: list[str]) -> tuple[list[Place], bool]:
    """Where the activation behind a module is, the nearest place first, and whether it is called on others too."""
    act = flow.after(place)
    if act is None or act.module is None or not _is_activation(act.module):
        doubt = flow.doubt(place) if act is None else ""
        if doubt and not reasons:
            reasons.append(f"neighbours left alone: {doubt}")
        return [], False
    refusal = _act_refusal(act.module)
    if refusal:
        reasons.append(f"{type(act.module).__name__} left alone: {refusal}")
        return [], False
    source = flow.before(act)
    if source is not None and source.key == place.key:
        return [act], False
    return [act, *(other for other in tree.places[id(act.module)] if other.key != act.key)], True


def _told(run: Run, places: Sequence[Place | None], tree: Tree, reasons: Sequence[str]) -> tuple[Run, Entry, nn.Module]:
    """A run with its entry in the report and the module that it begins with."""
    modules = [(place, place.module) for place in places if place is not None and place.module is not None]
    names = tuple(tree.name(place) for place, _ in modules)
    kinds = tuple(_kind(module) for _, module in modules)
    return run, Entry(names, kinds, len(names), "; ".join(reasons)), modules[0][1]


def _left_over(module: nn.Module, tree: Tree, covered: set[tuple[int, str]], wrapped: dict[int, str]) -> list[Entry]:
    """What is told of a convolution or activation that is in no run."""
    name = tree.names[id(module)]
    if _is_convolution(module):
        reason = wrapped.get(id(module)) or _conv_refusal(module, tree) or "no normalisation takes its result alone"
        return [Entry((name,), (type(module).__name__,), 0, reason)]
    if _is_activation(module):
        free = [p for p in tree.places[id(module)] if p.key not in covered]
        reason = wrapped.get(id(module)) or "no normalisation gives it its input alone"
        return [Entry((tree.name(place),), (_kind(module),), 0, reason) for place in free]
    if isinstance(module, nn.SyncBatchNorm):
        return [Entry((name,), ("SyncBatchNorm",), 0, "its statistics are of all processes")]
    return []


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, tuple(NORMS))


def _is_convolution(module: nn.Module) -> bool:
    return isinstance(module, tuple(CONVOLUTIONS))


def _is_faster_alone(module: nn.Module) -> bool:
    """Whether our own kernels take such a convolution, on a CPU."""
    return (
        isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        and backend.has_native_cpu()
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and module.groups == 1
        and module.dilation == (1, 1)
        and len({*module.kernel_size}) == len({*module.stride}) == len({*module.padding}) == 1
        and (module.kernel_size[0], module.stride[0]) in winograd_conv.FILTERS
        and min(module.in_channels, module.out_channels) >= winograd_conv.MIN_CHANNELS
    )


def _is_activation(module: nn.Module) -> bool:
    return type(module) in ACTIVATIONS


def _norm_refusal(norm: nn.Module, tree: Tree) -> str:
    return _refusal(norm, NORMS, tree)


def _conv_refusal(conv: nn.Module, tree: Tree) -> str:
    return _refusal(conv, CONVOLUTIONS, tree)


def _refusal(module: nn.Module, kinds: Collection[type[nn.Module]], tree: Tree) -> str:
    if type(module) not in kinds:
        return _subclass(module)
    if len(tree.places[id(module)]) > 1:
        return f"shared: {_where(module, tree)}"
    return _hooks(module) or _dtypes(module)


def _act_refusal(activation: nn.Module) -> str:
    slope = slope_of(activation)
    if not (math.isfinite(slope) and slope >= 0):
        return f"negative_slope={slope}"
    return _hooks(activation)


def _subclass(module: nn.Module) -> str:
    if nn.utils.parametrize.is_parametrized(module):
        return f"parametrised: {', '.join(module.parametrizations)}"  # type: ignore[arg-type]
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return "not initialised yet: call the model once, then fuse"
    return f"{type(module).__name__} is a class of its own"


def _where(module: nn.Module, tree: Tree) -> str:
    return " and ".join(tree.name(place) for place in tree.places[id(module)])


def _hooks(module: nn.Module) -> str:
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    if not any(hooks):
        return "its forward was replaced" if "forward" in vars(module) else ""
    names = sorted({type(hook).__name__ for kind in hooks for hook in kind.values()} - {"function", "method"})
    return f"has hooks ({', '.join(names)})" if names else "has hooks"


def _dtypes(module: nn.Module) -> str:
    odd = [t.dtype for t in module.parameters(recurse=False) if t.dtype not in _DTYPES]
    return f"{odd[0]}" if odd else ""


def _kind(module: nn.Module) -> str:
    name = type(module).__name__
    return f"{name}({module.negative_slope:g})" if isinstance(module, nn.LeakyReLU) else name


def _wrapped(model: nn.Module) -> dict[int, str]:
    """What is inside of a wrapper that knows its modules' insides, by id, and why that is left alone."""
    found: dict[int, str] = {}
    for module in model.modules():
        names = {kind.__name__ for kind in type(module).__mro__}
        wrappers = names & {
            "DataParallel",
            "DistributedDataParallel",
            "FullyShardedDataParallel",
            "FSDPModule",
            "OptimizedModule",
            "ScriptModule",
            "GraphModule",
        }
        if wrappers:
            for inside in module.modules():
                found.setdefault(id(inside), f"inside a {min(wrappers)}: fuse before that is made")
    return found

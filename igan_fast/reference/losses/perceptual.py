"""The perceptual distance of two batches of images: the L1 distance of a network's feature maps at chosen layers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from igan_fast.reference import ops
from igan_fast.reference.layers import NormAct2d
from igan_fast.reference.losses.weights import per_entry
from igan_fast.reference.ops import Features, pairs_of
from igan_fast.reference.precision import frozen
from igan_fast.reference.recorded import Unscriptable

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PerceptualL1Loss"]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, NormAct2d)

#: Held while hooks are registered: PyTorch numbers them without a lock, and two threads could get the same number.
_registering = threading.Lock()


class _Thread(threading.local):
    """An object that identifies a thread. ``torch.compile`` can trace this, but not ``threading.get_ident``."""

    def __init__(self) -> None:
        self.identity = object()


_thread = _Thread()


class PerceptualL1Loss(Unscriptable):
    """Σᵢ wᵢ · mean|hᵢ(fake) − hᵢ(real)| over layers hᵢ of a network, the extractor.

    Args:
        extractor: the network. Its input is a batch of images (N, …). The whole network runs, so remove the modules
            after the last of the ``layers``.
        layers: names of its modules, as in ``extractor.named_modules()`` ("features.8").
        weights: wᵢ, one per layer; 1 each where omitted.
        joint: run both batches as one batch. This is faster for networks so small that the number of kernel launches
            decides. By default each batch runs separately, and the real one without gradients. The backward pass then
            has half the work, which is faster on a CPU at any size. Do not use ``joint`` for networks that mix the
            images of a batch: batch normalisation raises an error, but other such layers are not recognised.

    Raises:
        ValueError: ``layers`` is empty, or holds a name twice, or a name that no module has; or the number of
            ``weights`` is not the number of layers.
        TypeError: ``extractor`` is not a module, ``layers`` is a single string, or a weight is not a number.

    *The extractor is not trained.* Its parameters get no gradients, and it stays in its mode (call ``extractor.eval()``
    if it has batch normalisation). It is not a submodule of the loss: ``parameters()``, ``state_dict()`` and
    ``train()`` do not reach it. ``to``, ``cuda``, ``half`` and the like do.

    *A layer's output* is the value that the layer returns. The loss copies it, because a later layer may change it in
    place (``nn.ReLU(inplace=True)``). The copy takes one or two per cent of the time. If a layer returns several
    tensors, or runs several times, the loss uses the mean of their distances.

    *Hooks.* The layers have forward hooks only while the loss is computed. A hook acts only in the thread that computes
    the loss, so several threads may use one network at the same time. Hooks do not work in a network that was compiled
    before, or that runs in other threads (``nn.DataParallel``). The loss then raises an error: pass the network without
    these wrappers.
    """

    #: The module whose operators it calls. The fused loss replaces it by ``igan_fast.ops``.
    operators: ClassVar[Any] = ops

    extractor: nn.Module

    def __init__(
        self,
        extractor: nn.Module,
        layers: Sequence[str],
        weights: Sequence[float] | None = None,
        *,
        joint: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(extractor, nn.Module):
            raise TypeError(f"extractor is a {type(extractor).__name__}; expected a torch.nn.Module")
        _check_layers(extractor, layers)
        object.__setattr__(self, "extractor", extractor)  # nn.Module.__setattr__ would register a submodule
        self.layers = tuple(layers)
        count = len(self.layers)
        self.weights = [1.0] * count if weights is None else per_entry("weights", weights, count, "layers")
        self.joint = joint

    def forward(self, fake: Tensor, real: Tensor | Sequence[Features]) -> Tensor:
        """The distance of two batches of images.

        Args:
            fake: images (N, …), an input of the extractor.
            real: images of the same shape, or, for images that are used several times, the result of ``features``. The
                features of the real images are detached.

        Returns:
            A scalar, float64 where the extractor returns float64, else float32.

        Raises:
            ValueError: shapes do not match; a layer returns an empty sequence; or, with ``joint``, the first dimension
                of a layer's output is not the batch.
            TypeError: a layer returns something else than tensors and sequences of tensors.
            RuntimeError: a layer does not run; or, with ``joint``, batch normalisation would use common statistics of
                both batches.
        """
        if not isinstance(real, Tensor):
            if len(real) != len(self.layers):
                raise ValueError(f"real has {len(real)} entries for {len(self.layers)} layers; expected its features()")
            fakes, reals = self._run(fake), list(real)
        elif fake.shape != real.shape:
            raise ValueError(f"fake has shape {tuple(fake.shape)}, real {tuple(real.shape)}; expected the same")
        elif self.joint:
            fakes, reals = self._run_both(fake, real)
        else:
            reals = self.features(real)
            fakes = self._run(fake)
        pairs: list[tuple[Tensor, Tensor]] = []
        weights: list[float] = []
        for name, weight, f, r in zip(self.layers, self.weights, fakes, reals, strict=True):
            of_layer = list(pairs_of(f, r, f"layer {name!r}"))
            if not of_layer:
                raise ValueError(f"layer {name!r} returns no tensor; expected at least one")
            pairs += of_layer
            weights += [weight / len(of_layer)] * len(of_layer)
        loss: Tensor = self.operators.feature_l1([f for f, _ in pairs], [r.detach() for _, r in pairs], weights)
        return loss

    @torch.no_grad()
    def features(self, images: Tensor) -> list[Features]:
        """The outputs of the layers for images (N, …), without gradients: one entry per layer, which is a list of
        outputs if the layer runs several times."""
        return self._run(images)

    def _run(self, images: Tensor) -> list[Features]:
        outputs: dict[str, list[Features]] = {name: [] for name in self.layers}
        with ExitStack() as stack:
            stack.enter_context(frozen(self.extractor))
            with _registering:
                for name in self.layers:
                    hook = self.extractor.get_submodule(name).register_forward_hook(_keep_in(outputs[name], name))
                    stack.callback(hook.remove)
            self.extractor(images)
        for name, found in outputs.items():
            if not found:
                raise RuntimeError(
                    f"layer {name!r} did not run in the extractor's forward pass (hooks are not called in a network "
                    f"that torch.compile has compiled, or that runs in threads of its own as nn.DataParallel does: "
                    f"give it uncompiled, and without)"
                )
        return [found[0] if len(found) == 1 else found for found in outputs.values()]

    def _run_both(self, fake: Tensor, real: Tensor) -> tuple[list[Features], list[Features]]:
        for name, module in self.extractor.named_modules():
            if isinstance(module, _BATCH_NORMS) and _mixes_images(module):
                raise RuntimeError(
                    f"joint would normalise fake and real images by common statistics in {name!r}, a "
                    f"{type(module).__name__}; expected joint=False, or the extractor in eval mode with running "
                    f"statistics"
                )
        features = self._run(torch.cat([fake, real.detach()]))
        halves = [
            [_part(name, feature, part, 2 * len(fake)) for name, feature in zip(self.layers, features, strict=True)]
            for part in (slice(len(fake)), slice(len(fake), None))
        ]
        return halves[0], halves[1]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.extractor._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        return (
            f"extractor={type(self.extractor).__name__}, layers={list(self.layers)}, weights={self.weights}, "
            f"joint={self.joint}"
        )


def _check_layers(extractor: nn.Module, layers: Sequence[str]) -> None:
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise TypeError(f"layers is a {type(layers).__name__}; expected a sequence of names")
    if not layers:
        raise ValueError("layers is empty; expected at least one name")
    names = [name for name, _ in extractor.named_modules(remove_duplicate=False)]
    for index, name in enumerate(layers):
        if name not in names:
            near = get_close_matches(str(name), names) or names[1:6]
            known = f"like {', '.join(map(repr, near))}" if near else "and it has none"
            raise ValueError(f"layers[{index}] is {name!r}; expected the name of a module of the extractor, {known}")
        if name in layers[:index]:
            raise ValueError(f"layers[{index}] is {name!r} again; expected each layer once")


def _keep_in(found: list[Features], name: str) -> Callable[[nn.Module, Any, Any], None]:
    thread = _thread.identity

    def hook(_module: nn.Module, _arguments: Any, output: Any) -> None:
        if _thread.identity is thread:  # another thread may be running the same network
            found.append(_copy(output, name))

    return hook


def _copy(output: Any, name: str) -> Features:
    if isinstance(output, Tensor):
        return output.clone()
    if isinstance(output, list | tuple):
        return [_copy(entry, name) for entry in output]
    raise TypeError(f"layer {name!r} returns a {type(output).__name__}; expected a tensor, or a list or tuple of them")


def _part(name: str, features: Features, part: slice, count: int) -> Features:
    """The images ``part`` of a layer's output for ``count`` images, which are two batches run as one."""
    if not isinstance(features, Tensor):
        return [_part(name, entry, part, count) for entry in features]
    if features.dim() == 0 or features.shape[0] != count:
        raise ValueError(f"joint: layer {name!r} returns shape {tuple(features.shape)}; expected {count} images first")
    return features[part]


def _mixes_images(norm: nn.Module) -> bool:
    """Whether a batch normalisation computes statistics over the whole batch."""
    of_batch = norm.training or norm.running_mean is None
    return of_batch and getattr(norm, "groups", 1) != "instance"

"""Which implementation computes a convolution here, and why: for people who wonder about its speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from igan_fast.ops import backend
from igan_fast.ops.convolution import ConvSettings
from igan_fast.ops.convolution.choice import candidates, chosen
from igan_fast.ops.convolution.dispatch import problem_of
from igan_fast.ops.convolution.plan import Implementation

__all__ = ["Choice", "Explanation", "explain"]

#: The methods of an implementation, and what they compute.
_COMPUTED = {"convolve": "output", "input_gradient": "input gradient", "weight_gradient": "weight gradient"}


@dataclass(frozen=True)
class Choice:
    """The implementation of one computation."""

    computes: str
    """"output", "input gradient" or "weight gradient"."""
    implementation: str
    """Its name: "pytorch" is PyTorch's own convolution, and each other one is a module of
    ``igan_fast.ops.convolution``."""
    why: str
    """What it does, and for minimal filtering the predicted times."""
    not_taken: tuple[tuple[str, str], ...]
    """The names of those that were tried before it, and why they were not taken."""


@dataclass(frozen=True)
class Explanation:
    """What ``explain`` returns. As a string it is a text of several lines."""

    convolution: str
    """The convolution in words."""
    choices: tuple[Choice, ...]
    """Of the output, the input gradient and the weight gradient."""

    def __str__(self) -> str:
        lines = [self.convolution]
        for choice in self.choices:
            lines.append(f"  {choice.computes}: {choice.implementation} ({choice.why})")
            lines += [f"    not {name}: {why}" for name, why in choice.not_taken]
        return "\n".join(lines)


def explain(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    transposed: bool = False,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    negative_slope: float = 1.0,
) -> Explanation:
    """Say which implementations the layers of this package take for a convolution on this machine, and why.

    Nothing is computed. The choice depends on the settings, the shapes, the dtypes, the weight's memory format and the
    machine's instruction set. It depends on no timing, unless ``IGAN_FAST_CONVOLUTION=measure`` asks for one, so it is
    the same at each run.

        >>> print(igan_fast.ops.explain(x, conv.weight, stride=1, padding=1))

    Args:
        x: (N, C_in, *spatial) with one to three spatial dimensions; only its shape, dtype and device matter.
        weight: (C_out, C_in / groups, *kernel), or (C_in, C_out / groups, *kernel) where ``transposed``.
        bias: (C_out,), or None. Before a normalisation it is not added by the convolution: pass None.
        transposed, stride, padding, output_padding, dilation, groups: as in ``F.conv2d`` and ``F.conv_transpose2d``.
        negative_slope: of the LeakyReLU that follows at once, without a normalisation; 1 for none.

    Raises:
        ValueError: the shapes and settings do not fit each other.
    """
    if x.dim() not in (3, 4, 5) or weight.dim() != x.dim():
        raise ValueError(
            f"x has shape {tuple(x.shape)}, weight {tuple(weight.shape)}; expected 3 to 5 dimensions, both"
        )
    native = backend.namespace("auto", x.device, (x.dtype,)) == backend.NATIVE
    settings = ConvSettings.cached(
        x.dim() - 2,
        transposed=transposed,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        dilation=dilation,
        groups=groups,
        native=native,
    )
    channels = settings.channels(weight)[0]
    if x.shape[1] != channels:
        raise ValueError(f"x has {x.shape[1]} channels; expected {channels}, as weight {tuple(weight.shape)}")
    if not settings.fits(x, weight, bias):
        raise ValueError(f"a convolution of x {tuple(x.shape)} with weight {tuple(weight.shape)} has no output")
    named = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    given = ", ".join(f"{name} {value}" for name, value in (*named.items(), ("groups", groups)) if value != 0)
    kind = "transposed convolution" if transposed else "convolution"
    dtype = str(x.dtype).removeprefix("torch.")
    described = f"{kind} of x {tuple(x.shape)}, {dtype} on {x.device.type}, with weight {tuple(weight.shape)}: {given}"
    choices = []
    if backend.switched_off() or backend.plain_only(x, weight, bias):
        why = "IGAN_FAST_IMPL=reference" if backend.switched_off() else "such tensors need PyTorch's own functions"
        return Explanation(described, tuple(Choice(each, "pytorch", why, ()) for each in _COMPUTED.values()))
    problem = problem_of(x, weight, bias, settings, negative_slope)
    for computation, taken in chosen(problem).items():
        before = []
        for each in candidates(problem):
            if each is taken:
                break
            if getattr(type(each), computation) is not getattr(Implementation, computation):
                before.append((each.name, each.why(problem, computation, taken=False)))
        why = taken.why(problem, computation, taken=True)
        choices.append(Choice(_COMPUTED[computation], taken.name, why, tuple(before)))
    return Explanation(described, tuple(choices))

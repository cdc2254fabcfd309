"""The kinds of training iterations that are measured and counted."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["KINDS", "Kind"]


class Kind(NamedTuple):
    """What is trained, and how its convolutions are computed.

    Attributes:
        operator: the name in result files, without the size.
        preset: of ``TrainConfig``.
        convolution: the value of IGAN_FAST_CONVOLUTION.
        film: whether the attributes scale and shift G's maps; None if the preset decides.
        penalised: whether the iterations compute the gradient penalty (every 16th iteration of a run with the default
            preset does).
    """

    operator: str
    preset: str
    convolution: str = "auto"
    film: bool | None = None
    penalised: bool = False

    def named(self, image_size: int, width: int) -> str:
        """The name of the iteration with networks of this size in result files."""
        return f"{self.operator}, {image_size}² width {width}"


_ADDITIONS = "the default additions"

#: By the names that benchmarks are selected by (``pytest -k``).
KINDS = {
    "paper": Kind("iteration", "paper"),
    "default": Kind(f"iteration with {_ADDITIONS}", "default"),
    "penalty": Kind(f"iteration with {_ADDITIONS} and the gradient penalty", "default", penalised=True),
    "blocks": Kind("iteration with blocks", "paper", "blocks"),
    "blocks_film": Kind(f"iteration with blocks and {_ADDITIONS}", "default", "blocks"),
    "blocks_no_film": Kind(f"iteration with blocks and {_ADDITIONS} but FiLM", "default", "blocks", film=False),
    "measure": Kind("iteration with measured convolutions", "paper", "measure"),
    "measure_film": Kind(f"iteration with measured convolutions and {_ADDITIONS}", "default", "measure"),
}

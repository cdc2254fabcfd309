"""Feature matching: the L1 distance between discriminators' feature maps of generated and of real data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

from torch import Tensor

from igan_fast.reference import ops
from igan_fast.reference.losses.weights import finite, number, per_entry
from igan_fast.reference.ops import Features, pairs_of
from igan_fast.reference.recorded import Unscriptable

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FeatureMatchingLoss"]

Reduction: TypeAlias = Literal["sum", "discriminator_mean", "mean"]


class FeatureMatchingLoss(Unscriptable):
    """weight · Σ_d Σ_l w_d · w_l · mean|fake_dl − real_dl| / n over the feature maps l of the discriminators d.

    ``pix2pixhd``, ``spade`` and ``hifigan`` return the losses of these projects.

    Args:
        weight: factor of the whole loss.
        reduction: decides n. "sum": 1. "discriminator_mean": the number of discriminators. "mean": the number of
            discriminators times the number of feature maps of discriminator d. The weights do not change n.
        layer_weights: w_l, one per feature map (without those that ``drop_last`` drops), the same for every
            discriminator; 1 each where omitted.
        discriminator_weights: w_d, one per discriminator; 1 each where omitted.
        drop_last: leave out the last feature map of every discriminator, for discriminators whose last feature map is
            their prediction.
        detach_real: detach the real feature maps. If False, they get gradients too.

    Raises:
        ValueError: ``reduction`` is unknown, or a weight is not finite.
        TypeError: a weight is not a number.
    """

    #: The module whose operators it calls. The fused loss replaces it by ``igan_fast.ops``.
    operators: ClassVar[Any] = ops

    def __init__(
        self,
        weight: float = 1.0,
        reduction: Reduction = "sum",
        *,
        layer_weights: Sequence[float] | None = None,
        discriminator_weights: Sequence[float] | None = None,
        drop_last: bool = False,
        detach_real: bool = True,
    ) -> None:
        super().__init__()
        if reduction not in get_args(Reduction):
            raise ValueError(f"reduction is {reduction!r}; expected one of {', '.join(get_args(Reduction))}")
        self.weight = number("weight", weight)
        self.reduction = reduction
        self.layer_weights = None if layer_weights is None else finite("layer_weights", layer_weights)
        self.discriminator_weights = (
            None if discriminator_weights is None else finite("discriminator_weights", discriminator_weights)
        )
        self.drop_last, self.detach_real = drop_last, detach_real

    @classmethod
    def pix2pixhd(cls, weight: float = 10.0) -> Self:
        """The loss of pix2pixHD (Wang et al. 2018; ``models/pix2pixHD_model.py``, ``lambda_feat`` 10).

        pix2pixHD multiplies the distance of each feature map except the last by 4 / (n_layers_D + 1) and by 1 / num_D.
        Its discriminators return n_layers_D + 2 feature maps, so the loss is 4 times the mean. With ``--no_lsgan`` they
        return one more, the output of a sigmoid. Then use
        ``cls(4 * weight / (n_layers_D + 1), "discriminator_mean", drop_last=True)``.
        """
        return cls(4 * weight, "mean", drop_last=True)

    @classmethod
    def spade(cls, weight: float = 10.0) -> Self:
        """The loss of SPADE (Park et al. 2019; ``models/pix2pix_model.py``, ``lambda_feat`` 10).

        SPADE multiplies the distance of each feature map except the last by 1 / num_D.
        """
        return cls(weight, "discriminator_mean", drop_last=True)

    @classmethod
    def hifigan(cls, weight: float = 2.0) -> Self:
        """The loss of HiFi-GAN (Kong et al. 2020; ``feature_loss`` of ``models.py``, times 2).

        It is the sum over all feature maps of all discriminators. The original does not detach the real feature maps:
        it computes the gradients that they give to the discriminators' parameters, and then discards them. This class
        does not compute them.
        """
        return cls(weight, "sum")

    def forward(self, fake: Features, real: Features) -> Tensor:
        """The loss of two sets of feature maps.

        Args:
            fake, real: the feature maps of one discriminator (a sequence of tensors), of several (a sequence of such
                sequences), or nested deeper. Both have the same structure and pairwise equal shapes. Dtypes are those
                that ``ops.feature_l1`` supports.

        Returns:
            A scalar, float64 where an input is float64, else float32.

        Raises:
            ValueError: a discriminator has no feature map to compare; structures or shapes do not match; or the number
                of weights is not the number of feature maps, or of discriminators.
            TypeError: an entry is neither a tensor nor a sequence, or a sequence holds both.
        """
        for name, features in (("fake", fake), ("real", real)):
            if isinstance(features, Tensor):
                raise TypeError(f"{name} is a tensor; expected a sequence of feature maps, or of such sequences")
        list(pairs_of(fake, real))  # raises an error where the two do not match
        discriminators = list(_discriminators(fake, real, "fake", drop_last=self.drop_last))
        count = len(discriminators)
        of_discriminators = _weights("discriminator_weights", self.discriminator_weights, count, "discriminators")
        fakes: list[Tensor] = []
        reals: list[Tensor] = []
        weights: list[float] = []
        for of_discriminator, (where, pairs) in zip(of_discriminators, discriminators, strict=True):
            maps = len(pairs)
            of_layers = _weights("layer_weights", self.layer_weights, maps, f"feature maps of {where}")
            divisor = {"sum": 1, "discriminator_mean": count, "mean": count * maps}[self.reduction]
            weights += [self.weight * of_discriminator * of_layer / divisor for of_layer in of_layers]
            fakes += [f for f, _ in pairs]
            reals += [r.detach() if self.detach_real else r for _, r in pairs]
        loss: Tensor = self.operators.feature_l1(fakes, reals, weights)
        return loss

    def extra_repr(self) -> str:
        return (
            f"weight={self.weight}, reduction={self.reduction!r}, layer_weights={self.layer_weights}, "
            f"discriminator_weights={self.discriminator_weights}, drop_last={self.drop_last}, "
            f"detach_real={self.detach_real}"
        )


def _weights(name: str, weights: Sequence[float] | None, count: int, entries: str) -> list[float]:
    return [1.0] * count if weights is None else per_entry(name, weights, count, entries)


def _discriminators(
    fake: Any, real: Any, where: str, *, drop_last: bool
) -> Iterator[tuple[str, list[tuple[Tensor, Tensor]]]]:
    """For each discriminator (each innermost sequence): the path to it, for messages, and its pairs of feature maps."""
    if len(fake) == 0:
        raise ValueError(f"{where} is empty; expected feature maps")
    if all(isinstance(entry, Tensor) for entry in fake):
        pairs = list(zip(fake, real, strict=True))
        if drop_last and len(pairs) == 1:
            raise ValueError(f"{where} has one feature map, which drop_last leaves out; expected at least 2")
        yield where, pairs[:-1] if drop_last else pairs
        return
    for index, (f, r) in enumerate(zip(fake, real, strict=True)):
        if isinstance(f, Tensor):
            raise TypeError(f"{where}[{index}] is a tensor among sequences; expected one kind of them in {where}")
        yield from _discriminators(f, r, f"{where}[{index}]", drop_last=drop_last)

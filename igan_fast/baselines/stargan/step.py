"""One training iteration of StarGAN (Choi et al., CVPR 2018, Sec. 3.1, 4 and 5.3; code: yunjey/stargan, solver.py).

x are photos, c their labels, c' the labels of the same batch in another order; G and D are generator and discriminator,
D_src the source map of D.

    Each iteration        x' = G(x, c')
                          D minimises  mean D_src(x') − mean D_src(x) + 1 · label(x, c) + 10 · penalty
    Each fifth iteration  G minimises  −mean D_src(x') + 1 · label(x', c') + 10 · mean|x − G(x', c)|

The penalty is (‖∇ Σ D_src(x̂)‖₂ − 1)², where x̂ is a random point between a photo and its edited photo (Gulrajani et al.
2017), and its mean over the batch.

Where the authors' code and their paper differ:

* The penalty differentiates the sum of the source map, as the code does. The paper does not say how a map enters it.
* The label loss is the binary cross-entropy summed over the attributes, and its mean over the batch, as in the code.
* The learning rate is constant in the first half of the training and then goes to 0 linearly, as the paper says
  (Sec. 5.3: 10 of 20 epochs). Here it changes in each iteration. The code changes it once per 1,000 iterations, but
  only by what belongs to one iteration, so that it ends at 99.9 % of the initial rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor

from igan_fast import losses as fused_losses
from igan_fast.baselines.interface import BaselineStep, LabelledImages
from igan_fast.baselines.optimizers import adam, linear_decay, set_learning_rate, step
from igan_fast.baselines.stargan.networks import StarGANNetworks
from igan_fast.reference.ops import widen
from igan_fast.reference.precision import frozen

__all__ = ["StarGANStep"]

LABEL_WEIGHT = 1.0
RECONSTRUCTION_WEIGHT = 10.0
PENALTY_WEIGHT = 10.0

#: The generator is updated once in this many iterations.
N_CRITIC = 5

LEARNING_RATE = 1e-4


class StarGANStep(BaselineStep):
    """One update of the discriminator and, in each fifth iteration, one of the generator.

    Args:
        networks, iterations, losses: as of ``BaselineStep``.

    Its losses are not multiplied by their weights. The label losses are means over batch and attributes.
    """

    BATCH_SIZE: ClassVar[int] = 16
    PERIOD: ClassVar[int] = N_CRITIC
    SHOWN: ClassVar[tuple[str, ...]] = (
        *("d_adversarial", "d_penalty", "d_label"),
        *("g_adversarial", "g_reconstruction", "g_label"),
    )

    networks: StarGANNetworks

    def __init__(self, networks: StarGANNetworks, *, iterations: int, losses: ModuleType = fused_losses) -> None:
        super().__init__(networks, iterations=iterations, losses=losses)
        self.optimizers = {
            "optimizer_d": adam(networks.discriminator, LEARNING_RATE),
            "optimizer_g": adam(networks.generator, LEARNING_RATE),
        }
        weight = networks.discriminator.source.weight
        self._losses_g = torch.zeros(3, dtype=weight.dtype, device=weight.device)

    def __call__(self, batches: Sequence[LabelledImages], random: torch.Generator) -> Mapping[str, Tensor]:
        """Train one iteration. ``random`` draws first the order of the labels, then x̂ of each photo (uniform)."""
        ((images, labels),) = batches
        order = torch.randperm(len(images), generator=random).to(labels.device)
        shares = torch.rand(len(images), 1, 1, 1, generator=random).to(images)
        target = labels[order]
        decay = linear_decay(self.iteration, self.iterations)
        set_learning_rate(self.optimizers.values(), LEARNING_RATE * decay)
        train_g = (self.iteration + 1) % N_CRITIC == 0
        with torch.set_grad_enabled(train_g):
            edited = self.networks.generator(images, target)
        losses_d = self._train_d(images, labels, edited.detach(), shares)
        if train_g:
            self._losses_g = self._train_g(images, labels, edited, target)
        self.iteration += 1
        names = ("d_adversarial", "d_label", "d_penalty", "g_adversarial", "g_label", "g_reconstruction")
        return dict(zip(names, (*losses_d, *self._losses_g), strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """The generator's losses that were computed last."""
        return {"losses_g": self._losses_g}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of ``tensors``.

        Raises:
            ValueError: a loss is not finite.
        """
        losses = tensors["losses_g"]
        if not bool(losses.isfinite().all()):
            raise ValueError(f"losses_g is {losses.tolist()}; expected finite numbers")
        self._losses_g = losses.to(self._losses_g, copy=True)

    def _train_d(self, images: Tensor, labels: Tensor, edited: Tensor, shares: Tensor) -> tuple[Tensor, ...]:
        """Update the discriminator.

        Args:
            shares: (N, 1, 1, 1), the weights of the photos in x̂.

        Returns:
            The adversarial loss, the label loss and the penalty, detached.
        """
        discriminator, n = self.networks.discriminator, len(images)
        # The discriminator does not normalise, so one pass of both batches equals two.
        source, logits = discriminator(torch.cat([images, edited]))
        adversarial = widen(source[n:]).mean() - widen(source[:n]).mean()
        label = self.losses.label_loss(logits[:n], labels)
        between = (shares * images + (1 - shares) * edited).requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(between)[0].sum(), between, create_graph=True)
        penalty = (torch.linalg.vector_norm(widen(gradient).flatten(1), dim=1) - 1).square().mean()
        loss = adversarial + self._label_weight() * label + PENALTY_WEIGHT * penalty
        # Without inputs, the backward pass would also compute the gradient of x̂.
        torch.autograd.backward(loss, inputs=list(discriminator.parameters()))
        step(self.optimizers["optimizer_d"])
        return adversarial.detach(), label.detach(), penalty.detach()

    def _train_g(self, images: Tensor, labels: Tensor, edited: Tensor, target: Tensor) -> Tensor:
        """Update the generator.

        Args:
            edited: x' with its autograd graph. The generator did not change since, so it is not computed again.

        Returns:
            The adversarial, label and reconstruction loss (3,), detached.
        """
        with frozen(self.networks.discriminator):
            source, logits = self.networks.discriminator(edited)
            adversarial = -widen(source).mean()
            label = self.losses.label_loss(logits, target)
            reconstruction = self.losses.pixel_loss(self.networks.generator(edited, labels), images)
            loss = adversarial + self._label_weight() * label + RECONSTRUCTION_WEIGHT * reconstruction
            torch.autograd.backward(loss)
        step(self.optimizers["optimizer_g"])
        return torch.stack([adversarial.detach(), label.detach(), reconstruction.detach()])

    def _label_weight(self) -> float:
        """The weight of the mean over the attributes, which stands for their sum."""
        return LABEL_WEIGHT * self.networks.attributes

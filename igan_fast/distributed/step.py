"""The training iteration of ``igan_fast.step`` on parts of a batch, by one process or by many.

Each update is: the backward passes of the own parts, the sum of the gradients over all processes, the optimiser's step.
At its end the processes exchange what else depends on all rows, in one collective operation: the losses, the photos'
codes, and what the parts contribute to the running statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from igan_fast.distributed.gradients import GradientSum, OrderedSum, OverlappedSum, gathered
from igan_fast.distributed.plan import BatchPlan, Part
from igan_fast.distributed.statistics import CollectedStatistics
from igan_fast.layers import normalised_apart, set_process_group
from igan_fast.models import IterativeGAN
from igan_fast.ops.convolution import filters_kept
from igan_fast.reference.edited_rebuilds import GeneratedBatch
from igan_fast.reference.precision import frozen, tf32_mode
from igan_fast.step import Stage1, StepConfig, StepLosses, TrainStep

__all__ = ["PartedStep"]


class PartedStep(TrainStep):
    """A ``TrainStep`` that computes its batch in parts. Up to rounding it equals the step on the whole batch.

    The parts are those of ``plan``: several processes compute some each, one after the other. Every process holds all
    weights and optimisers. They stay the same everywhere, because all take the same steps. Of each batch, a process
    gets the photos of its own rows (``plan.rows``), and labels, noise and flips of all rows.

    With several parts, G's images are computed twice, in stage 1 without autograd's graph: the graphs of all parts
    would take as much memory as that of the whole batch.

    Args:
        model, config: as of ``TrainStep``; the model's weights are the same in all processes.
        plan: the parts. The process group was made before if there are other processes.

    Raises:
        ValueError: ``config`` and ``plan`` have different numbers of norm groups; or as ``TrainStep``.
    """

    def __init__(self, model: IterativeGAN, config: StepConfig, plan: BatchPlan) -> None:
        super().__init__(model, config)
        if config.norm_groups != plan.norm_groups:
            raise ValueError(f"plan: has {plan.norm_groups} norm groups, expected {config.norm_groups}, as config")
        self.plan = plan
        kind: type[OverlappedSum | OrderedSum] = OrderedSum if plan.exact else OverlappedSum
        of_z = list(model.classifier.latent.parameters()) if self.optimizer_z is not None else []
        self._sum_d: GradientSum = kind(self._parameters_d, plan.process)
        self._sum_g: GradientSum = kind(self._parameters_g, plan.process)
        self._sum_z: GradientSum = kind(of_z, plan.process)
        self._statistics = CollectedStatistics(model)
        self._sharing = _group_that_shares(plan)
        # With a graph that is kept, stage 2 needs no second forward pass. With `exact` the number of parts of a process
        # depends on that of the processes, but what is computed must not.
        self._keeps_graph = len(plan.own) == 1 and not plan.exact

    def iterate(
        self, images: Tensor, labels: Tensor, z: Tensor, c: Tensor, flips: Tensor | None, *, penalise: bool
    ) -> tuple[StepLosses, Tensor]:
        """Both stages, with a generated batch that is given.

        Args:
            images: the photos of this process's rows.
            labels, z, c, flips, penalise: as of ``TrainStep.iterate``, of all rows.

        Returns:
            The loss terms of the whole batch, and z̃ of all photos: the same in all processes.
        """
        batch, own = GeneratedBatch(z, c, flips), self.plan.own
        with self._collecting(images.device):
            stage1 = self._train_d(images, labels, batch, penalise=penalise, for_stage2=self._keeps_graph)
            codes = [each.photos.z for each in stage1]
            losses = []
            with filters_kept(uses=2 * len(own)), frozen(self.model.discriminator):
                self._sum_g.begin(passes=2 * len(own))
                self._sum_z.begin(passes=len(own))
                for index, part in enumerate(own):
                    losses.append(self._backward_g(index, part, images, batch, stage1.pop(0)))
                self._sum_g.finish()
                self._sum_z.finish()
                self._step_g()
            terms, z_photos = self._exchange(losses, codes)
        return StepLosses(*terms.unbind()), z_photos

    def update_d(self, images: Tensor, labels: Tensor, z: Tensor, c: Tensor, flips: Tensor | None) -> None:
        """Stage 1 alone, without the gradient penalty. The arguments are those of ``iterate``."""
        with self._collecting(images.device):
            self._train_d(images, labels, GeneratedBatch(z, c, flips), penalise=False, for_stage2=False)
            self._exchange_statistics()

    def update_g(self, z: Tensor, c: Tensor, flips: Tensor | None) -> None:
        """Stage 2 without the rebuild. The arguments are those of ``iterate``."""
        own = self.plan.own
        with self._collecting(z.device), frozen(self.model.discriminator):
            self._sum_g.begin(passes=len(own))
            for index, part in enumerate(own):
                rows = _rows(GeneratedBatch(z, c, flips), part)
                with normalised_apart(self.model, part.groups), self._statistics.part(index):
                    self._backward_generated(self._generate(rows), rows, self.plan.weight(part))
                self._sum_g.end_part()
            self._sum_g.finish()
            self._step(self.optimizer_g)
            self._exchange_statistics()

    def _train_d(
        self, images: Tensor, labels: Tensor, batch: GeneratedBatch, *, penalise: bool, for_stage2: bool
    ) -> list[Stage1]:
        """Train D and C. Returns the results of the own parts."""
        own, found = self.plan.own, []
        self._sum_d.begin(passes=len(own))
        for index, part in enumerate(own):
            with normalised_apart(self.model, part.groups), self._statistics.part(index):
                stage1 = self._backward_d(
                    self._own(images, part),
                    labels[part.rows],
                    _rows(batch, part),
                    penalise=penalise,
                    for_stage2=for_stage2,
                    apart=True,  # else the photos' statistics could not be told from those of the generated images
                    weight=self.plan.weight(part),
                )
            found.append(stage1)
            self._sum_d.end_part()
        self._sum_d.finish()
        self._step(self.optimizer_d)
        return found

    def _backward_g(self, index: int, part: Part, images: Tensor, batch: GeneratedBatch, stage1: Stage1) -> Tensor:
        """Add the gradients of a part in stage 2. Returns the part's loss terms, in the order of ``StepLosses``."""
        rows, weight = _rows(batch, part), self.plan.weight(part)
        x_fake, photos, losses_d = stage1
        with normalised_apart(self.model, part.groups):
            if not self._keeps_graph:  # outside of statistics.part: these statistics were collected in stage 1
                x_fake = self._generate(rows)
            with self._statistics.part(index):
                adversarial, label, latent = self._backward_generated(x_fake, rows, weight)
                del x_fake, stage1
                perceptual, pixel = self._backward_rebuilt(self._own(images, part), photos, weight)
        self._sum_g.end_part()
        self._sum_z.end_part()
        return torch.stack([*losses_d, adversarial, label, perceptual, pixel, latent])

    def _generate(self, batch: GeneratedBatch) -> Tensor:
        with self._autocast(batch.z.device):
            return self._generated(batch.z, batch.c)

    def _own(self, images: Tensor, part: Part) -> Tensor:
        """The photos of a part among those of this process."""
        first = self.plan.own[0].start
        return images[part.start - first : part.stop - first]

    @contextmanager
    def _collecting(self, device: torch.device) -> Iterator[None]:
        if self._sharing is not None:
            set_process_group(self.model, self._sharing)
        try:
            with tf32_mode(self.config.precision, device), self._statistics.collecting(len(self.plan.own)):
                yield
        finally:
            if self._sharing is not None:
                set_process_group(self.model, None)

    def _exchange_statistics(self) -> None:
        """Move the running statistics after an extra update."""
        own = torch.stack([self._statistics.flat(index) for index in range(len(self.plan.own))])
        self._apply(gathered(own, self.plan.process))

    def _exchange(self, losses: list[Tensor], codes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Exchange all that depends on all parts, and move the running statistics.

        Args:
            losses: the terms (L,) of each own part.
            codes: z̃ of its photos (rows, latent).

        Returns:
            The terms (L,) of the whole batch, and z̃ of all photos (N, latent).
        """
        plan, latent, terms = self.plan, codes[0].shape[1], len(losses[0])
        most = max(part.size for part in plan.parts)
        vectors = []
        for index, (loss, z) in enumerate(zip(losses, codes, strict=True)):
            statistics = self._statistics.flat(index)
            padded = pad(z.to(statistics.dtype), (0, 0, 0, most - len(z)))
            vectors.append(torch.cat([loss.to(statistics.dtype), padded.flatten(), statistics]))
        every = gathered(torch.stack(vectors), plan.process)
        total = torch.zeros_like(every[0, :terms])
        for part, vector in zip(plan.parts, every, strict=True):
            total.add_(vector[:terms], alpha=plan.weight(part))
        end = terms + most * latent
        each = every[:, terms:end].view(-1, most, latent)
        z_photos = torch.cat([z[: part.size] for part, z in zip(plan.parts, each, strict=True)])
        self._apply(every[:, end:])
        return total, z_photos

    def _apply(self, contributions: Tensor) -> None:
        """Move the running statistics. Processes that share a group have the same contribution, which counts once."""
        sharing = self.plan.sharing
        groups = [part.groups for part in self.plan.parts]
        self._statistics.apply(contributions[::sharing], groups[::sharing])


def _group_that_shares(plan: BatchPlan) -> dist.ProcessGroup | None:
    """Make the process groups of those that share a norm group. Returns that of this process."""
    if plan.sharing == 1:
        return None
    ranks = range(plan.process.world_size)
    made = [dist.new_group(ranks[first : first + plan.sharing]) for first in ranks[:: plan.sharing]]
    own: dist.ProcessGroup = made[plan.process.rank // plan.sharing]
    return own


def _rows(batch: GeneratedBatch, part: Part) -> GeneratedBatch:
    rows = part.rows
    return GeneratedBatch(batch.z[rows], batch.c[rows], None if batch.flips is None else batch.flips[rows])

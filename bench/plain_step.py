"""The fastest training iteration in plain PyTorch: the baseline of the fused one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from igan_fast import reference
from igan_fast.reference.precision import frozen


class PlainStep(reference.TrainStep):
    """``reference.TrainStep`` with the usual optimisations: channels_last, fused Adam, and D and C frozen in stage 2.

    Freezing matters for ``torch.compile``: a compiled backward pass computes the gradients of all parameters with
    ``requires_grad``, even of those that are not used. ``igan_fast.graphs.GraphedStep`` can record this step.

    Args:
        compile: compile the three networks with ``torch.compile``.
        channels_last: the layout of networks and images. False means contiguous, which is faster on some CPUs.
    """

    def __init__(
        self,
        model: reference.IterativeGAN,
        config: reference.StepConfig | None = None,
        *,
        compile: bool = False,
        channels_last: bool = True,
    ) -> None:
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        model.to(memory_format=self._layout)
        super().__init__(model, config)
        on_gpu = next(model.parameters()).is_cuda
        self.recordable = on_gpu
        options: dict[str, Any] = {"betas": self.config.betas, "fused": True, "capturable": on_gpu}
        lr = self.config.lr
        self.optimizer_d = torch.optim.Adam(self._parameters_d, lr=lr, **options)
        self.optimizer_g = torch.optim.Adam(self._parameters_g, lr=lr, **options)
        if self.optimizer_z is not None:
            lr *= self.config.latent_lr_scale
            self.optimizer_z = torch.optim.Adam(model.classifier.latent.parameters(), lr=lr, **options)
        if compile:
            for network in (model.generator, model.discriminator, model.classifier):
                network.compile()

    def iterate(self, images: Tensor, *rest: Any, penalise: bool) -> tuple[reference.StepLosses, Tensor]:
        """One iteration, with the arguments and results of ``reference.TrainStep.iterate``."""
        return super().iterate(images.contiguous(memory_format=self._layout), *rest, penalise=penalise)

    def _stage2(self, *arguments: Any) -> tuple[Tensor, ...]:
        with frozen(self.model.discriminator), frozen(self.model.classifier):
            return super()._stage2(*arguments)

    def _generator_stage(self, *arguments: Any) -> tuple[Tensor, ...]:
        with frozen(self.model.discriminator):  # C is frozen where the generated images pass it
            return super()._generator_stage(*arguments)

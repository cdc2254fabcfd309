"""The fastest training iteration in plain PyTorch: the baseline of the fused one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from igan_fast import reference


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
        options: dict[str, Any] = {"lr": self.config.lr, "betas": self.config.betas, "fused": True}
        self.optimizer_d = torch.optim.Adam(self._parameters_d, capturable=on_gpu, **options)
        self.optimizer_g = torch.optim.Adam(self._parameters_g, capturable=on_gpu, **options)
        self._discriminator_and_classifier = nn.ModuleList([model.discriminator, model.classifier])
        if compile:
            for network in (model.generator, model.discriminator, model.classifier):
                network.compile()

    def __call__(self, images: Tensor, labels: Tensor, noise: Tensor) -> reference.StepLosses:
        """One iteration, with the arguments and result of ``reference.TrainStep``."""
        return super().__call__(images.contiguous(memory_format=self._layout), labels, noise)

    def _stage2(self, *arguments: Any) -> tuple[Tensor, ...]:
        with self._frozen():
            return super()._stage2(*arguments)

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        self._discriminator_and_classifier.requires_grad_(False)
        try:
            yield
        finally:
            self._discriminator_and_classifier.requires_grad_(True)

"""The iteration as well as plain PyTorch can do it: the peer that the fast wing has to beat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from igan_fast import reference


class PlainStep(reference.TrainStep):
    """``reference.TrainStep`` with channels_last networks, frozen D and C in stage 2 (a compiled backward computes what
    a parameter could want, whatever is asked of it), and fused Adam. ``igan_fast.graphs.GraphedStep`` can record it.

    Args:
        compile: run the three networks under ``torch.compile``.
        channels_last: the layout of networks and images; some CPUs are faster in the other one.
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
        self._judges = nn.ModuleList([model.discriminator, model.classifier])
        if compile:
            for network in (model.generator, model.discriminator, model.classifier):
                network.compile()

    def __call__(self, images: Tensor, labels: Tensor, noise: Tensor) -> reference.StepLosses:
        """As the reference's."""
        return super().__call__(images.contiguous(memory_format=self._layout), labels, noise)

    def _stage2(self, *arguments: Any) -> tuple[Tensor, ...]:
        with self._frozen():
            return super()._stage2(*arguments)

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        self._judges.requires_grad_(False)
        try:
            yield
        finally:
            self._judges.requires_grad_(True)

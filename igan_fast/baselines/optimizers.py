"""Adam as StarGAN and CycleGAN use it, and their schedule of the learning rate."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

__all__ = ["adam", "linear_decay", "set_learning_rate", "step"]


def adam(module: nn.Module, lr: float) -> torch.optim.Adam:
    """Adam with β = (0.5, 0.999), which updates all parameters of ``module`` in one kernel.

    Its state exists from the start: no steps done, moments of 0. PyTorch would create it in the first step, which is
    late for a network that only some iterations update: an earlier checkpoint would lack the state.
    """
    optimizer = torch.optim.Adam(module.parameters(), lr=lr, betas=(0.5, 0.999), fused=True)
    for parameter in module.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
        }
    return optimizer


def step(optimizer: torch.optim.Optimizer) -> None:
    """Take one step, and then free the gradients."""
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def linear_decay(iteration: int, iterations: int) -> float:
    """The factor of the learning rate in one iteration: 1 in the first half of the training, then linear towards 0.

    The last iteration has a factor above 0. After the training it is 0.

    Args:
        iteration: the number of iterations done before.
        iterations: the length of the training.
    """
    decaying = iterations - iterations // 2
    return min(1.0, max(0.0, (iterations - iteration) / (decaying + 1)))


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], lr: float) -> None:
    """Set the learning rate of all parameters of ``optimizers``."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr

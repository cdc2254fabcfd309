"""Runs of a baseline's training step on random photos, for the tests of the baselines."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from igan_fast.baselines.interface import BaselineStep, LabelledImages
from igan_fast.train.optimizer_state import load_optimizer_tensors, optimizer_to_tensors

__all__ = ["batches", "copy_state", "gradients", "instance_norm", "leaves", "run", "state", "updates"]


def batches(
    count: int,
    *,
    n: int = 3,
    size: int = 32,
    attributes: int = 3,
    dtype: torch.dtype = torch.float64,
    domains: int = 1,
    seed: int = 11,
) -> list[list[LabelledImages]]:
    """Random photos for ``count`` iterations. With two domains the labels of a batch are its number."""
    generator = torch.Generator().manual_seed(seed)

    def batch(domain: int) -> LabelledImages:
        images = torch.rand(n, 3, size, size, generator=generator) * 2 - 1
        labels = (torch.rand(n, attributes, generator=generator) < 0.5).float()
        return LabelledImages(images.to(dtype), labels if domains == 1 else torch.full_like(labels, domain))

    return [[batch(domain) for domain in range(domains)] for _ in range(count)]


def run(step: BaselineStep, given: Sequence[Sequence[LabelledImages]], random: torch.Generator) -> list[dict]:
    """Train; the losses of each iteration as floats."""
    found = []
    for batch in given:
        losses = step(batch, random)
        assert all(loss.dim() == 0 and not loss.requires_grad for loss in losses.values())
        found.append({name: float(loss) for name, loss in losses.items()})
    return found


def state(step: BaselineStep) -> dict[str, Tensor]:
    """All that a checkpoint holds of a step, copied."""
    found = {f"model/{name}": tensor for name, tensor in step.networks.state_dict().items()}
    for group, optimizer in step.optimizers.items():
        tensors = optimizer_to_tensors(optimizer, step.networks.named_parameters())
        found |= {f"{group}/{name}": tensor for name, tensor in tensors.items()}
    found |= {f"step/{name}": tensor for name, tensor in step.tensors().items()}
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def copy_state(old: BaselineStep, new: BaselineStep) -> None:
    """Bring ``new`` into the state of ``old``, as a resumed run does."""
    new.networks.load_state_dict(copy.deepcopy(old.networks.state_dict()))
    assert new.optimizers.keys() == old.optimizers.keys() == {"optimizer_d", "optimizer_g"}
    for group, optimizer in new.optimizers.items():
        tensors = optimizer_to_tensors(old.optimizers[group], old.networks.named_parameters())
        load_optimizer_tensors(optimizer, new.networks.named_parameters(), copy.deepcopy(tensors))
    saved = copy.deepcopy(old.tensors())
    assert [(name, tensor.shape) for name, tensor in saved.items()] == [
        (name, tensor.shape) for name, tensor in new.tensors().items()
    ]
    new.load_tensors(saved)
    new.iteration = old.iteration


def updates(module: nn.Module) -> list[str]:
    """A list to which each parameter's name is added whenever the parameter gets a gradient."""
    seen: list[str] = []
    for name, parameter in module.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: seen.append(name))
    return seen


def gradients(step: BaselineStep, given: Sequence[Sequence[LabelledImages]]) -> dict[str, Tensor]:
    """Train; the gradient that each parameter got last, in float64."""
    found: dict[str, Tensor] = {}

    def keep(parameter: Tensor, name: str) -> None:
        found[name] = parameter.grad.double()

    for name, parameter in step.networks.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda parameter, name=name: keep(parameter, name))
    run(step, given, torch.Generator().manual_seed(2))
    return found


def leaves(module: nn.Module) -> list[Tensor]:
    """Copies of a module's parameters, in its order, to train."""
    return [parameter.detach().clone().requires_grad_() for parameter in module.parameters()]


def instance_norm(x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """Instance normalisation by its formula."""
    mean = x.mean((2, 3), keepdim=True)
    normalised = (x - mean) / ((x - mean).square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
    if scale is None:
        return normalised
    return normalised * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)

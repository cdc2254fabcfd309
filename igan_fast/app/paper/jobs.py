"""What methods do when they are used, as functions of a batch: ``timing`` measures them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from igan_fast.app.paper.methods import FaceGenerator, Ours, PhotoEditor, Rebuilder

__all__ = ["Job", "editing", "generating", "rebuilding", "recognising"]


@dataclass(frozen=True)
class Job:
    """Something that a method does with a batch of photos (N, 3, S, S) and their labels (N, A)."""

    method: str
    ours: bool
    name: str
    device: torch.device
    run: Callable[[Tensor, Tensor], object]


def rebuilding(method: Rebuilder) -> Job:
    """Draw photos again."""
    return Job(method.name, method.ours, "rebuild", method.device, lambda x, c: method.rebuild(x))


def editing(method: PhotoEditor) -> Job:
    """Change one attribute, the first that the method can change."""
    changes = {method.editable[0]: 1.0}
    return Job(method.name, method.ours, "edit", method.device, lambda x, c: method.edit(x, c, changes))


def generating(method: FaceGenerator) -> Job:
    """Draw noise, and faces from it and from labels."""
    generator = torch.Generator().manual_seed(0)
    return Job(
        method.name,
        method.ours,
        "generate",
        method.device,
        lambda x, c: method.generate(method.draw_noise(len(c), generator).to(c.device), c),
    )


def recognising(method: Ours) -> Job:
    """Recognise attributes."""
    return Job(method.name, method.ours, "recognise", method.device, lambda x, c: method.recognise(x))

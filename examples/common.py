"""Code that the examples share: options, drawn faces as data, the training loop, and saving images of the results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import tyro
from torch import Tensor, nn

from igan_fast.data import to_float, to_uint8
from igan_fast.data.drawn_faces import DrawnFaces
from igan_fast.train.grids import grid, save_png

AnyOptions = TypeVar("AnyOptions", bound="Options")


@dataclass(frozen=True)
class Options:
    iterations: int = 20
    batch_size: int = 16
    fuse: bool = True
    """Run the networks on the fused operators, by igan_fast.fuse; otherwise plain PyTorch."""
    seed: int = 0
    """Seed of the weights, the data and its order."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class ImageOptions(Options):
    image_size: int = 64
    """Height and width in pixels; a power of two, at least 32."""
    faces: int = 256
    """Number of drawn faces to train on."""
    out: Path | None = None
    """File for an image of the results (.png)."""


def options_of(kind: type[AnyOptions], description: str | None, arguments: Sequence[str] | None) -> AnyOptions:
    """Parse the command line into ``kind``, and seed the global random state."""
    options = tyro.cli(kind, description=description, args=arguments)
    torch.manual_seed(options.seed)
    return options


def faces(options: ImageOptions, attributes: Sequence[str] = ("Male",)) -> tuple[Tensor, Tensor]:
    """Drawn faces (N, 3, S, S) in [−1, 1], and their labels (N, attributes) in {0, 1}."""
    source = DrawnFaces(options.faces, seed=options.seed, attributes=attributes)
    drawn = [torch.from_numpy(source.image(index, options.image_size)) for index in range(len(source))]
    images = to_float(torch.stack(drawn)).contiguous()
    return images.to(options.device), torch.from_numpy(source.labels).to(images).to(options.device)


def shuffled(tensors: Sequence[Tensor], batch_size: int, seed: int) -> Iterator[tuple[Tensor, ...]]:
    """An endless stream of batches: the same random rows of all ``tensors``."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randint(len(tensors[0]), (batch_size,), generator=generator)
        yield tuple(tensor[rows.to(tensor.device)] for tensor in tensors)


def train(
    model: nn.Module,
    step: Callable[[Any, Any], Mapping[str, Tensor]],
    batches: Iterator[Any],
    options: Options,
) -> None:
    """Call ``step(model, batch)`` for each iteration. Prints the losses ten times, and the speed at the end."""
    count = options.iterations
    start = time.perf_counter()
    for iteration, batch in zip(range(1, count + 1), batches, strict=False):
        losses = step(model, batch)
        if iteration % max(1, count // 10) == 0:
            shown = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
            print(f"{iteration:6d}  {shown}", flush=True)
    seconds = time.perf_counter() - start
    print(f"{count} iterations in {seconds:.1f} s, {count * options.batch_size / seconds:.1f} examples/s")


def save_images(rows: Mapping[str, Tensor], out: Path | None) -> None:
    """Save one row of images (N, 3, S, S) in [−1, 1] for each name; nothing if ``out`` is None."""
    if out is not None:
        arrays = [to_uint8(images).cpu().numpy() for images in rows.values()]
        print(f"written: {save_png(grid(arrays, list(rows)), out)}", file=sys.stderr)


def set_requires_grad(networks: Sequence[nn.Module], requires_grad: bool) -> None:
    """Set ``requires_grad`` of all parameters of the networks."""
    for network in networks:
        network.requires_grad_(requires_grad)


def normal_weights(module: nn.Module) -> None:
    """DCGAN's initialisation, for ``Module.apply``: convolutions N(0, 0.02), norms N(1, 0.02)."""
    name = type(module).__name__
    if "Conv" in name:
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif "Norm" in name and module.weight is not None:
        nn.init.normal_(module.weight, 1.0, 0.02)

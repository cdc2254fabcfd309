"""``OnnxModel`` runs an exported model in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igan_fast.data.loader import to_uint8
from igan_fast.export.description import read_description
from igan_fast.export.files import SUFFIXES, Run, open_onnx
from igan_fast.export.networks import Generator, Recogniser
from igan_fast.files import FileDamaged, FileMissing
from igan_fast.reference.models import Codes, IterativeGAN
from igan_fast.reference.recorded import Unscriptable

__all__ = ["OnnxModel"]


class OnnxModel(IterativeGAN):
    """The recogniser and the generator of a folder that ``igan-fast export`` has written, on the CPU.

    It has the methods of an ``IterativeGAN`` in eval mode, but neither its three networks nor parameters, so it cannot
    be trained.

    Args:
        folder: the folder.

    Raises:
        PackageMissing: ONNX Runtime is not installed.
        FileMissing, FileUnreadable, FileDamaged: a file is missing or cannot be read, or does not fit ``model.json``.
    """

    def __init__(self, folder: Path) -> None:
        Unscriptable.__init__(self)  # not that of IterativeGAN, which makes the networks
        self.description = read_description(folder)
        side, count, latent = self.description.image_size, len(self.description.attributes), self.description.latent
        self._arguments = {"image_size": side, "attributes": count, "latent": latent}
        image = (side, side, 3)
        self._recogniser = _opened(
            folder / (Recogniser.NAME + SUFFIXES["onnx"]),
            {"photos": np.zeros((1, *image), np.uint8)},
            {"probabilities": (count,), "latent": (latent,)},
        )
        self._generator = _opened(
            folder / (Generator.NAME + SUFFIXES["onnx"]),
            {"latent": np.zeros((1, latent), np.float32), "attributes": np.zeros((1, count), np.float32)},
            {"pictures_float": image},
        )

    def encode(self, x: Tensor) -> Codes:
        """Images (N, 3, S, S) in [−1, 1] → (z̃ (N, latent) in [−1, 1], label logits (N, A)).

        The network takes 8-bit images, so ``x`` is rounded to 255 steps.
        """
        outputs = self._recogniser({"photos": to_uint8(x).numpy()})
        return Codes(torch.from_numpy(outputs["latent"]), torch.logit(torch.from_numpy(outputs["probabilities"])))

    def generate(self, z: Tensor, c: Tensor) -> Tensor:
        """Noise (N, latent) in [−1, 1] and attributes (N, A) in [0, 1] → images (N, 3, S, S) in [−1, 1]."""
        outputs = self._generator({"latent": z.float().numpy(), "attributes": c.float().numpy()})
        return torch.from_numpy(outputs["pictures_float"]).permute(0, 3, 1, 2) * 2 - 1


def _opened(path: Path, inputs: dict[str, NDArray[Any]], outputs: dict[str, tuple[int, ...]]) -> Run:
    """Open a network, and check with one row of ``inputs`` that its outputs are rows of these shapes."""
    try:
        run = open_onnx(path)
    except FileMissing as error:
        raise FileMissing(f"{error}; expected the ONNX files of igan-fast export beside model.json") from error
    try:
        found = run(inputs)
    except Exception as error:  # ONNX Runtime has error types of its own
        raise FileDamaged(f"{path}: does not fit model.json ({error})") from error
    shapes = {name: found[name].shape[1:] for name in outputs if name in found}
    if shapes != outputs:
        raise FileDamaged(f"{path}: does not fit model.json: found the outputs {shapes}, expected {outputs}")
    return run

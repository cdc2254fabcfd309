"""Compares exported networks with the model: the same images and numbers in, the same results out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from igan_fast.data.loader import to_float
from igan_fast.errors import InputError
from igan_fast.export.files import Run
from igan_fast.export.networks import Editor, Generator, Network, Recogniser
from igan_fast.reference import IterativeGAN

__all__ = ["BATCHES", "MOST_ERROR", "check_network", "expected_outputs", "sample_inputs"]

#: The sizes of the batches that are compared.
BATCHES = (1, 3, 8)
#: The largest difference that is accepted: of probabilities, of latent codes, and of pictures from 0 to 1.
MOST_ERROR = 1e-5


def check_network(network: Network, model: IterativeGAN, run: Run, where: str) -> float:
    """Run an exported network on a few batches, and compare it with the model.

    Args:
        network: what was exported.
        model: the model of which it is a part, in float64: PyTorch's own results in float32 differ by about 5e-6 from
            one batch size to another.
        run: runs the exported file.
        where: the name of the file, for the message.

    Returns:
        The largest difference.

    Raises:
        InputError: a difference is larger than ``MOST_ERROR``, or a result is NaN.
    """
    worst = 0.0
    for batch in BATCHES:
        inputs = sample_inputs(network, batch)
        found, expected = run(inputs), expected_outputs(network, model, inputs)
        for name, values in expected.items():
            error = float(np.abs(found[name] - values).max())
            if not error <= MOST_ERROR:
                raise InputError(
                    f"{where}: differs from the model by {error:.1e} in {name}, in a batch of {batch}; "
                    f"expected at most {MOST_ERROR:.0e}"
                )
            worst = max(worst, error)
        if "pictures" in found:
            rounding = np.abs(found["pictures"] - 255 * expected["pictures_float"].astype(np.float64)).max()
            if not rounding <= 0.5 + 255 * MOST_ERROR:
                raise InputError(f"{where}: pictures are off by {rounding:.2f} of 255 levels; expected rounded values")
    return worst


def sample_inputs(network: Network, batch: int) -> dict[str, NDArray[Any]]:
    """Inputs of a network, the same ones in each call: noise; the first photo is black, the second white.

    Attributes lie between −0.5 and 1.5. Where the network takes photos too, half of them are NaN.
    """
    rng = np.random.default_rng(batch)
    inputs: dict[str, NDArray[Any]] = {}
    for value in network.INPUTS:
        shape = network.shape(value, batch)
        if value.dtype == torch.uint8:
            inputs[value.name] = rng.integers(0, 256, shape, np.uint8)
            inputs[value.name][:2] = np.array([0, 255], np.uint8)[:batch, None, None, None]
        else:
            low, high = (-1.0, 1.0) if value.name == "latent" else (-0.5, 1.5)
            inputs[value.name] = rng.uniform(low, high, shape).astype(np.float32)
            if "photos" in inputs:
                inputs[value.name][rng.random(shape) < 0.5] = math.nan
    return inputs


def expected_outputs(network: Network, model: IterativeGAN, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The results of the model's own methods, in its dtype, all but the rounded pictures."""
    dtype = next(model.parameters()).dtype
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items() if name != "photos"}
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    with torch.inference_mode():
        if isinstance(network, Generator):
            return {"pictures_float": _floats(model.generate(tensors["latent"], tensors["attributes"]))}
        z, label_logits = model.encode(to_float(torch.from_numpy(inputs["photos"])).to(dtype))
        probabilities = torch.sigmoid(label_logits)
        if isinstance(network, Recogniser):
            return {"probabilities": probabilities.numpy(), "latent": z.numpy()}
        assert isinstance(network, Editor)
        given = tensors["attributes"]
        return {"pictures_float": _floats(model.generate(z, torch.where(given.isnan(), probabilities, given)))}


def _floats(images: torch.Tensor) -> NDArray[Any]:
    floats: NDArray[Any] = ((images + 1) / 2).permute(0, 2, 3, 1).numpy()
    return floats

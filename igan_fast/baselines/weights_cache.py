"""Keeps the weights of a network that took long to train in a file, with a digest that shows damage."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from igan_fast.data.store import FaceStore
from igan_fast.errors import InputError, printable
from igan_fast.files import FileDamaged, check_place, open_regular, write_file

__all__ = ["load_or_train", "training_key", "weights_digest"]

Network = TypeVar("Network", bound=nn.Module)


def load_or_train(
    network: Network, path: Path, train: Callable[[], Network], *, called: str, trained: str = "trained"
) -> Network:
    """Load the weights in a file; if there are none, or they are damaged, train the network and write the file.

    Args:
        network: a network with the names and shapes of the weights. It is returned with the weights of the file, or
            not used.
        path: the safetensors file. If it is damaged, a warning says so.
        train: returns a trained network.
        called: what the messages call the network.
        trained: the word for its training in the messages.

    Raises:
        InputError: the file cannot be written, or there is a folder in its place. This is checked before training.
    """
    problem = _load(network, path)
    if problem is None:
        return network
    check_place(path)
    if path.is_dir():
        raise InputError(f"{path}: found a folder, expected the weights of {called}; move it away")
    if problem:
        warnings.warn(printable(f"{path}: {problem}; {called} is {trained} again"), stacklevel=3)
    network = train()
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_file(path, save(tensors, metadata={"sha256": weights_digest(tensors)}))
    return network


def training_key(store: FaceStore, settings: Mapping[str, Any]) -> str:
    """Return a digest of everything that training on the ``"train"`` photos of ``store`` depends on.

    Args:
        store: the photos. Their pixels, order, attributes and labels count; where they lie does not.
        settings: what else the result depends on. JSON must be able to hold it.

    Returns:
        16 hexadecimal digits.
    """
    rows = store.splits["train"]
    digest = hashlib.sha256(json.dumps({**settings, "attributes": store.attributes}, sort_keys=True).encode())
    if store.digest is not None:
        digest.update(store.digest.encode())
    else:
        digest.update(store.images[rows].tobytes())
    digest.update(rows.astype(np.int64).tobytes())
    digest.update(store.labels[rows].tobytes())
    return digest.hexdigest()[:16]


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, dtypes, shapes and values of ``tensors``, in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _load(network: nn.Module, path: Path) -> str | None:
    """Load the weights in a file into ``network``.

    Returns:
        None, or a description of the problem, empty where there is no file. ``network`` must not be used then.
    """
    try:
        open_regular(path).close()
        with safe_open(path, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  # no mapping
            if shapes != {name: list(tensor.shape) for name, tensor in network.state_dict().items()}:
                # The values are not read: they may be of any size.
                return "is damaged: it holds the weights of another network"
            tensors = {name: file.get_tensor(name) for name in shapes}
            metadata = file.metadata() or {}
        if metadata.get("sha256") != weights_digest(tensors):
            return "is damaged: it has changed since it was written"
        network.load_state_dict(tensors)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except FileDamaged as error:
        return str(error).removeprefix(f"{printable(path)}: ")
    except (OSError, SafetensorError, RuntimeError) as error:  # unreadable, truncated, of other shapes
        return f"is damaged ({error})"
    return None

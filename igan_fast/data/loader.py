"""Loads shuffled and randomly flipped batches from a store. One integer describes the position in the stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igan_fast.data.image_files import take
from igan_fast.data.shuffle import check_seed, random_bits
from igan_fast.data.store import FaceStore
from igan_fast.errors import InputError
from igan_fast.ops.gather_images import gather_images, pick

__all__ = ["Batch", "BatchLoader", "to_float", "to_uint8"]

#: The images are kept on the GPU if they take at most this share of its free memory. Training needs the rest.
RESIDENT_SHARE = 1 / 3

#: Images per copy to the GPU. At 128² they take 200 MB of host memory.
RESIDENT_CHUNK = 4096


class Batch(NamedTuple):
    """One batch on the loader's device."""

    images: Tensor  #: (B, S, S, 3) uint8, RGB; with ``part`` as many as it has rows
    labels: Tensor  #: (B, A) float32, values 0 and 1


class BatchLoader:
    """An endless stream of shuffled examples, in batches of equal size.

    Each epoch is a random permutation of ``rows``. With n = ``len(rows)``, example k of the stream is entry ``k % n``
    of epoch ``k // n``. The order and the flips of an epoch depend on seed and epoch alone. So they are the same on
    every machine and for every batch size, and training can resume at any position. A batch may span epochs. If n is
    smaller than the batch size, a batch holds images more than once.

    Args:
        store: the images, see ``build_store``.
        rows: (n,) integers, the rows of the store to sample, such as ``store.splits["train"]``.
        batch_size: B, at least 1.
        seed: seed of the order and the flips, at least 0.
        flip: flip each example horizontally with probability 1/2.
        device: the device of the batches.
        part: the rows of each batch whose images are returned; the labels are those of all rows. So several processes
            can share the batches of one stream.
        resident: keep all images on the device, so that a batch needs no transfer. None keeps them there if the device
            is a GPU and they take at most a third of its free memory. On a CPU it has no effect.

    Raises:
        InputError: ``rows`` is empty or out of the store's range, or another argument is out of range.
    """

    def __init__(
        self,
        store: FaceStore,
        rows: NDArray[np.integer[Any]],
        batch_size: int,
        *,
        seed: int,
        flip: bool = True,
        device: str | torch.device = "cpu",
        part: slice = slice(None),
        resident: bool | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.seed = check_seed(seed)
        self.flip = flip
        self.device = torch.device(device)
        self.part = part
        self.position = 0  #: the number of examples that were returned so far
        self._rows = _checked_rows(rows, len(store.images))
        if batch_size < 1:
            raise InputError(f"batch_size: found {batch_size}, expected at least 1")
        if resident is None:
            resident = self._fits_on_device(store)
        self.resident = resident and self.device.type != "cpu"

        self._images = store.images
        self._resident_images: Tensor | None = self._upload() if self.resident else None
        self._index_device = self.device if self.resident else torch.device("cpu")  # of labels, order and flips
        self._labels = torch.from_numpy(store.labels[self._rows].astype(np.float32)).to(self._index_device)
        self._epoch = -1
        self._order = self._flips = torch.empty(0)  # for epoch `_epoch`

    @property
    def examples_per_epoch(self) -> int:
        """n, the number of examples in one epoch."""
        return len(self._rows)

    @property
    def epoch(self) -> float:
        """The number of epochs so far, with a fraction."""
        return self.position / self.examples_per_epoch

    def next(self) -> Batch:
        """The next ``batch_size`` examples. On a GPU, the copies are asynchronous."""
        order, flips = self._next_indices(self.batch_size)
        labels = self._labels.index_select(0, order)
        order, flips = order[self.part], flips[self.part]
        if self._resident_images is not None:
            return Batch(pick(self._resident_images, order, flips), labels)

        pin = self.device.type == "cuda"
        images = torch.empty((len(order), *self._images.shape[1:]), dtype=torch.uint8, pin_memory=pin)
        take(self._images, self._rows[order.numpy()], out=images.numpy())  # the constructor has checked the rows
        selected = flips.nonzero().squeeze(1)
        # PyTorch flips three-channel images with a vectorised kernel if they are NCHW in channels_last layout.
        flipped = images.index_select(0, selected).permute(0, 3, 1, 2).flip(3).permute(0, 2, 3, 1)
        images.index_copy_(0, selected, flipped)
        if pin:
            labels = labels.pin_memory()
        return Batch(images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True))

    def next_images(self) -> tuple[Tensor, Tensor]:
        """The next batch in the format of the networks.

        If the images are resident on a GPU, one kernel gathers, flips and converts them.

        Returns:
            The images, (B, 3, S, S) float32 in [−1, 1], channels_last, and the labels, (B, A) float32.
        """
        if self._resident_images is None:
            batch = self.next()
            return to_float(batch.images), batch.labels
        order, flips = self._next_indices(self.batch_size)
        images = gather_images(self._resident_images, order[self.part], flips[self.part])
        return images, self._labels.index_select(0, order)

    def state_dict(self) -> dict[str, int]:
        """The position in the stream, as a dict that JSON can store."""
        return {"seed": self.seed, "position": self.position, "count": self.examples_per_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at the position of a ``state_dict``.

        Raises:
            InputError: the state has another seed or number of examples per epoch, so its stream is a different one.
        """
        expected = {"seed": self.seed, "count": self.examples_per_epoch}
        for name, value in expected.items():
            if state.get(name) != value:
                what = "seed" if name == "seed" else "number of training pictures"
                raise InputError(f"loader state: its {what} is {state.get(name)}, but this run's is {value}")
        position = state.get("position")
        if not isinstance(position, int) or position < 0:
            raise InputError(f"loader state: position is {position!r}, expected a whole number from 0 up")
        self.position = position

    def _next_indices(self, count: int) -> tuple[Tensor, Tensor]:
        """Advance by ``count`` examples. Returns their indices into ``rows`` (int64) and their flips (bool)."""
        orders, flips = [], []
        while count:
            epoch, start = divmod(self.position, self.examples_per_epoch)
            if epoch != self._epoch:
                self._begin_epoch(epoch)
            stop = min(start + count, self.examples_per_epoch)
            orders.append(self._order[start:stop])
            flips.append(self._flips[start:stop])
            self.position += stop - start
            count -= stop - start
        if len(orders) == 1:
            return orders[0], flips[0]
        return torch.cat(orders), torch.cat(flips)

    def _begin_epoch(self, epoch: int) -> None:
        count = self.examples_per_epoch
        bits = random_bits(2 * count, self.seed, epoch)
        self._order = self._to_index_device(torch.from_numpy(np.argsort(bits[:count], kind="stable")))
        flips = (bits[count:] & np.uint64(1)).astype(np.bool_) & self.flip
        self._flips = self._to_index_device(torch.from_numpy(flips))
        self._epoch = epoch

    def _to_index_device(self, tensor: Tensor) -> Tensor:
        if self._index_device.type == "cuda":
            return tensor.pin_memory().to(self._index_device, non_blocking=True)
        return tensor.to(self._index_device)

    def _fits_on_device(self, store: FaceStore) -> bool:
        if self.device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self.device)
        needed = len(self._rows) * store.images[0].nbytes
        return bool(needed <= free * RESIDENT_SHARE)

    def _upload(self) -> Tensor:
        """Copy the images of ``rows`` to the device, in the order of ``rows``."""
        count = len(self._rows)
        images = torch.empty((count, *self._images.shape[1:]), dtype=torch.uint8, device=self.device)
        for start in range(0, count, RESIDENT_CHUNK):
            chunk = self._rows[start : start + RESIDENT_CHUNK]
            images[start : start + len(chunk)].copy_(torch.from_numpy(self._images[chunk]))
        return images


def to_float(images: Tensor) -> Tensor:
    """(B, S, S, 3) uint8 → (B, 3, S, S) float32 in [−1, 1], channels_last. 0 and 255 become exactly −1 and 1."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """(B, 3, S, S) floating point in [−1, 1] → (B, S, S, 3) uint8, contiguous. Rounds and clamps; NaN becomes black."""
    levels = images.detach().to(torch.float32).nan_to_num(nan=-1.0).add(1.0).mul_(127.5).round_().clamp_(0.0, 255.0)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _checked_rows(rows: NDArray[np.integer[Any]], count: int) -> NDArray[np.int64]:
    rows = np.asarray(rows)
    if rows.ndim != 1 or not (np.issubdtype(rows.dtype, np.integer) or rows.size == 0):
        raise InputError(f"rows: found {rows.dtype} of shape {rows.shape}, expected integers of shape (n,)")
    if rows.size == 0:
        raise InputError("rows: there is no picture to draw from: this split of the dataset is empty")
    if rows.min() < 0 or rows.max() >= count:
        raise InputError(f"rows: found {rows.min()} to {rows.max()}, but the store has rows 0 to {count - 1}")
    return rows.astype(np.int64)

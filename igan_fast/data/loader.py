"""Shuffled, mirrored batches from a store, as an endless stream whose exact position is one integer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igan_fast.data.shuffle import check_seed, random_bits
from igan_fast.data.store import FaceStore
from igan_fast.errors import InputError
from igan_fast.ops.gather_images import gather_images, pick

__all__ = ["Batch", "BatchLoader", "to_float", "to_uint8"]

#: A store stays on the GPU if it takes at most this share of the memory that is free: training needs the rest.
RESIDENT_SHARE = 1 / 3

#: Pictures per copy when a store moves to the GPU: a few hundred MB at 128², little beside what the host has.
RESIDENT_CHUNK = 4096


class Batch(NamedTuple):
    """One batch on the loader's device."""

    images: Tensor  #: (B, S, S, 3) uint8, RGB
    labels: Tensor  #: (B, A) float32, values 0 and 1


class BatchLoader:
    """An endless stream of shuffled examples, cut into batches that are always full.

    With n = ``len(rows)``, example k of the stream is entry ``k % n`` of epoch ``k // n``'s permutation of ``rows``.
    Where ``flip`` is on, half of the examples are mirrored, left and right. Order and flips of an epoch depend on
    (seed, epoch) alone, so they are the same on every machine, whatever the batch size, and a run can resume at any
    position. A batch may span epochs; where n is smaller than the batch it holds a picture more than once.

    Args:
        store: the pictures, see ``build_store``.
        rows: (n,) integers, the rows of the store to draw from, such as ``store.splits["train"]``.
        batch_size: B, at least 1.
        seed: of order and flips, at least 0.
        flip: mirror half of the examples at random.
        device: where batches go.
        resident: keep the pictures on the device, so that a batch costs no transfer; None keeps them there if the
            device is a GPU and they take at most a third of its free memory. On a CPU it makes no difference: there
            the operating system's cache keeps them in memory.

    Raises:
        InputError: ``rows`` is empty or reaches outside of the store, or an argument is out of its range.
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
        resident: bool | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.seed = check_seed(seed)
        self.flip = flip
        self.device = torch.device(device)
        self.position = 0  #: examples of the stream that were already given out
        self._rows = _checked_rows(rows, len(store.images))
        if batch_size < 1:
            raise InputError(f"batch_size: found {batch_size}, expected at least 1")
        if resident is None:
            resident = self._fits(store)
        self.resident = resident and self.device.type != "cpu"

        self._images: NDArray[np.uint8] = store.images
        self._on_device: Tensor | None = self._upload() if self.resident else None
        self._home = self.device if self.resident else torch.device("cpu")
        self._labels = torch.from_numpy(store.labels[self._rows].astype(np.float32)).to(self._home)
        self._epoch = -1
        self._order = self._flips = torch.empty(0)  # of epoch `_epoch`, at home

    @property
    def examples_per_epoch(self) -> int:
        """n: how many pictures one epoch shows, each once."""
        return len(self._rows)

    @property
    def epoch(self) -> float:
        """How many times the pictures were shown so far, with a fraction."""
        return self.position / self.examples_per_epoch

    def next(self) -> Batch:
        """The next ``batch_size`` examples. On a GPU nothing here waits for the device."""
        order, flips = self._draw(self.batch_size)
        labels = self._labels.index_select(0, order)
        if self._on_device is not None:
            return Batch(pick(self._on_device, order, flips), labels)

        pin = self.device.type == "cuda"
        images = torch.empty((self.batch_size, *self._images.shape[1:]), dtype=torch.uint8, pin_memory=pin)
        # mode="clip" lets NumPy write into `out` directly; the rows were checked when the loader was made.
        np.take(self._images, self._rows[order.numpy()], axis=0, out=images.numpy(), mode="clip")
        flagged = flips.nonzero().squeeze(1)
        # Seen as NCHW in channels_last strides, PyTorch has a vectorised mirror for three bytes a pixel.
        mirrored = images.index_select(0, flagged).permute(0, 3, 1, 2).flip(3).permute(0, 2, 3, 1)
        images.index_copy_(0, flagged, mirrored)
        if pin:
            labels = labels.pin_memory()
        return Batch(images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True))

    def next_images(self) -> tuple[Tensor, Tensor]:
        """``next()`` as the networks take it: images (B, 3, S, S) float32 in [−1, 1], channels_last, and labels.

        From pictures that stay on the device that is one launch.
        """
        if self._on_device is None:
            batch = self.next()
            return to_float(batch.images), batch.labels
        order, flips = self._draw(self.batch_size)
        images = gather_images(self._on_device, order, flips)
        return images, self._labels.index_select(0, order)

    def state_dict(self) -> dict[str, int]:
        """The exact place in the stream, as JSON can hold it."""
        return {"seed": self.seed, "position": self.position, "count": self.examples_per_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the place that ``state_dict`` described.

        Raises:
            InputError: the state is of another seed or number of pictures, so that its stream is another one.
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

    def _draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Where in ``rows`` the next ``count`` examples lie (int64) and whether each is mirrored (bool), at home."""
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
        self._order = self._bring_home(torch.from_numpy(np.argsort(bits[:count], kind="stable")))
        flips = (bits[count:] & np.uint64(1)).astype(np.bool_) & self.flip
        self._flips = self._bring_home(torch.from_numpy(flips))
        self._epoch = epoch

    def _bring_home(self, tensor: Tensor) -> Tensor:
        if self._home.type == "cuda":
            return tensor.pin_memory().to(self._home, non_blocking=True)
        return tensor.to(self._home)

    def _fits(self, store: FaceStore) -> bool:
        if self.device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self.device)
        needed = len(self._rows) * store.images[0].nbytes
        return bool(needed <= free * RESIDENT_SHARE)

    def _upload(self) -> Tensor:
        """The pictures of ``rows`` on the device, in the order of ``rows``."""
        count = len(self._rows)
        images = torch.empty((count, *self._images.shape[1:]), dtype=torch.uint8, device=self.device)
        for start in range(0, count, RESIDENT_CHUNK):
            chunk = self._rows[start : start + RESIDENT_CHUNK]
            images[start : start + len(chunk)].copy_(torch.from_numpy(self._images[chunk]))
        return images


def to_float(images: Tensor) -> Tensor:
    """(B, S, S, 3) uint8 → (B, 3, S, S) float32 in [−1, 1], channels_last; 0 and 255 become exactly −1 and 1."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """(B, 3, S, S) floating point in [−1, 1] → (B, S, S, 3) uint8, contiguous: rounded, clamped, NaN as black."""
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

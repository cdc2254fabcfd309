"""Loading training batches from a store: shuffled, randomly flipped, as normalised floats."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from igan_fast.data.loader import BatchLoader
from igan_fast.data.store import FaceStore


class _Faces(torch.utils.data.Dataset):
    """A map-style dataset, which returns one image at a time."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, torch.from_numpy(labels).float()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = torch.from_numpy(self.images[index]).permute(2, 0, 1)
        if torch.rand(()) < 0.5:
            image = image.flip(2)
        return image.float().div_(127.5).sub_(1), self.labels[index]


@pytest.mark.parametrize("size", [64, 128])
def test_batches(compare, request, device, tmp_path, size):
    count, batch = (40, 4) if request.config.getoption("--quick") else (4096, 64)
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8))
    images = np.load(tmp_path / "images.npy", mmap_mode="r+")  # memory-mapped, as in a store
    labels = rng.integers(0, 2, (count, 40)).astype(np.uint8)
    names = tuple(f"attribute_{k}" for k in range(40))
    store = FaceStore(images, labels, None, {}, names, np.arange(count), size)
    loader = BatchLoader(store, np.arange(count), batch, seed=0, device=device)

    def endless():
        while True:
            yield from torch.utils.data.DataLoader(_Faces(images, labels), batch, shuffle=True, drop_last=True)

    batches = endless()

    def next_of_data_loader() -> torch.Tensor:
        faces, _ = next(batches)
        return faces.to(device)

    compare(
        {"kind": "data", "operator": f"a batch at {size}²", "layout": "", "dtype": "fp32", "batch": batch},
        {"ours": (loader.next_images, None), "eager, DataLoader": (next_of_data_loader, None)},
        {},
    )

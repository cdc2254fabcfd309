"""CycleGAN's pool of edited photos."""

from __future__ import annotations

import torch
from torch import Tensor

from igan_fast.baselines.cyclegan.pool import ImagePool


def test_the_pool_returns_each_new_image_until_it_is_full_and_then_half_of_them():
    pool = ImagePool(4, 32, torch.zeros(()))
    random = torch.Generator().manual_seed(0)

    def images(*values: int) -> Tensor:
        return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 32, 32) / 1000

    def values_of(batch: Tensor) -> list[int]:
        assert all(len(image.unique()) == 1 for image in batch)
        return (batch[:, 0, 0, 0] * 1000).round().int().tolist()

    assert values_of(pool.query(images(1, 2, 3), random)) == [1, 2, 3]
    assert pool.count == 3
    known, came_new, positions = {1, 2, 3}, 0, set()
    for value in range(4, 804):
        before = values_of(pool.images)
        (returned,) = values_of(pool.query(images(value), random))
        known.add(value)
        assert returned in known
        if value == 4:
            assert returned == 4
        elif returned == value:
            came_new += 1
            assert values_of(pool.images) == before
        else:
            known.remove(returned)  # it left the pool
            position = before.index(returned)
            positions.add(position)
            assert values_of(pool.images) == [*before[:position], value, *before[position + 1 :]]
    assert pool.count == 4
    assert 340 < came_new < 460  # of 799: four standard deviations
    assert positions == {0, 1, 2, 3}


def test_a_batch_from_the_pool_does_not_change_with_the_pool():
    pool, random = ImagePool(1, 32, torch.zeros(())), torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 32, 32).requires_grad_()
    first = pool.query(image, random)
    assert not first.requires_grad
    assert torch.equal(first, image)
    for value in range(30):
        pool.query(torch.full((1, 3, 32, 32), value / 30), random)
    assert torch.equal(first, image)
    assert not torch.equal(pool.images, image)

"""Running statistics from collected ones, against ``nn.BatchNorm2d`` called once per pass and group."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from igan_fast import layers
from igan_fast.distributed.statistics import CollectedStatistics
from igan_fast.reference import layers as reference


@pytest.mark.every_build
@pytest.mark.parametrize("room", [reference, layers])
@pytest.mark.parametrize("groups", [[1, 1, 1], [2, 2], [4], [1, 2]])
def test_statistics_are_applied_in_the_order_of_passes_and_groups(room, groups) -> None:
    generator = torch.Generator().manual_seed(0)
    passes = [
        [torch.randn(3 * count, 5, 4, 4, generator=generator, dtype=torch.float64) + 2 for count in groups]
        for _ in range(3)
    ]
    net = nn.Sequential(room.NormAct2d(5), room.NormAct2d(5, momentum=0.3)).double()
    plain = nn.Sequential(nn.BatchNorm2d(5), nn.LeakyReLU(0.2), nn.BatchNorm2d(5, momentum=0.3)).double()
    for batches in passes:
        for batch in batches:
            for group in batch.split(3):
                plain(group)
    collected = CollectedStatistics(net)
    with collected.collecting(len(groups)):
        for index, count in enumerate(groups):  # part after part, as they are computed
            for batches in passes:
                with layers.normalised_apart(net, count):
                    with collected.part(index):
                        net(batches[index])
                    net(batches[index])  # outside of the part it does not count
        assert net[0].running_mean.abs().max() == 0
    collected.apply(torch.stack([collected.flat(index) for index in range(len(groups))]), groups)
    for ours, theirs in ((net[0], plain[0]), (net[1], plain[2])):
        torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-12, atol=1e-12)
        assert ours.num_batches_tracked == theirs.num_batches_tracked


def test_after_the_block_the_layers_are_as_before() -> None:
    norm = layers.NormAct2d(2)
    collected = CollectedStatistics(nn.Sequential(norm))
    with pytest.raises(RuntimeError), collected.collecting(1):
        raise RuntimeError
    norm(torch.randn(4, 2, 3, 3) + 5)
    assert norm.running_mean.abs().min() > 0
    assert norm.num_batches_tracked == 1


def test_evaluation_inside_the_block_uses_the_running_statistics() -> None:
    norm = layers.NormAct2d(2, negative_slope=1.0).eval()
    collected = CollectedStatistics(nn.Sequential(norm))
    x = torch.randn(4, 2, 3, 3)
    with collected.collecting(1), collected.part(0):
        torch.testing.assert_close(norm(x), x / (1 + 1e-5) ** 0.5)

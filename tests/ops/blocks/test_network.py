"""Where networks of blocks run, what they refuse, and autocast."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from block_networks import Layer, Results

from igan_fast.ops.blocks import RawMap, block_features, can_run_blocks
from igan_fast.ops.convolution import ConvSettings, triton

pytestmark = pytest.mark.usefixtures("asked")


def small_network() -> tuple[Results, list[Layer]]:
    layers = [Layer((2, 3), (3, 3), padding=1), Layer((3, 2), (1, 1))]
    return Results(torch.float32, torch.randn(2, 2, 4, 4), layers), layers


def test_second_derivatives_are_refused() -> None:
    results, _ = small_network()
    last = block_features(results.x, results.blocks(0.2, 1)).last
    (slope,) = torch.autograd.grad(last.square().sum(), results.x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_errors() -> None:
    results, _ = small_network()
    with pytest.raises(ValueError, match="groups is 3; expected a positive divisor of the batch size 2"):
        block_features(results.x, results.blocks(0.2, 3))
    blocks = results.blocks(0.2, 2)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        block_features(results.x[:, :, :1, :1], [blocks[1]._replace(conv_weight=torch.randn(2, 2, 1, 1))])
    targets = [RawMap(torch.randn(2, channels, 4, width)) for channels, width in ((2, 4), (3, 5), (2, 4))]
    with pytest.raises(ValueError, match=r"target 1 has shape \(2, 3, 4, 5\); expected \(2, 3, 4, 4\)"):
        block_features(results.x, results.blocks(0.2, 1), targets)


def test_where_blocks_can_run(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    results, layers = small_network()
    pairs = [(layer.settings, weight) for layer, (weight, *_) in zip(layers, results.parameters, strict=True)]
    assert can_run_blocks(results.x, pairs)
    assert not can_run_blocks(results.x.to(torch.bfloat16), pairs)
    assert not can_run_blocks(results.x[:, :1], pairs)
    assert not can_run_blocks(results.x[:0], pairs)
    assert not can_run_blocks(results.x, [(ConvSettings(2, stride=9, padding=0), torch.randn(3, 2, 5, 5))])
    with torch.autocast(device.type, torch.bfloat16):
        assert can_run_blocks(results.x, pairs)
    monkeypatch.setattr(triton, "MOST_POSITIONS", 31)
    assert not can_run_blocks(results.x, pairs)
    monkeypatch.setattr(triton, "MOST_POSITIONS", 32)
    assert can_run_blocks(results.x, pairs)
    monkeypatch.setattr(triton, "_CHOICE", "triton")
    assert not can_run_blocks(results.x, pairs)
    monkeypatch.setattr(triton, "_CHOICE", "block")
    with pytest.raises(ValueError, match="IGAN_FAST_CONVOLUTION is 'block'"):
        can_run_blocks(results.x, pairs)


def test_autocast(device: torch.device) -> None:
    """Float32 parameters, of which the convolutions take bfloat16: as if these were given in bfloat16."""
    results, _ = small_network()
    with torch.autocast(device.type, torch.bfloat16):
        found = block_features(results.x, results.blocks(0.2, 1))
    assert found.last.dtype == torch.bfloat16
    found.last.sum().backward()
    assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in results.leaves)
    rounded = [block._replace(conv_weight=block.conv_weight.detach().bfloat16()) for block in results.blocks(0.2, 1)]
    assert torch.equal(block_features(results.x.detach().bfloat16(), rounded).last, found.last)

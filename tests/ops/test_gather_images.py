"""gather_images against images that are indexed, mirrored and scaled one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from igan_fast.ops import backend
from igan_fast.ops.gather_images import gather_images

SHAPES = [(7, 5, 4, 3), (3, 1, 1, 3), (40, 16, 16, 3), (2, 3, 700, 1)]


def expected(images, index, mirrored):
    chosen = [
        images[i].numpy()[:, ::-1] if flip else images[i].numpy() for i, flip in zip(index, mirrored, strict=True)
    ]
    levels = np.stack(chosen).astype(np.float32) / np.float32(127.5) - np.float32(1)
    return torch.from_numpy(levels).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("impl", "device"),
    [
        ("reference", "cpu"),
        ("triton", "cpu"),
        pytest.param(
            "triton",
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
            ],
        ),
    ],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_one_by_one(impl, device, shape):
    try:
        backend.namespace(impl, torch.device(device), ())
    except RuntimeError as reason:
        pytest.skip(str(reason))
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    index = torch.randint(0, shape[0], (9,))
    mirrored = torch.arange(9) % 3 == 1
    batch = gather_images(images.to(device), index.to(device), mirrored.to(device), impl=impl)
    assert torch.equal(batch.cpu(), expected(images, index, mirrored))
    assert batch.permute(0, 2, 3, 1).is_contiguous()


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_ends_are_exact_and_nothing_is_allowed(impl):
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1)
    batch = gather_images(images, torch.tensor([0]), torch.tensor([True]), impl=impl)
    assert batch.flatten().tolist() == [1.0, -1.0]
    none = gather_images(images, torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.bool), impl=impl)
    assert none.shape == (0, 1, 1, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, 4, 4, 3)}, r"images is torch.float32 \(2, 4, 4, 3\); expected contiguous uint8"),
        ({"images": torch.zeros(2, 4, 4, 3, dtype=torch.uint8).flip(0).transpose(1, 2)}, "contiguous uint8"),
        ({"index": torch.zeros(2, dtype=torch.int32)}, "index is torch.int32"),
        ({"mirrored": torch.zeros(3, dtype=torch.bool)}, r"mirrored is torch.bool \(3,\); expected torch.bool \(2,\)"),
    ],
)
def test_refuses(change, message):
    given = {
        "images": torch.zeros(2, 4, 4, 3, dtype=torch.uint8),
        "index": torch.zeros(2, dtype=torch.int64),
        "mirrored": torch.zeros(2, dtype=torch.bool),
    }
    with pytest.raises(ValueError, match=message):
        gather_images(**given | change)


def test_an_unknown_implementation_is_refused():
    images, index = torch.zeros(2, 2, 2, 3, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="impl is 'cuda'; expected one of auto, native, triton, reference"):
        gather_images(images, index, torch.zeros(1, dtype=torch.bool), impl="cuda")

"""``BatchLoader`` against a simple implementation of its stream, and conversion of images to floats and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from igan_fast.data.loader import BatchLoader, to_float, to_uint8
from igan_fast.data.store import FaceStore
from igan_fast.errors import InputError

SIZE = 5  # odd and without symmetry, so that a flip of the wrong axis shows


def make_store(count: int, folder: Path | None = None) -> FaceStore:
    """A store of random images. Label 0 is the row of the image, label 1 is 1."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    if folder is not None:  # memory-mapped and read-only, as from build_store
        np.save(folder / "images.npy", images)
        images = np.load(folder / "images.npy", mmap_mode="r")
    labels = np.stack([np.arange(count), np.ones(count)], axis=1).astype(np.uint8)
    return FaceStore(images, labels, None, {}, ("where", "one"), np.arange(count), SIZE)


def stream(
    store: FaceStore, rows: NDArray[np.int64], count: int, seed: int, flip: bool
) -> tuple[list[int], list[bool]]:
    """The first ``count`` examples of the stream, computed one by one: their rows and flips."""
    where, mirrored = [], []
    n = len(rows)
    for k in range(count):
        words = [int(word) for word in np.random.Philox(np.random.SeedSequence([seed, k // n])).random_raw(2 * n)]
        order = sorted(range(n), key=lambda i, words=words: words[i])  # type: ignore[misc]
        where.append(int(rows[order[k % n]]))
        mirrored.append(flip and words[n + k % n] % 2 == 1)
    return where, mirrored


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize(
    ("rows", "batch_size"),
    [
        pytest.param(np.arange(10), 4, id="batches span epochs"),
        pytest.param(np.array([7, 2, 9, 4]), 4, id="batch is an epoch"),
        pytest.param(np.array([7, 2, 9]), 8, id="fewer rows than a batch"),
        pytest.param(np.array([5]), 3, id="one row"),
        pytest.param(np.arange(10)[::2], 1, id="batch of one, rows not contiguous"),
    ],
)
def test_the_stream_is_as_documented(rows: NDArray[np.int64], batch_size: int, flip: bool, tmp_path: Path) -> None:
    store = make_store(10, tmp_path)
    loader = BatchLoader(store, rows, batch_size, seed=3, flip=flip)
    where, mirrored = stream(store, rows, 6 * batch_size, seed=3, flip=flip)
    for start in range(0, len(where), batch_size):
        batch = loader.next()
        assert batch.images.shape == (batch_size, SIZE, SIZE, 3)
        assert batch.images.dtype == torch.uint8
        assert batch.labels.dtype == torch.float32
        assert batch.labels[:, 0].tolist() == where[start : start + batch_size]
        assert batch.labels[:, 1].tolist() == [1.0] * batch_size
        for image, row, mirror in zip(
            batch.images, where[start : start + batch_size], mirrored[start : start + batch_size], strict=True
        ):
            original = store.images[row]
            np.testing.assert_array_equal(image.numpy(), original[:, ::-1] if mirror else original)


def test_the_order_never_changes_between_machines_and_releases() -> None:
    loader = BatchLoader(make_store(8), np.arange(8), 8, seed=0, flip=False)
    assert [loader.next().labels[:, 0].int().tolist() for _ in range(2)] == [
        [0, 3, 7, 5, 1, 2, 6, 4],
        [3, 7, 4, 2, 1, 6, 5, 0],
    ]


def test_every_epoch_shows_each_image_once_in_another_order() -> None:
    loader = BatchLoader(make_store(50), np.arange(50), 50, seed=0)
    epochs = [loader.next().labels[:, 0].tolist() for _ in range(4)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_about_half_of_the_images_are_flipped() -> None:
    store = make_store(1)
    loader = BatchLoader(store, np.array([0]), 400, seed=0)
    mirrored = (loader.next().images.numpy() == store.images[0][:, ::-1]).all(axis=(1, 2, 3)).sum()
    assert 150 < mirrored < 250  # five standard deviations


@pytest.mark.parametrize("seed", [1, 2**40])
def test_another_seed_is_another_order(seed: int) -> None:
    store = make_store(50)
    first, second = (BatchLoader(store, np.arange(50), 50, seed=s).next() for s in (0, seed))
    assert first.labels[:, 0].tolist() != second.labels[:, 0].tolist()


@pytest.mark.parametrize("batches_before", [0, 1, 3, 4, 11])
def test_a_stream_resumes_at_any_position(batches_before: int) -> None:
    store, rows = make_store(10), np.arange(1, 10)
    loader = BatchLoader(store, rows, 4, seed=5)
    for _ in range(batches_before):
        loader.next()
    state = json.loads(json.dumps(loader.state_dict()))
    assert state == {"seed": 5, "position": 4 * batches_before, "count": 9}
    assert loader.epoch == pytest.approx(4 * batches_before / 9)

    resumed = BatchLoader(store, rows, 4, seed=5)
    resumed.next()  # the state before loading must not matter
    resumed.load_state_dict(state)
    for _ in range(7):
        expected, found = loader.next(), resumed.next()
        assert torch.equal(expected.images, found.images)
        assert torch.equal(expected.labels, found.labels)


def test_the_batch_size_does_not_change_the_stream() -> None:
    store, rows = make_store(7), np.arange(7)
    small, large = BatchLoader(store, rows, 3, seed=1), BatchLoader(store, rows, 12, seed=1)
    joined = torch.cat([small.next().images for _ in range(4)])
    assert torch.equal(joined, large.next().images)


def test_parts_of_a_batch_are_rows_of_it_and_labels_are_those_of_all() -> None:
    store = make_store(7)
    whole = BatchLoader(store, np.arange(7), 5, seed=3)
    parts = [BatchLoader(store, np.arange(7), 5, seed=3, part=part) for part in (slice(0, 3), slice(3, 5))]
    for _ in range(4):
        batch, found = whole.next(), [loader.next() for loader in parts]
        assert torch.equal(torch.cat([each.images for each in found]), batch.images)
        assert all(torch.equal(each.labels, batch.labels) for each in found)
    images, labels = whole.next_images()
    found_images, found_labels = zip(*(loader.next_images() for loader in parts), strict=True)
    assert torch.equal(torch.cat(found_images), images)
    assert all(torch.equal(each, labels) for each in found_labels)
    assert all(loader.state_dict() == whole.state_dict() for loader in parts)


def test_changing_a_batch_does_not_change_the_store(tmp_path: Path) -> None:
    store = make_store(4, tmp_path)
    before = np.array(store.images)
    batch = BatchLoader(store, np.arange(4), 4, seed=0).next()
    batch.images.zero_()
    batch.labels.zero_()
    np.testing.assert_array_equal(store.images, before)
    assert store.labels[:, 1].all()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"seed": 1, "position": 0, "count": 4}, "its seed is 1, but this run's is 0"),
        ({"seed": 0, "position": 0, "count": 5}, "number of training pictures is 5, but this run's is 4"),
        ({"seed": 0, "position": -1, "count": 4}, "position is -1"),
        ({"seed": 0, "position": "3", "count": 4}, "position is '3'"),
        ({"seed": 0, "count": 4}, "position is None"),
        ({}, "its seed is None"),
    ],
)
def test_a_state_of_another_stream_is_refused(state: dict[str, object], message: str) -> None:
    loader = BatchLoader(make_store(4), np.arange(4), 2, seed=0)
    with pytest.raises(InputError, match=message):
        loader.load_state_dict(state)
    assert loader.position == 0


@pytest.mark.parametrize(
    ("rows", "batch_size", "seed", "message"),
    [
        (np.array([], dtype=np.int64), 2, 0, "this split of the dataset is empty"),
        (np.array([0, 4]), 2, 0, "found 0 to 4, but the store has rows 0 to 3"),
        (np.array([-1]), 2, 0, "found -1 to -1"),
        (np.array([[0, 1]]), 2, 0, "expected integers of shape"),
        (np.array([0.5]), 2, 0, "found float64"),
        (np.array([True, False, True, True]), 2, 0, "found bool"),
        (np.array([0]), 0, 0, "batch_size: found 0"),
        (np.array([0]), 1, -1, "seed: found -1"),
    ],
)
def test_bad_arguments_are_refused(rows: NDArray[np.int64], batch_size: int, seed: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        BatchLoader(make_store(4), rows, batch_size, seed=seed)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("on_device", [True, False])
def test_next_images_equals_next_as_floats(on_device: bool, flip: bool) -> None:
    """Both with and without resident images, whose device is the CPU in this test."""
    store, rows = make_store(7), np.arange(5)
    plain, ours, levels = (BatchLoader(store, rows, 3, seed=2, flip=flip) for _ in range(3))
    if on_device:
        ours._resident_images, levels._resident_images = ours._upload(), levels._upload()
    for _ in range(4):
        batch, (images, labels) = plain.next(), ours.next_images()
        assert all(torch.equal(a, e) for a, e in zip(levels.next(), batch, strict=True))
        assert torch.equal(images, to_float(batch.images))
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(labels, batch.labels)
    assert plain.state_dict() == ours.state_dict()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("resident", [True, False, None])
def test_a_gpu_gets_the_same_batches(resident: bool | None) -> None:
    store, rows = make_store(10), np.array([7, 2, 9, 4, 0])
    on_cpu = BatchLoader(store, rows, 3, seed=2)
    on_gpu = BatchLoader(store, rows, 3, seed=2, device="cuda", resident=resident)
    assert on_gpu.resident == (resident is not False)
    for _ in range(5):
        expected, found = on_cpu.next(), on_gpu.next()
        assert found.images.is_cuda
        assert torch.equal(expected.images, found.images.cpu())
        assert torch.equal(expected.labels, found.labels.cpu())
        (images, labels), (found_images, found_labels) = on_cpu.next_images(), on_gpu.next_images()
        assert found_images.is_cuda
        assert found_images.is_contiguous(memory_format=torch.channels_last)
        # A GPU may multiply by the reciprocal instead of dividing, which rounds differently.
        torch.testing.assert_close(found_images.cpu(), images, rtol=0, atol=1e-6)
        assert torch.equal(labels, found_labels.cpu())


def test_to_uint8_inverts_to_float() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(2, 16, 16, 3).contiguous()
    floats = to_float(levels)
    assert floats.shape == (2, 3, 16, 16)
    assert floats.dtype == torch.float32
    assert floats.is_contiguous(memory_format=torch.channels_last)
    assert floats.min() == -1.0
    assert floats.max() == 1.0
    torch.testing.assert_close(floats[0, 0].flatten(), torch.arange(256) / 127.5 - 1)
    back = to_uint8(floats)
    assert back.is_contiguous()
    assert torch.equal(back, levels)
    assert torch.equal(to_uint8(floats.contiguous()), levels)  # from other strides


def test_floats_are_rounded_and_clamped() -> None:
    values = torch.tensor([-9.0, -1.0, 0.51 / 127.5 - 1, 0.49 / 127.5 - 1, 1.0, 9.0, float("inf"), float("nan")])
    assert to_uint8(values.reshape(1, 1, 1, -1).double()).flatten().tolist() == [0, 0, 1, 0, 255, 255, 255, 0]


def test_half_precision_is_rounded_in_single() -> None:
    exact = torch.tensor([-1.0, -0.5, 0.5, 1.0]).reshape(1, 1, 1, 4)
    assert to_uint8(exact.bfloat16()).flatten().tolist() == [0, 64, 191, 255]


def test_images_that_require_grad_can_be_converted() -> None:
    images = torch.zeros(1, 3, 2, 2, requires_grad=True)
    assert set(to_uint8(images).flatten().tolist()) == {128}

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from igan_fast.baselines import cnn as cnn_module
from igan_fast.baselines.cnn import SECOND_JUDGE, AttributeCNN, CNNConfig, cached_cnn, predict, train_cnn
from igan_fast.data import FaceStore, to_float
from igan_fast.errors import InputError

QUICK = CNNConfig(epochs=2, batch_size=8)


def store(size: int = 16, count: int = 40, *, seed: int = 0, names: tuple[str, ...] = ("Red", "Bright")) -> FaceStore:
    """Plain pictures with noise; label 0: more red than blue, label 1: bright."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (count, 2), dtype=np.uint8)
    colour = 60.0 + 90 * labels[:, 1:] + np.stack([40 * labels[:, 0], 0 * labels[:, 0], 40 - 40 * labels[:, 0]], 1)
    images = colour[:, None, None, :] + rng.normal(0, 10, (count, size, size, 3))
    half = count // 2
    return FaceStore(
        images=images.clip(0, 255).astype(np.uint8),
        labels=labels[:, : len(names)],
        identities=None,
        splits={"train": np.arange(half), "val": np.arange(half, count)},
        attributes=names,
        positions=np.arange(count),
        size=size,
    )


@pytest.mark.parametrize(
    ("size", "pairs", "channels"),
    [(8, 1, 32), (16, 2, 64), (32, 3, 128), (48, 3, 128), (64, 4, 128), (80, 4, 128), (128, 5, 256), (256, 6, 256)],
)
def test_shapes_at_powers_of_two_and_between(size: int, pairs: int, channels: int) -> None:
    cnn = AttributeCNN(size, 5).eval()
    convolutions = [layer for layer in cnn.features if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.stride[0] for layer in convolutions] == [1, 2] * pairs
    assert convolutions[-1].out_channels == channels
    x = torch.zeros(2, 3, size, size)
    assert cnn(x).shape == (2, 5)
    assert 4 <= cnn.features(x).shape[2] < 8


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="image_size 7"):
        AttributeCNN(7, 1)
    with pytest.raises(ValueError, match="attributes 0"):
        AttributeCNN(32, 0)


def test_it_learns_what_can_be_seen() -> None:
    data = store(count=400)
    cnn = train_cnn(data, CNNConfig(epochs=8, batch_size=16), progress=False)
    assert not cnn.training
    rows = data.splits["val"]
    wrong = (predict(cnn, data.images[rows]) > 0.5) != data.labels[rows]
    assert wrong.mean() < 0.05  # guessing is wrong half of the time


def test_training_is_decided_by_its_seed_and_leaves_the_caller_s_random_state() -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = train_cnn(store(), QUICK, progress=False).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(8)
    second = train_cnn(store(), QUICK, progress=False).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = train_cnn(store(), CNNConfig(epochs=2, batch_size=8, seed=1), progress=False).state_dict()
    assert not torch.equal(first["labels.weight"], other["labels.weight"])


@pytest.mark.parametrize(("count", "limit"), [(2, 200_000), (40, 1)])
def test_a_single_photo_and_a_single_iteration_will_do(count: int, limit: int) -> None:
    cnn = train_cnn(store(count=count, names=("Red",)), CNNConfig(epochs=1, max_photos=limit), progress=False)
    assert predict(cnn, store(count=count).images).shape == (count, 1)


def test_only_training_photos_are_seen() -> None:
    data, poisoned = store(), store()
    poisoned.images[poisoned.splits["val"]] = 0
    poisoned.labels[poisoned.splits["val"]] = 1
    first, second = (train_cnn(each, QUICK, progress=False).state_dict() for each in (data, poisoned))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_predict_gives_probabilities_whatever_the_batch_size() -> None:
    cnn = AttributeCNN(16, 2).eval()
    images = store(count=7).images
    with torch.no_grad():
        expected = torch.sigmoid(cnn(to_float(torch.from_numpy(images)))).numpy()
    for batch_size in (1, 3, 7, 250):
        found = predict(cnn, images, batch_size=batch_size)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(predict(cnn, torch.from_numpy(images)), expected, rtol=1e-5)
    assert predict(cnn, images[:0]).shape == (0, 2)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever a network is trained."""
    count: list[int] = []

    def counted(*args: object, **kwargs: object) -> AttributeCNN:
        count.append(1)
        return train_cnn(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(cnn_module, "train_cnn", counted)
    return count


def test_the_cache_trains_once_and_gives_the_same_network(tmp_path: Path, trainings: list[int]) -> None:
    cache = tmp_path / "new" / "cache"
    first = cached_cnn(store(), QUICK, cache=cache, progress=False)
    second = cached_cnn(store(), QUICK, cache=str(cache), progress=False)
    assert len(trainings) == 1
    assert not second.training
    np.testing.assert_array_equal(predict(first, store().images), predict(second, store().images))
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]  # and nothing temporary


def test_the_cache_tells_apart_photos_labels_attributes_sizes_and_settings(
    tmp_path: Path, trainings: list[int]
) -> None:
    relabelled = store()
    relabelled.labels[0, 0] ^= 1
    variants = [
        (store(), QUICK),
        (store(seed=1), QUICK),
        (relabelled, QUICK),
        (store(names=("Red", "Dark")), QUICK),
        (store(names=("Red",)), QUICK),
        (store(size=18), QUICK),
        (store(), CNNConfig(epochs=1, batch_size=8)),
        (store(), dataclasses.replace(QUICK, augment=True)),
        (store(), dataclasses.replace(QUICK, weigh_rare=True)),
    ]
    for data, config in variants * 2:
        cached_cnn(data, config, cache=tmp_path, progress=False)
    assert len(trainings) == len(variants)


QUICK_SECOND = dataclasses.replace(SECOND_JUDGE, epochs=2, batch_size=8)


def test_the_second_judge_is_another_network_with_a_file_of_its_own(tmp_path: Path, trainings: list[int]) -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = cached_cnn(store(), QUICK, cache=tmp_path, progress=False)
    second = cached_cnn(store(), QUICK_SECOND, cache=tmp_path, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(list(tmp_path.iterdir())) == 2
    assert all(
        not torch.equal(first.state_dict()[name], second.state_dict()[name])
        for name in ("features.0.weight", "labels.weight")
    )
    again = cached_cnn(store(), QUICK_SECOND, cache=tmp_path, progress=False)
    assert len(trainings) == 2
    np.testing.assert_array_equal(predict(second, store().images), predict(again, store().images))
    fresh = train_cnn(store(), QUICK_SECOND, progress=False)
    np.testing.assert_array_equal(predict(second, store().images), predict(fresh, store().images))


def test_a_damaged_file_of_the_second_judge_is_replaced_and_named(tmp_path: Path, trainings: list[int]) -> None:
    first = cached_cnn(store(), QUICK_SECOND, cache=tmp_path, progress=False, called="the second CNN")
    (path,) = tmp_path.iterdir()
    path.write_bytes(flipped(path.read_bytes(), -1))
    with pytest.warns(UserWarning, match=rf"^{path}: is damaged: .*; the second CNN is trained again$"):
        again = cached_cnn(store(), QUICK_SECOND, cache=tmp_path, progress=False, called="the second CNN")
    assert len(trainings) == 2
    np.testing.assert_array_equal(predict(first, store().images), predict(again, store().images))


def test_the_weights_of_rare_attributes() -> None:
    labels = np.zeros((100, 5), np.uint8)
    for column, present in enumerate((50, 10, 1, 99, 0)):
        labels[:present, column] = 1
    # √(50/50), √(90/10), √99 which is more than 5, √(1/99) which is less than 0.3, and without any: 5
    assert cnn_module._rare_weights(labels).tolist() == pytest.approx([1, 3, 5, 0.3, 5])
    assert cnn_module._rare_weights(labels[:10]).tolist() == pytest.approx([0.3, 0.3, 3, 0.3, 5])


def test_weighing_raises_the_probability_of_a_rare_attribute() -> None:
    data = store(size=8, count=800)
    data.images[:] = np.random.default_rng(0).integers(0, 256, data.images.shape)
    data.labels[:] = 0
    data.labels[::10] = 1  # one in ten, and nothing in the pictures shows it
    config = CNNConfig(epochs=6, batch_size=40, lr=0.01)
    plain, weighed = (
        predict(train_cnn(data, each, progress=False), data.images[data.splits["val"]]).mean()
        for each in (config, dataclasses.replace(config, weigh_rare=True))
    )
    assert plain == pytest.approx(0.1, abs=0.05)
    # The loss w p log q + (1 − p) log(1 − q) is best at q = w p / (w p + 1 − p), where w = √(0.9 / 0.1) = 3.
    assert weighed == pytest.approx(0.3 / 1.2, abs=0.07)


def test_logits_are_computed_from_the_pooled_features() -> None:
    cnn = AttributeCNN(16, 2).eval()
    x = to_float(torch.from_numpy(store(count=3).images))
    with torch.no_grad():
        pooled = cnn.pooled(x)
        assert pooled.shape == (3, 64)
        torch.testing.assert_close(pooled, cnn.features(x).flatten(2).mean(2))
        torch.testing.assert_close(cnn(x), cnn.labels(pooled))


def flipped(content: bytes, position: int) -> bytes:
    position %= len(content)
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def as_other_network(content: bytes) -> bytes:
    return save(AttributeCNN(16, 7).state_dict())


def as_huge_network(content: bytes) -> bytes:
    """A header that claims tensors of a terabyte, which are all in the file, were it as long."""
    header = json.dumps({"x": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}).encode()
    return len(header).to_bytes(8, "little") + header + content


#: What becomes of the file, and what the message says of it.
DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "is damaged"),
    "other file": (lambda content: b"no safetensors", "is damaged"),
    "cut": (lambda content: content[:-10], "is damaged"),
    "longer": (lambda content: content + b"\0", "is damaged"),
    "length of the header": (lambda content: flipped(content, 0), "is damaged"),
    "header": (lambda content: flipped(content, 20), "is damaged"),
    "a weight": (
        lambda content: flipped(content, len(content) // 2),
        "is damaged: it has changed since it was written",
    ),
    "the last weight": (lambda content: flipped(content, len(content) - 1), "is damaged: it has changed"),
    "other network": (as_other_network, "is damaged: it holds the weights of another network"),
    "huge network": (as_huge_network, "is damaged"),
    "without digest": (lambda content: save(load(content)), "is damaged: it has changed"),
    "NaN": (lambda content: save({k: v * math.nan for k, v in load(content).items()}), "is damaged: it has changed"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_file_is_replaced_and_says_why(tmp_path: Path, trainings: list[int], damage: str) -> None:
    first = cached_cnn(store(), QUICK, cache=tmp_path, progress=False)
    (path,) = tmp_path.iterdir()
    act, reason = DAMAGES[damage]
    path.write_bytes(act(path.read_bytes()))
    with pytest.warns(UserWarning, match=rf"^{path}: {reason}.*; the plain CNN is trained again$") as caught:
        again = cached_cnn(store(), QUICK, cache=tmp_path, progress=False)
    assert len(caught) == 1
    assert len(trainings) == 2
    np.testing.assert_array_equal(predict(first, store().images), predict(again, store().images))
    cached_cnn(store(), QUICK, cache=tmp_path, progress=False)
    assert len(trainings) == 2


def test_what_is_no_file_in_the_caches_place(tmp_path: Path, trainings: list[int]) -> None:
    cached_cnn(store(), QUICK, cache=tmp_path, progress=False)
    (path,) = tmp_path.iterdir()
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.warns(UserWarning, match="found a device, expected a file; the plain CNN is trained again"):
        cached_cnn(store(), QUICK, cache=tmp_path, progress=False)
    assert not path.is_symlink()
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="found a folder, expected the weights of the plain CNN; move it away"):
        cached_cnn(store(), QUICK, cache=tmp_path, progress=False)
    assert len(trainings) == 2  # it is refused before the work


def test_the_cache_knows_photos_by_their_contents(tmp_path: Path, trainings: list[int]) -> None:
    """A data set that was copied elsewhere, or whose files were touched, keeps its network."""
    data = store()
    for folder, digest in (("a", "1"), ("b", "1"), ("c", "1"), ("c", "2")):
        kept = dataclasses.replace(data, path=tmp_path / folder, digest=digest)
        cached_cnn(kept, QUICK, cache=tmp_path / "cache", progress=False)
    assert len(trainings) == 2


def test_an_unusable_cache_and_a_store_without_training_photos(tmp_path: Path, trainings: list[int]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/cnn-.*: cannot be written: .*file is a file, expected a folder"):
        cached_cnn(store(), QUICK, cache=tmp_path / "file", progress=False)
    assert not trainings  # it is refused before the work
    empty = store()
    with pytest.raises(InputError, match="no picture"):
        train_cnn(FaceStore(**{**vars(empty), "splits": {"train": np.arange(0)}}), QUICK, progress=False)

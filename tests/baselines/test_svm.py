import dataclasses
import importlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from no_warnings import no_warning
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, nn

from igan_fast.baselines import svm as svm_module
from igan_fast.baselines.pooling import features_of, pooled_features
from igan_fast.baselines.svm import AttributeSVM, SVMConfig, cached_svm, decisions, fit_svm
from igan_fast.data import FaceStore, to_float
from igan_fast.errors import InputError
from igan_fast.fusion import fuse

try:
    svm_class: type | None = importlib.import_module("sklearn.svm").LinearSVC
except ImportError:  # also of a package that it needs
    svm_class = None
needs_sklearn = pytest.mark.skipif(svm_class is None, reason="needs scikit-learn: pip install 'igan-fast[paper]'")

ONE_COST = SVMConfig(costs=(0.01,))


def store(count: int = 40, size: int = 8, *, seed: int = 0, names: tuple[str, ...] = ("Red", "Bright")) -> FaceStore:
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


def grey_store(levels: Sequence[int], labels: Sequence[Sequence[int]], names: tuple[str, ...]) -> FaceStore:
    """One grey picture of 1×1 pixel for each level, all of them for training."""
    images = np.repeat(np.array(levels, np.uint8), 3).reshape(-1, 1, 1, 3)
    found = np.array(labels, np.uint8).reshape(len(levels), len(names))
    rows = np.arange(len(levels))
    return FaceStore(images, found, None, {"train": rows, "val": rows}, names, rows, 1)


class Discriminator(nn.Module):
    """As DCGAN's: its state dict is what the cache knows it by."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Conv2d(3, 4, 5, stride=2, padding=2)
            self.second = nn.Conv2d(4, 6, 5, stride=2, padding=2)
            self.norm = nn.BatchNorm2d(6)
        self.eval()

    def features(self, x: Tensor) -> list[Tensor]:
        first = F.leaky_relu(self.first(x), 0.2)
        return [first, F.leaky_relu(self.norm(self.second(first)), 0.2)]


def green(x: Tensor) -> list[Tensor]:
    """One feature: the green channel's level."""
    return [x[:, 1:2, :1, :1]]


def pooled_by_numpy(x: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """The maximum of each cell: from ⌊i·H/rows⌋ to ⌈(i + 1)·H/rows⌉, and so across."""
    height, width = x.shape[2:]
    out = np.empty((*x.shape[:2], rows, columns), np.float32)
    for i in range(rows):
        for j in range(columns):
            down = slice(i * height // rows, -(-(i + 1) * height // rows))
            across = slice(j * width // columns, -(-(j + 1) * width // columns))
            out[:, :, i, j] = x[:, :, down, across].max(axis=(2, 3))
    return out


SIZES = [(4, 4), (8, 16), (5, 7), (6, 4), (32, 32), (3, 9), (2, 2), (1, 1), (1, 5)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pooling_equals_numpy_also_where_sides_do_not_divide(height: int, width: int) -> None:
    rng = np.random.default_rng(1)
    maps = [rng.normal(size=(3, 2, height, width)).astype(np.float32), rng.normal(size=(3, 5, 4, 4)).astype(np.float32)]
    grid = min(4, height), min(4, width)
    expected = np.concatenate([pooled_by_numpy(maps[0], *grid).reshape(3, -1), maps[1].reshape(3, -1)], axis=1)
    found = pooled_features([torch.from_numpy(each) for each in maps])
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("side", [4, 8, 16, 32])
def test_pooling_is_that_of_radford_et_al_where_sides_divide(side: int) -> None:
    """Their code: windows of side/4 that do not overlap; per layer flattened by channel, row, column."""
    x = torch.randn(2, 3, side, side)
    expected = x.reshape(2, 3, 4, side // 4, 4, side // 4).amax((3, 5)).reshape(2, -1)
    assert torch.equal(pooled_features([x]), expected)


def test_pooling_of_other_layouts_dtypes_and_no_photos() -> None:
    x = torch.randn(2, 3, 5, 7)
    expected = pooled_features([x])
    assert torch.equal(pooled_features([x.to(memory_format=torch.channels_last)]), expected)
    assert torch.equal(pooled_features([x.transpose(2, 3).contiguous().transpose(2, 3)]), expected)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        found = pooled_features([x.to(dtype)])
        assert found.dtype == torch.float32
        assert torch.equal(found, pooled_features([x.to(dtype).float()]))
    assert pooled_features([x[:0]]).shape == (0, 48)
    x[1, 2, 0, 0] = math.nan
    assert pooled_features([x]).isnan().sum() == 1


@pytest.mark.parametrize(
    "shapes", [[], [(2, 3, 4)], [(2, 3, 4, 4), (3, 3, 4, 4)], [(2, 3, 0, 4)], [(2, 0, 4, 4)]], ids=str
)
def test_maps_of_wrong_shapes_are_refused(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"found feature maps of shapes \["):
        pooled_features([torch.zeros(shape) for shape in shapes])


@needs_sklearn
def test_a_separable_case_by_hand() -> None:
    """Two photos at x = ±a with labels 1 and 0: by symmetry the bias is 0, and w minimises w²/2 + 2C(1 − wa)²."""
    data = grey_store([204, 51], [[1], [0]], ("Bright",))
    a = 0.6  # 204 / 127.5 − 1
    svm = fit_svm(green, data, SVMConfig(costs=(0.5,)), progress=False)
    weight = 4 * 0.5 * a / (1 + 4 * 0.5 * a * a)
    assert svm.labels.weight.shape == (1, 1)
    assert svm.labels.weight.item() == pytest.approx(weight, rel=1e-3)
    assert svm.labels.bias.item() == pytest.approx(0, abs=1e-3)
    assert (svm.cost.item(), svm.photos.item(), svm.training) == (0.5, 2, False)
    images = np.array([255, 128, 127, 0], np.uint8).repeat(3).reshape(4, 1, 1, 3)
    found = decisions(svm, green, images)
    np.testing.assert_allclose(found[:, 0], weight * (images[:, 0, 0, 0] / 127.5 - 1), rtol=1e-2, atol=1e-3)
    assert (found[:, 0] > 0).tolist() == [True, True, False, False]


@needs_sklearn
@pytest.mark.parametrize("cost", [0.1, 5.0])
def test_the_machines_minimise_the_loss_of_an_l2_svm(cost: float) -> None:
    """‖(w, b)‖²/2 + C Σ max(0, 1 − y(wx + b))²: the gradient at the fit, computed by autograd, is 0."""
    data, network = store(80), Discriminator()
    svm = fit_svm(network.features, data, SVMConfig(costs=(cost,), max_iterations=1_000_000), progress=False)
    rows = data.splits["train"]
    with torch.no_grad():
        maps = network.features(to_float(torch.from_numpy(data.images[rows])))
    x = pooled_features(maps).double()
    y = torch.from_numpy(data.labels[rows].astype(np.float64)) * 2 - 1
    weight = svm.labels.weight.double().requires_grad_()
    bias = svm.labels.bias.double().requires_grad_()
    hinge = (1 - y * (x @ weight.T + bias)).clamp(min=0)
    assert (hinge > 0).any()
    assert (hinge > 0).all() == (cost < 1)  # with the larger C both parts of the hinge count
    loss = (weight.square().sum() + bias.square().sum()) / 2 + cost * hinge.square().sum()
    gradients = torch.autograd.grad(loss, [weight, bias])
    assert gradients[0].norm() < 1e-3 * weight.norm()  # the penalty's gradient alone is the weight itself
    assert gradients[1].norm() < 1e-3 * weight.norm()


@needs_sklearn
def test_it_learns_what_can_be_seen_and_only_from_training_photos() -> None:
    data, network = store(400), Discriminator()
    svm = fit_svm(network.features, data, progress=False)
    assert svm.cost.item() in SVMConfig().costs
    rows = data.splits["val"]
    found = decisions(svm, network.features, data.images[rows])
    assert found.dtype == np.float32
    assert ((found > 0) != data.labels[rows]).mean() < 0.05  # guessing is wrong half of the time
    data.images[rows] = 0
    data.labels[rows] = 1
    again = fit_svm(network.features, data, progress=False)
    assert torch.equal(again.labels.weight, svm.labels.weight)


@needs_sklearn
def test_constant_attributes_get_their_constant() -> None:
    data = grey_store([10, 200, 30, 250], [[1, 0, 0], [1, 0, 1], [1, 0, 0], [1, 0, 1]], ("All", "None", "Bright"))
    for config in (SVMConfig(costs=(1.0,)), SVMConfig(costs=(0.1, 1.0))):
        svm = fit_svm(green, data, config, progress=False)
        found = decisions(svm, green, data.images) > 0
        assert found[:, 0].all()
        assert not found[:, 1].any()
        assert found[:, 2].tolist() == [False, True, False, True]
        assert (svm.labels.weight[:2] == 0).all()


@needs_sklearn
@pytest.mark.parametrize("label", [0, 1])
def test_a_single_photo_will_do(label: int) -> None:
    svm = fit_svm(green, grey_store([99], [[label]], ("Any",)), progress=False)
    assert (decisions(svm, green, np.zeros((2, 1, 1, 3), np.uint8)) > 0).tolist() == [[bool(label)]] * 2
    assert decisions(svm, green, np.zeros((0, 1, 1, 3), np.uint8)).shape == (0, 1)


@needs_sklearn
def test_c_is_the_one_with_the_fewest_errors_on_the_last_fifth() -> None:
    """With a tiny C the weight stays near 0, and the bias gives the more frequent answer; of equal ones the smallest
    C wins."""
    levels = [140, 138, 112, 110, 145, 139, 143, 142, 115, 144]
    data = grey_store(levels, [[level > 128] for level in levels], ("Bright",))
    tiny, large, larger = 1e-6, 1e4, 1e5
    blind = fit_svm(green, data, SVMConfig(costs=(tiny,)), progress=False)
    assert (decisions(blind, green, data.images) > 0).all()
    costs = SVMConfig(costs=(tiny, large, larger))
    svm = fit_svm(green, data, costs, progress=False)
    assert svm.cost.item() == large
    assert ((decisions(svm, green, data.images) > 0) == data.labels).all()
    data.images[8], data.labels[8] = data.images[9], 1  # now the blind answer is right on the last fifth
    assert fit_svm(green, data, costs, progress=False).cost.item() == tiny


@needs_sklearn
def test_the_search_is_limited_to_spread_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Counted(svm_class or object):  # type: ignore[misc]
        def fit(self, x: NDArray[np.float64], y: NDArray[np.bool_]) -> "Counted":
            sizes.append(len(x))
            assert x.dtype == np.float64
            return super().fit(x, y)  # type: ignore[no-any-return]

    monkeypatch.setattr(svm_module, "_linear_svc", lambda called: Counted)
    fit_svm(green, store(200), SVMConfig(costs=(0.1, 1.0), search_photos=30), progress=False)
    assert sizes == [30, 30, 30, 30, 100, 100]


@needs_sklearn
def test_more_photos_than_the_memory_holds_are_thinned_out_evenly() -> None:
    data = store(200)
    limit = 40.5 * 24 / 1e9  # one feature: a photo takes 24 bytes
    svm = fit_svm(green, data, SVMConfig(costs=(0.1,), max_gigabytes=limit), progress=False)
    assert svm.photos.item() == 40
    thinned = dataclasses.replace(data, splits={"train": np.arange(40) * 100 // 40})
    expected = fit_svm(green, thinned, SVMConfig(costs=(0.1,)), progress=False)
    assert torch.equal(svm.labels.weight, expected.labels.weight)
    tiny = fit_svm(green, data, SVMConfig(costs=(0.1,), max_gigabytes=1e-12), progress=False)
    assert tiny.photos.item() == 1


@needs_sklearn
def test_neither_batches_nor_the_order_of_photos_nor_random_states_matter() -> None:
    data, network = store(60), Discriminator()
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002  # the generator that scikit-learn takes unless it is told otherwise
    state = torch.get_rng_state()
    first = fit_svm(network.features, data, ONE_COST, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    np.random.seed(8)  # noqa: NPY002
    assert torch.equal(first.labels.weight, fit_svm(network.features, data, ONE_COST, progress=False).labels.weight)
    small = fit_svm(network.features, data, ONE_COST, batch_size=7, progress=False)
    np.testing.assert_allclose(small.labels.weight, first.labels.weight, rtol=1e-2, atol=1e-4)
    expected = decisions(first, network.features, data.images)
    order = np.random.default_rng(0).permutation(60)
    for batch_size in (1, 7, 60, 1000):
        found = decisions(first, network.features, data.images[order], batch_size=batch_size)
        np.testing.assert_allclose(found, expected[order], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(decisions(first, network.features, torch.from_numpy(data.images)), expected)


def test_a_network_in_training_mode_is_refused_and_stays_as_it_was() -> None:
    network = Discriminator().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ValueError, match="features: Discriminator is in training mode, expected eval mode"):
        decisions(AttributeSVM(160, 1), network.features, store().images)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.every_build
def test_features_of_a_fused_network_are_the_same() -> None:
    network, fused = Discriminator(), Discriminator()
    fuse(fused)
    images = store(size=64).images
    for _ in range(3):  # the first call learns what can be fused
        found = features_of(fused.features, images, torch.device("cpu"))
        assert type(found) is Tensor
        torch.testing.assert_close(
            found, features_of(network.features, images, torch.device("cpu")), rtol=1e-4, atol=1e-5
        )


@needs_sklearn
def test_iterations_that_were_not_enough_are_told_once() -> None:
    data, network = store(60), Discriminator()
    with pytest.warns(UserWarning, match=r"^DCGAN: 1 iterations were not enough for Red, Bright$") as caught:
        fit_svm(network.features, data, SVMConfig(costs=(5.0, 9.0), max_iterations=1), progress=False, called="DCGAN")
    assert len(caught) == 1


@needs_sklearn
def test_features_of_a_network_that_has_diverged_are_refused() -> None:
    def broken(x: Tensor) -> list[Tensor]:
        return [torch.where(x[:, :1] > 0, math.inf, x[:, :1])]

    data = grey_store([10, 200, 20], [[1], [0], [1]], ("Any",))
    with pytest.raises(InputError, match=r"features: found NaN or infinite ones for 1 of 3 training photos"):
        fit_svm(broken, data, progress=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"costs": ()}, r"costs: found \(\), expected positive numbers, ascending"),
        ({"costs": (0.1, 0.01)}, "costs: found"),
        ({"costs": (0.1, 0.1)}, "costs: found"),
        ({"costs": (0.0, 1.0)}, "costs: found"),
        ({"costs": (math.nan,)}, "costs: found"),
        ({"costs": (1.0, math.inf)}, "costs: found"),
        ({"search_photos": 0}, "search_photos: found 0, expected at least 1"),
        ({"max_iterations": 0}, "max_iterations: found 0"),
        ({"max_gigabytes": 0}, "max_gigabytes: found 0"),
        ({"max_gigabytes": math.nan}, "max_gigabytes: found nan"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SVMConfig(**values)  # type: ignore[arg-type]


def test_a_new_machine_draws_no_random_numbers_and_says_no() -> None:
    state = torch.get_rng_state()
    svm = AttributeSVM(5, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(svm(torch.ones(3, 5)), torch.zeros(3, 2))
    assert not any(parameter.requires_grad for parameter in svm.parameters())


def test_without_training_photos(tmp_path: Path) -> None:
    empty = grey_store([], [], ("Any",))
    with pytest.raises(InputError, match="no training photos"):
        cached_svm(green, {}, empty, cache=tmp_path, progress=False)


def test_without_scikit_learn_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    message = r"^the L2-SVM needs scikit-learn, .*; install it: pip install 'igan-fast\[paper\]', or pip install sci"
    with pytest.raises(InputError, match=message):
        fit_svm(green, store(), progress=False)
    with pytest.raises(InputError, match=message):
        cached_svm(green, {}, store(), cache=tmp_path / "cache", progress=False)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever machines are fitted."""
    count: list[int] = []

    def counted(*args: object, **kwargs: object) -> AttributeSVM:
        count.append(1)
        return fit_svm(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(svm_module, "fit_svm", counted)
    return count


@needs_sklearn
def test_the_cache_fits_once_and_then_needs_no_scikit_learn(
    tmp_path: Path, fits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, network = tmp_path / "new" / "cache", Discriminator()
    first = cached_svm(network.features, network.state_dict(), store(), cache=cache, progress=False)
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    second = cached_svm(network.features, network.state_dict(), store(), cache=str(cache), progress=False)
    assert len(fits) == 1
    assert (second.cost, second.photos, second.training) == (first.cost, first.photos, False)
    images = store().images
    np.testing.assert_array_equal(
        decisions(first, network.features, images), decisions(second, network.features, images)
    )
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]  # and nothing temporary


@needs_sklearn
def test_the_cache_tells_apart_networks_photos_labels_attributes_and_settings(tmp_path: Path, fits: list[int]) -> None:
    network, other = Discriminator(), Discriminator(seed=1)
    relabelled = store()
    relabelled.labels[0, 0] ^= 1
    moved = Discriminator()
    assert moved.norm.running_mean is not None
    moved.norm.running_mean += 0.1  # buffers count too
    variants = [
        (network, store(), ONE_COST),
        (other, store(), ONE_COST),
        (moved, store(), ONE_COST),
        (network, store(seed=1), ONE_COST),
        (network, relabelled, ONE_COST),
        (network, store(names=("Red", "Dark")), ONE_COST),
        (network, store(size=10), ONE_COST),
        (network, store(), SVMConfig(costs=(0.02,))),
        (network, store(), dataclasses.replace(ONE_COST, seed=1)),
    ]
    for each, data, config in variants * 2:
        cached_svm(each.features, each.state_dict(), data, config, cache=tmp_path, progress=False)
    assert len(fits) == len(variants)


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "emptied": (lambda content: b"", "is damaged"),
    "truncated": (lambda content: content[:-9], "is damaged"),
    "a byte changed": (
        lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        "is damaged: it has cha",
    ),
    "other machines": (lambda content: save(AttributeSVM(3, 2).state_dict()), "is damaged: it holds the weights"),
    "without digest": (lambda content: save(load(content)), "is damaged: it has changed"),
}


@needs_sklearn
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_file_is_replaced_and_says_why(tmp_path: Path, fits: list[int], damage: str) -> None:
    network = Discriminator()

    def get() -> AttributeSVM:
        return cached_svm(network.features, network.state_dict(), store(), ONE_COST, cache=tmp_path, progress=False)

    first = get()
    (path,) = tmp_path.iterdir()
    act, reason = DAMAGES[damage]
    path.write_bytes(act(path.read_bytes()))
    with pytest.warns(UserWarning, match=rf"^{path}: {reason}.*; the L2-SVM is fitted again$") as caught:
        again = get()
    assert len(caught) == 1
    assert Path(caught[0].filename) == Path(__file__)
    assert torch.equal(again.labels.weight, first.labels.weight)
    with no_warning():
        get()
    assert len(fits) == 2


def test_what_is_in_the_cache_files_place_is_refused_before_the_work(tmp_path: Path, fits: list[int]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/svm-8-.*: cannot be written: .*file is a file, expected a folder"):
        cached_svm(green, {}, store(), cache=tmp_path / "file", progress=False)
    assert not fits

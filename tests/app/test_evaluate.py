import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from igan_fast.app import evaluate as evaluate_module
from igan_fast.app.evaluate import Evaluation, edit_scores, evaluate, generation_hamming_loss
from igan_fast.baselines.cnn import AttributeCNN, predict
from igan_fast.data import build_store, open_source, to_float, to_uint8
from igan_fast.errors import InputError
from igan_fast.reference import IterativeGAN
from igan_fast.train.save import save_checkpoint

NAMES = ("Male", "Smiling", "Eyeglasses")
COUNT = 120


class ChannelJudge(AttributeCNN):
    """Attribute k is there if channel k is brighter than half."""

    def __init__(self) -> None:
        super().__init__(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return 100 * x.mean(dim=(2, 3))


class Painter(nn.Module):
    """A perfect model for ``ChannelJudge``, but that its last attribute does not reach the picture."""

    def arguments(self) -> dict[str, int]:
        return {"image_size": 32, "attributes": 3, "latent": 2}

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(x), 2), 100 * x.mean(dim=(2, 3))

    def generate(self, z: Tensor, c: Tensor) -> Tensor:
        assert z.shape == (len(c), 2)
        channels = torch.stack([c[:, 0], c[:, 1], torch.ones(len(c))], dim=1)
        return (2 * channels - 1)[:, :, None, None].expand(-1, -1, 32, 32)


def colours(*rows: tuple[int, int, int]) -> np.ndarray:
    return np.array(rows, np.uint8)[:, None, None, :].repeat(32, axis=1).repeat(32, axis=2)


def test_edits_that_show_and_edits_that_do_not() -> None:
    images = colours((0, 0, 0), (255, 0, 0), (255, 255, 255), (0, 255, 255), (0, 0, 0))
    change, confirmed = edit_scores(Painter(), ChannelJudge().eval(), images)  # type: ignore[arg-type]
    np.testing.assert_allclose(change, [1, 1, 0], atol=1e-6)
    # The last channel is always painted bright: right where the flip asks for "present", in the three dark ones.
    np.testing.assert_allclose(confirmed, [1, 1, 3 / 5])


def test_edit_scores_are_those_of_transform(monkeypatch: pytest.MonkeyPatch, model: IterativeGAN) -> None:
    torch.manual_seed(1)
    judge = AttributeCNN(32, 3).eval()
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    model.eval()
    x = to_float(torch.from_numpy(images))
    with torch.no_grad():
        recognised = model.encode(x).label_logits.sigmoid().numpy()
        expected = []
        for index in range(3):
            at_0, at_1, flipped = (
                predict(judge, to_uint8(model.transform(x, {index: value})))[:, index]  # type: ignore[dict-item]
                for value in (0, 1, "flip")
            )
            asked = recognised[:, index] < 0.5
            expected.append([(at_1 - at_0).mean(), ((flipped > 0.5) == asked).mean()])
    for batch in (2, 100):
        monkeypatch.setattr(evaluate_module, "BATCH", batch)
        found = edit_scores(model.train(), judge, images)
        np.testing.assert_allclose(np.stack(found, axis=1), expected, atol=1e-4)
        assert model.training


def test_generated_faces_are_judged_against_the_labels_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.array([[0, 0, 0], [1, 0, 1], [1, 1, 1], [0, 1, 0], [0, 0, 1]], np.uint8)
    for batch in (2, 100):
        monkeypatch.setattr(evaluate_module, "BATCH", batch)
        loss = generation_hamming_loss(Painter(), ChannelJudge().eval(), labels)  # type: ignore[arg-type]
        assert loss == pytest.approx(2 / 15)  # the last attribute is painted as present and is asked for in 3 of 5


@pytest.fixture(scope="module")
def model() -> IterativeGAN:
    torch.manual_seed(0)
    model = IterativeGAN(image_size=32, attributes=3, latent=4, width=2)
    with torch.no_grad():
        for _ in range(60):  # until the running statistics are those of the activations
            model.rebuild(torch.rand(16, 3, 32, 32) * 2 - 1)
        model.generator.to_rgb.weight.mul_(10)
        model.classifier.labels.weight.mul_(100)  # verdicts that do not hang on the last bit
    return model


@pytest.fixture(scope="module")
def run(model: IterativeGAN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a few drawn faces, with other settings than the defaults: the evaluation has to take them over."""
    run = tmp_path_factory.mktemp("run")
    state = {
        "model": {"arguments": model.arguments(), "attributes": list(NAMES)},
        "config": {"drawn_count": COUNT, "seed": 3, "split": "official", "strict": False},
    }
    save_checkpoint(run, 42, {"model": model.state_dict()}, state)
    return run


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def evaluation(run: Path, cache: Path) -> Evaluation:
    return evaluate(run, "drawn", edit_photos=3, cache=cache, progress=False)


def test_the_protocol_is_told(evaluation: Evaluation, run: Path) -> None:
    source = open_source("drawn", drawn_count=COUNT, seed=3, attributes=NAMES)
    assert evaluation.data == source.describe()
    assert (evaluation.split, evaluation.photos) == ("val", len(source.splits["val"]))
    assert (evaluation.image_size, evaluation.iteration, evaluation.edit_photos) == (32, 42, 3)
    assert evaluation.checkpoint == str(run / "checkpoints" / "step-00000042")
    assert [row.name for row in evaluation.attributes] == list(NAMES)


def test_recognition_and_rebuilds_are_the_model_s_own(evaluation: Evaluation, model: IterativeGAN, cache: Path) -> None:
    source = open_source("drawn", drawn_count=COUNT, seed=3, attributes=NAMES)
    store = build_store(source, 32, cache=cache, workers=1, progress=False)
    rows, train = store.splits["val"], store.splits["train"]
    truth = store.labels[rows]
    with torch.no_grad():
        x = to_float(torch.from_numpy(store.images[rows]))
        predicted = (model.eval().encode(x).label_logits.sigmoid() > 0.5).numpy()
        l1 = (model.rebuild(x) - x).abs().mean().item()
    assert evaluation.model.hamming_loss == pytest.approx(np.mean(predicted != truth))
    assert evaluation.model.accuracy == pytest.approx(1 - evaluation.model.hamming_loss)
    assert evaluation.rebuild_l1 == pytest.approx(l1, rel=1e-5)
    majority = 2 * store.labels[train].sum(axis=0) > len(train)
    assert evaluation.majority.hamming_loss == pytest.approx(np.mean(majority != truth))
    for index, row in enumerate(evaluation.attributes):
        assert row.present == pytest.approx(truth[:, index].mean())
        assert row.accuracy == pytest.approx(np.mean(predicted[:, index] == truth[:, index]))
        assert row.majority_accuracy == pytest.approx(np.mean(majority[index] == truth[:, index]))


def test_the_judge_is_trained_once_and_its_scores_are_all_there(
    evaluation: Evaluation, run: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igan_fast.baselines.cnn.train_cnn", None)  # to train again would fail
    again = evaluate(str(run), "drawn", edit_photos=3, cache=str(cache), progress=False)
    assert again.to_json() == evaluation.to_json()
    assert evaluation.judge is not None
    assert evaluation.generated_hamming_loss is not None
    assert 0 <= evaluation.generated_hamming_loss <= 1
    for row in evaluation.attributes:
        assert None not in (row.judge_accuracy, row.edit_change, row.edit_confirmed)
    accuracies = [row.judge_accuracy for row in evaluation.attributes]
    assert np.mean(accuracies) == pytest.approx(1 - evaluation.judge.hamming_loss)  # type: ignore[arg-type]


def test_limit_takes_photos_spread_over_the_split(run: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    inner = evaluate_module._recognise_and_rebuild
    monkeypatch.setattr(
        evaluate_module, "_recognise_and_rebuild", lambda m, s, rows: seen.append(rows) or inner(m, s, rows)
    )
    source = open_source("drawn", drawn_count=COUNT, seed=3)
    for limit in (1, 4, 10**6):
        result = evaluate(run, "drawn", split="train", limit=limit, judge=None, cache=cache, progress=False)
        rows = seen.pop()
        train = source.splits["train"]
        assert result.photos == len(rows) == min(limit, len(train))
        assert np.isin(rows, train).all()
        gaps = np.diff(np.flatnonzero(np.isin(train, rows)))
        assert len(rows) == 1 or gaps.max() - gaps.min() <= 1


def test_without_a_judge_nothing_is_trained(run: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_module, "cached_cnn", None)
    result = evaluate(run, "drawn", judge=None, cache=cache, progress=False)
    assert result.judge is None
    assert result.generated_hamming_loss is None
    assert result.edit_photos == 0
    assert json.loads(result.to_json())["attributes"][0]["edit_change"] is None
    assert "Hamming loss" in result.table()


def test_a_judge_of_one_s_own(run: Path, cache: Path) -> None:
    result = evaluate(run, "drawn", limit=2, judge=ChannelJudge().eval(), cache=cache, progress=False)
    assert result.edit_photos == 2
    with pytest.raises(InputError, match="judge: knows 5 attributes, the model 3"):
        evaluate(run, "drawn", judge=AttributeCNN(32, 5), cache=cache, progress=False)


def test_paths_below_a_home_and_a_device_that_is_chosen(
    run: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate(run, "drawn", limit=2, judge=None, cache=cache, device="cpu", progress=False)
    monkeypatch.setenv("HOME", str(run.parent))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = evaluate(f"~/{run.name}", "drawn", limit=2, judge=None, cache=cache, device="auto", progress=False)
    assert found == expected
    for argument in ("model", "cache"):
        paths: dict[str, Any] = {"model": run, "cache": cache} | {argument: ""}
        with pytest.raises(InputError, match=f"{argument}: is empty"):
            evaluate(data="drawn", judge=None, progress=False, **paths)
    with pytest.raises(InputError, match=f"{run.parent / 'gone'}: no such folder"):
        evaluate(run, "~/gone", judge=None, cache=cache, progress=False)


def test_where_a_judge_of_one_s_own_lies_the_model_goes(
    run: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    result = evaluate(run, "drawn", limit=2, judge=ChannelJudge().eval(), cache=cache, progress=False)
    assert result.edit_photos == 2


def test_bad_requests_are_refused(run: Path, cache: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ({"split": "vall"}, r"split: this data has no 'vall' photos, it has train \("),
        ({"limit": 0}, "limit: found 0"),
        ({"edit_photos": 0}, "edit_photos: found 0"),
        ({"seed": -1}, "seed: found -1"),
        ({"seed": 2**63}, "seed: found 9223372036854775808"),
        ({"device": "cuda:99"}, "device: found 'cuda:99'"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(run, "drawn", judge=None, cache=cache, progress=False, **arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="gone"):
        evaluate(run, tmp_path / "gone", cache=cache, progress=False)
    with pytest.raises(InputError, match="gone"):
        evaluate(tmp_path / "gone", "drawn", cache=cache, progress=False)


def test_a_model_with_an_attribute_that_the_data_lacks(model: IterativeGAN, cache: Path, tmp_path: Path) -> None:
    described = {"arguments": model.arguments(), "attributes": ["Male", "Smiling", "Wearing_Monocle"]}
    save_checkpoint(tmp_path, 1, {"model": model.state_dict()}, {"model": described})
    with pytest.raises(InputError, match="drawn: has no attribute 'Wearing_Monocle'"):
        evaluate(tmp_path, "drawn", cache=cache, progress=False)


def test_results_that_are_no_numbers_are_refused(model: IterativeGAN, cache: Path, tmp_path: Path) -> None:
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for tensor in weights.values():
        if tensor.is_floating_point():
            tensor.fill_(1e30)
    arguments = {
        "model": {"arguments": model.arguments(), "attributes": list(NAMES), "label_samples": []},
        "config": {"drawn_count": COUNT},
    }
    folder = save_checkpoint(tmp_path, 1, {"model": weights}, arguments)
    with pytest.raises(InputError, match="its results are NaN or infinite; its weights may be too large"):
        evaluate(folder, "drawn", cache=cache, judge=None, progress=False)

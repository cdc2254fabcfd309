import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from painted_attributes import ChannelJudge

from igan_fast.app import evaluate as evaluate_module
from igan_fast.app.edits import companion_pairs, edit_scores
from igan_fast.app.evaluate import Evaluation, evaluate
from igan_fast.app.observation import flipped_in_turn
from igan_fast.baselines.cnn import SECOND_JUDGE, AttributeCNN, cached_cnn, predict
from igan_fast.checkpoint.labels import counted_labels
from igan_fast.data import FaceStore, build_store, open_source, to_float, to_uint8
from igan_fast.errors import InputError
from igan_fast.metrics import balanced_thresholds, frechet_distance, grain
from igan_fast.reference import IterativeGAN
from igan_fast.reference.editing import Companions
from igan_fast.reference.residual import on_photos
from igan_fast.train.save import save_checkpoint

NAMES = ("Male", "Smiling", "Wearing_Lipstick")  # the first and the last are correlated
COUNT = 120


@pytest.fixture(scope="module")
def run(model: IterativeGAN, store: FaceStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a few drawn faces, with other settings than the defaults: the evaluation has to take them over."""
    run = tmp_path_factory.mktemp("run")
    state = {
        "model": {"arguments": model.arguments(), "attributes": list(NAMES)},
        "config": {"drawn_count": COUNT, "seed": 3, "split": "official", "strict": False, "film": True},
    }
    labels = counted_labels(torch.from_numpy(store.labels[store.splits["train"]]))
    save_checkpoint(run, 42, {"model": model.state_dict(), "labels": labels}, state)
    return run


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def evaluation(run: Path, cache: Path) -> Evaluation:
    return evaluate(run, "drawn", edit_photos=3, cache=cache, progress=False)


@pytest.fixture(scope="module")
def store(cache: Path) -> FaceStore:
    """The photos of the run."""
    source = open_source("drawn", drawn_count=COUNT, seed=3, attributes=NAMES)
    return build_store(source, 32, cache=cache, workers=1, progress=False)


def test_the_protocol_is_told(evaluation: Evaluation, run: Path) -> None:
    source = open_source("drawn", drawn_count=COUNT, seed=3, attributes=NAMES)
    assert evaluation.data == source.describe()
    assert (evaluation.split, evaluation.photos) == ("val", len(source.splits["val"]))
    assert (evaluation.image_size, evaluation.iteration, evaluation.edit_photos) == (32, 42, 3)
    assert (evaluation.edit_strength, evaluation.edit_companions) == (2.0, True)
    assert evaluation.additions == "--film True"
    assert evaluation.checkpoint == str(run / "checkpoints" / "step-00000042")
    assert [row.name for row in evaluation.attributes] == list(NAMES)


@pytest.mark.every_build
def test_recognition_and_rebuilds_are_the_model_s_own(
    evaluation: Evaluation, model: IterativeGAN, store: FaceStore
) -> None:
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


def test_the_judges_are_trained_once_and_their_scores_are_all_there(
    evaluation: Evaluation, run: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igan_fast.baselines.cnn.train_cnn", None)  # to train again would fail
    again = evaluate(str(run), "drawn", edit_photos=3, cache=str(cache), progress=False)
    assert again.to_json() == evaluation.to_json()
    assert [judge.name for judge in evaluation.judges] == ["plain CNN", "second CNN"]
    for number, judge in enumerate(evaluation.judges):
        assert 0 <= judge.generated_hamming_loss <= 1
        accuracies = [row.judges[number].accuracy for row in evaluation.attributes]
        assert np.mean(accuracies) == pytest.approx(1 - judge.recognition.hamming_loss)
        for name in ("edit_change", "edit_confirmed", "unedited_confirmed", "change_of_others"):
            mean = np.mean([getattr(row.judges[number], name) for row in evaluation.attributes])
            assert getattr(judge, name) == pytest.approx(mean)
        for value, interval in (
            (judge.edit_confirmed, judge.edit_confirmed_interval),
            (judge.edit_confirmed_balanced, judge.edit_confirmed_balanced_interval),
            (judge.edit_change, judge.edit_change_interval),
            (judge.generated_hamming_loss, judge.generated_hamming_loss_interval),
        ):
            assert value is not None
            assert interval is not None
            assert interval[0] - 1e-9 <= value <= interval[1] + 1e-9
    assert evaluation.judges[0].recognition != evaluation.judges[1].recognition
    assert evaluation.judge == evaluation.judges[0].recognition
    assert evaluation.rebuild_l1_interval is not None
    assert evaluation.rebuild_l1_interval[0] < evaluation.rebuild_l1 < evaluation.rebuild_l1_interval[1]


@pytest.mark.parametrize("companions", [True, False])
def test_edits_are_those_asked_for(
    run: Path, cache: Path, store: FaceStore, model: IterativeGAN, companions: bool
) -> None:
    found = evaluate(run, "drawn", edit_photos=3, strength=0.7, companions=companions, cache=cache, progress=False)
    assert (found.edit_strength, found.edit_companions) == (0.7, companions)
    known = Companions.of_labels(torch.from_numpy(store.labels[store.splits["train"]]))
    related = companion_pairs(known, 3)
    assert related.any()
    moving = known if companions else None
    rows = store.splits["val"]
    chosen = rows[np.arange(3) * len(rows) // 3]
    judges = [cached_cnn(store, config, cache=cache, progress=False) for config in (None, SECOND_JUDGE)]
    expected = edit_scores(model, judges, store.images[chosen], strength=0.7, companions=moving, related=related)
    for number, (judge, scores) in enumerate(zip(judges, expected, strict=True)):
        answers = predict(judge, store.images[rows])
        thresholds = balanced_thresholds(answers, store.labels[rows])
        columns = {
            "balanced_threshold": thresholds,
            "recall_present": [np.mean(answers[store.labels[rows, a] == 1, a] > 0.5) for a in range(3)],
            "edit_change": scores.change.mean(axis=0),
            "edit_confirmed": scores.confirmed().mean(axis=0),
            "edit_confirmed_balanced": scores.confirmed(thresholds).mean(axis=0),
            "unedited_confirmed_balanced": scores.unedited_confirmed(thresholds).mean(axis=0),
            "change_of_unrelated": scores.change_of_unrelated.mean(axis=0),
        }
        for name, column in columns.items():
            values = [getattr(row.judges[number], name) for row in found.attributes]
            np.testing.assert_allclose(np.array(values, np.float64), column, atol=1e-5)
    for index, row in enumerate(found.attributes):
        assert row.companions == (tuple(np.array(NAMES)[related[index]]) if companions else ())
        assert row.edit_confirmed == row.judges[0].edit_confirmed


def test_edits_that_keep_the_photo(run: Path, cache: Path, store: FaceStore, model: IterativeGAN) -> None:
    found = evaluate(run, "drawn", edit_photos=3, keep="photo", companions=False, cache=cache, progress=False)
    assert (found.edit_keep, found.edit_strength) == ("photo", 2)
    assert "added to the photo, strength 2" in found.table()
    rows = store.splits["val"]
    judge = cached_cnn(store, cache=cache, progress=False)
    (expected,) = edit_scores(
        model, [judge], store.images[rows[np.arange(3) * len(rows) // 3]], keep="photo", strength=2.0
    )
    for index, row in enumerate(found.attributes):
        assert row.judges[0].edit_confirmed == pytest.approx(expected.confirmed().mean(axis=0)[index])
        assert row.judges[0].edit_change == pytest.approx(expected.change.mean(axis=0)[index], abs=1e-5)
    x = to_float(torch.from_numpy(store.images[rows]))
    with torch.no_grad():
        z, logits = model.eval().encode(x)
        c = logits.sigmoid()
        flipped = flipped_in_turn(c, 0, strength=2.0, companions=None)
        edited = to_float(to_uint8(on_photos(x, model.generate(z, c), model.generate(z, flipped))))
    assert found.edited.grain == pytest.approx((grain(edited).mean() / grain(x).mean()).item(), rel=1e-3)


def test_an_older_checkpoint_has_no_companions(model: IterativeGAN, cache: Path, tmp_path: Path) -> None:
    described = {"arguments": model.arguments(), "attributes": list(NAMES)}
    save_checkpoint(tmp_path, 1, {"model": model.state_dict()}, {"model": described, "config": {"drawn_count": COUNT}})
    found = evaluate(tmp_path, "drawn", limit=3, judges=ChannelJudge(), cache=cache, progress=False)
    assert found.edit_companions is False
    assert found.additions == "none"
    assert all(row.companions == () for row in found.attributes)
    for row in found.attributes:
        assert row.judges[0].change_of_unrelated == row.judges[0].change_of_others


def test_images_are_compared_with_the_scored_photos(
    evaluation: Evaluation, store: FaceStore, model: IterativeGAN, cache: Path
) -> None:
    rows, train = store.splits["val"], store.splits["train"]
    judge = cached_cnn(store, cache=cache, progress=False)
    companions = Companions.of_labels(torch.from_numpy(store.labels[train]))
    photos = to_float(torch.from_numpy(store.images[rows]))
    noise = np.random.default_rng(0).uniform(-1, 1, (len(rows), 4)).astype(np.float32)
    with torch.no_grad():
        z, logits = model.eval().encode(photos)
        c = logits.sigmoid()
        sets = {
            "rebuilt": model.generate(z, c),
            "edited": model.generate(z, flipped_in_turn(c, 0, strength=2.0, companions=companions)),
            "generated": model.generate(torch.from_numpy(noise), torch.from_numpy(store.labels[rows]).float()),
            "training_photos": to_float(
                torch.from_numpy(store.images[train[np.arange(len(rows)) * len(train) // len(rows)]])
            ),
        }
        for name, images in sets.items():
            found = getattr(evaluation, name)
            x = to_float(to_uint8(images))
            assert found.images == len(rows)
            assert found.grain == pytest.approx((grain(x).mean() / grain(photos).mean()).item(), rel=1e-3)
            distance = frechet_distance(judge.pooled(x).numpy(), judge.pooled(photos).numpy())
            assert found.frechet_in_judge == pytest.approx(distance, rel=1e-2)


def test_photos_that_are_scored_are_not_compared_with_themselves(run: Path, cache: Path, store: FaceStore) -> None:
    train = len(store.splits["train"])
    for limit, left in ((None, 0), (train - 3, 3)):
        found = evaluate(run, "drawn", split="train", limit=limit, judges=0, cache=cache, progress=False)
        assert found.training_photos.images == left
    assert found.training_photos.grain is not None


def test_a_single_photo_has_no_interval_no_threshold_and_no_distance(run: Path, cache: Path) -> None:
    found = evaluate(run, "drawn", limit=1, cache=cache, progress=False)
    assert (found.photos, found.edit_photos) == (1, 1)
    assert found.rebuild_l1_interval is found.model.hamming_loss_interval is None
    assert found.rebuilt.frechet_in_judge is found.generated.frechet_in_judge is None
    for row in found.attributes:
        assert row.present in (0, 1)
        for judge in row.judges:
            assert judge.balanced_threshold is judge.edit_confirmed_balanced is None
            assert (judge.recall_present is None) != (judge.recall_absent is None)
    for judge in found.judges:
        assert judge.edit_confirmed_balanced is judge.edit_confirmed_interval is None
    assert json.loads(found.to_json())["judges"][0]["edit_confirmed_balanced"] is None
    table = dataclasses.replace(found, missing=()).table()
    assert "nan" not in table
    assert "None" not in table


def test_limit_takes_photos_spread_over_the_split(run: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    inner = evaluate_module.draw_again

    def noted(model: Any, judges: Any, store: Any, rows: np.ndarray, **options: Any) -> Any:
        seen.append(rows)
        return inner(model, judges, store, rows, **options)

    monkeypatch.setattr(evaluate_module, "draw_again", noted)
    source = open_source("drawn", drawn_count=COUNT, seed=3)
    for limit in (1, 4, 10**6):
        result = evaluate(run, "drawn", split="train", limit=limit, judges=0, cache=cache, progress=False)
        rows = seen.pop()
        train = source.splits["train"]
        assert result.photos == len(rows) == min(limit, len(train))
        assert np.isin(rows, train).all()
        gaps = np.diff(np.flatnonzero(np.isin(train, rows)))
        assert len(rows) == 1 or gaps.max() - gaps.min() <= 1


def test_without_a_judge_nothing_is_trained(run: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_module, "cached_cnn", None)
    result = evaluate(run, "drawn", judges=0, cache=cache, progress=False)
    assert result.judges == ()
    assert result.judge is result.generated_hamming_loss is result.edit_confirmed is None
    assert result.edit_photos == 0
    assert result.generated.grain is not None
    assert result.generated.frechet_in_judge is None
    assert json.loads(result.to_json())["attributes"][0]["edit_change"] is None
    assert "Hamming loss" in result.table()


@pytest.mark.parametrize("count", [1, 2])
def test_judges_of_one_s_own(run: Path, cache: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_module, "cached_cnn", None)
    given: Any = ChannelJudge() if count == 1 else [ChannelJudge(), AttributeCNN(32, 3).eval()]
    result = evaluate(run, "drawn", limit=2, judges=given, cache=cache, progress=False)
    assert result.edit_photos == 2
    assert [judge.name for judge in result.judges] == ["judge 1", "judge 2"][:count]
    with pytest.raises(InputError, match="judges: judge 2 knows 5 attributes, the model 3"):
        evaluate(run, "drawn", judges=[ChannelJudge(), AttributeCNN(32, 5)], cache=cache, progress=False)


def test_the_number_of_judges(run: Path, cache: Path, evaluation: Evaluation) -> None:
    one = evaluate(run, "drawn", judges=1, edit_photos=3, cache=cache, progress=False)
    assert one.judges == evaluation.judges[:1]
    assert one.generated_hamming_loss == evaluation.generated_hamming_loss


def test_paths_below_a_home_and_a_device_that_is_chosen(
    run: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate(run, "drawn", limit=2, judges=0, cache=cache, device="cpu", progress=False)
    monkeypatch.setenv("HOME", str(run.parent))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = evaluate(f"~/{run.name}", "drawn", limit=2, judges=0, cache=cache, device="auto", progress=False)
    assert found == expected
    for argument in ("model", "cache"):
        paths: dict[str, Any] = {"model": run, "cache": cache} | {argument: ""}
        with pytest.raises(InputError, match=f"{argument}: is empty"):
            evaluate(data="drawn", judges=0, progress=False, **paths)
    with pytest.raises(InputError, match=f"{run.parent / 'gone'}: no such folder"):
        evaluate(run, "~/gone", judges=0, cache=cache, progress=False)


def test_where_a_judge_of_one_s_own_lies_the_model_goes(
    run: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    result = evaluate(run, "drawn", limit=2, judges=ChannelJudge(), cache=cache, progress=False)
    assert result.edit_photos == 2


def test_bad_requests_are_refused(run: Path, cache: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ({"split": "vall"}, r"split: this data has no 'vall' photos, it has train \("),
        ({"limit": 0}, "limit: found 0"),
        ({"edit_photos": 0}, "edit_photos: found 0"),
        ({"seed": -1}, "seed: found -1"),
        ({"seed": 2**63}, "seed: found 9223372036854775808"),
        ({"strength": -0.5}, "strength: found -0.5, expected a number from 0 to 10"),
        ({"companions": None}, "companions: found None, expected True or False"),
        ({"strength": float("nan")}, "strength: found nan"),
        ({"strength": float("inf")}, "strength: found inf"),
        ({"judges": 3}, "judges: found 3, expected 0, 1, 2, or one or two networks"),
        ({"judges": -1}, "judges: found -1"),
        ({"judges": []}, r"judges: found \[\]"),
        ({"judges": [ChannelJudge()] * 3}, "judges: found .*, expected 0, 1, 2"),
        ({"judges": "auto"}, "judges: found 'auto'"),
        ({"judges": [ChannelJudge(), ChannelJudge().to("meta")]}, "judges: found networks on cpu and meta"),
        ({"device": "cuda:99"}, "device: found 'cuda:99'"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(run, "drawn", cache=cache, progress=False, **({"judges": 0} | arguments))  # type: ignore[arg-type, operator]
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
        evaluate(folder, "drawn", cache=cache, judges=0, progress=False)

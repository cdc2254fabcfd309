"""Scores a trained model on held-out photos: recognition, rebuilds and edits, with the protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from igan_fast.app.report import AttributeReport, Evaluation, Recognition
from igan_fast.baselines.cnn import AttributeCNN, cached_cnn, predict
from igan_fast.checkpoint import load_model
from igan_fast.data import FaceStore, build_store, open_source, spread, to_float, to_uint8
from igan_fast.data.attributes import UnknownAttribute
from igan_fast.devices import resolve_device
from igan_fast.errors import InputError
from igan_fast.metrics import (
    attribute_scores,
    finite_results,
    hamming_loss,
    image_quality,
    in_eval_mode,
    majority_labels,
)
from igan_fast.paths import given_path
from igan_fast.progress import progress_bar
from igan_fast.reference.models import IterativeGAN

__all__ = ["Evaluation", "edit_scores", "evaluate", "generation_hamming_loss"]

#: Batch size of the networks; no score depends on it.
BATCH = 100

#: The options of a training run that decide which photos it was trained on and which were held out.
_DATA_OPTIONS = ("split", "strict", "seed", "drawn_count")


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    split: str = "val",
    limit: int | None = None,
    edit_photos: int = 200,
    judge: AttributeCNN | Literal["auto"] | None = "auto",
    weights: Literal["ema", "model"] = "ema",
    cache: str | Path | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Score a model on photos that it has not seen.

    The data is split as in the run that trained the model. *Recognition* is compared with the majority answer of the
    training labels and with a plain CNN. *Rebuilds* are scored by L1, PSNR and SSIM. *Edits* are scored by the judge.
    The judge is the same plain CNN, trained only on real training photos: see ``edit_scores`` and
    ``generation_hamming_loss``.

    Args:
        model: a run (its best checkpoint) or a checkpoint folder.
        data: ``"drawn"`` or a folder of photos, see ``igan_fast.data.open_source``.
        split: the photos to score: ``"train"``, ``"val"`` or, if the data has one, ``"test"``.
        limit: score at most this many of them, evenly spaced; all by default.
        edit_photos: edit at most this many of these, evenly spaced; each is edited 2A times.
        judge: ``"auto"`` trains a judge, or takes it from the cache. None leaves out the scores that need a judge.
        weights: ``"ema"`` takes the averaged weights, or the plain ones if the run kept no average; ``"model"`` takes
            the plain ones.
        cache: folder of decoded images and judges, ``igan_fast.data.cache_folder()`` by default.
        device: the device of the model, and of a judge that is trained or taken from the cache. ``"auto"`` takes the
            device of the ``judge`` that is passed, otherwise the GPU if there is one.
        seed: the seed of the generated faces' noise, from 0 to 2⁶³ − 1.
        progress: show progress bars on stderr.

    Returns:
        The protocol and the scores.

    Raises:
        InputError: there is no model or no data at the path, the model is damaged, the data lacks one of the model's
            attributes, the split is empty, the device is not available, or an argument is out of its range.
    """
    for name, value in (("limit", limit), ("edit_photos", edit_photos)):
        if value is not None and value < 1:
            raise InputError(f"{name}: found {value}, expected at least 1")
    if not 0 <= seed < 2**63:
        raise InputError(f"seed: found {seed}, expected from 0 to 2⁶³ − 1")
    if device == "auto" and isinstance(judge, AttributeCNN):
        device = judge.labels.weight.device
    device = resolve_device(device)
    data = given_path(data, "data") if str(data) not in ("drawn", "") else data
    cache = None if cache is None else given_path(cache, "cache")
    loaded = load_model(given_path(model, "model"), device=device, weights=weights)
    options: dict[str, Any] = {name: loaded.config[name] for name in _DATA_OPTIONS if name in loaded.config}
    try:
        source = open_source(data, attributes=loaded.attributes, **options)
    except UnknownAttribute as error:
        raise InputError(
            f"data: {data}: has no attribute {error.name!r}, one of the {len(loaded.attributes)} that this model "
            f"recognises ({model})"
        ) from error
    size: int = loaded.model.arguments()["image_size"]
    store = build_store(source, size, cache=cache, strict=bool(options.get("strict")), progress=progress)
    rows = spread(_rows_of(store, split), limit)
    if judge == "auto":
        judge = cached_cnn(store, cache=cache, device=device, progress=progress)
    elif judge is not None and judge.labels.out_features != len(loaded.attributes):
        raise InputError(f"judge: knows {judge.labels.out_features} attributes, the model {len(loaded.attributes)}")

    labels = store.labels[rows].astype(np.bool_)
    predicted, l1, psnr, ssim = _recognise_and_rebuild(loaded.model, store, rows)
    majority = np.broadcast_to(majority_labels(store.labels[store.splits["train"]]), labels.shape)
    columns: dict[str, NDArray[np.float64]] = {
        "present": labels.mean(axis=0),
        "majority_accuracy": attribute_scores(majority, labels).accuracy,
        **vars(attribute_scores(predicted, labels)),
    }
    judged: NDArray[np.bool_] | None = None
    generated: float | None = None
    edited = spread(rows, edit_photos)
    if judge is not None:
        judged = predict(judge, store.images[rows]) > 0.5
        columns["judge_accuracy"] = attribute_scores(judged, labels).accuracy
        changes, confirmed = edit_scores(loaded.model, judge, store.images[edited], progress=progress)
        columns |= {"edit_change": changes, "edit_confirmed": confirmed}
        generated = generation_hamming_loss(loaded.model, judge, labels, seed=seed)
    return Evaluation(
        data=source.describe(),
        split=split,
        photos=len(rows),
        image_size=size,
        checkpoint=str(loaded.folder),
        iteration=loaded.iteration,
        edit_photos=len(edited) if judge is not None else 0,
        model=_recognition(predicted, labels),
        majority=_recognition(majority, labels),
        judge=None if judged is None else _recognition(judged, labels),
        rebuild_l1=l1,
        rebuild_psnr=psnr,
        rebuild_ssim=ssim,
        generated_hamming_loss=generated,
        attributes=tuple(_rows_of_report(loaded.attributes, columns)),
    )


def edit_scores(
    model: IterativeGAN, judge: AttributeCNN, images: NDArray[np.uint8], *, progress: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score how visible edits are. ``transform`` sets each attribute of each photo to 1 and to 0, and the judge looks
    for the attribute in both results.

    Args:
        model: on the judge's device.
        judge: in eval mode.
        images: (N, S, S, 3), N at least 1.

    Returns:
        Two arrays (A,). The first, ``change``, is the judge's probability of the attribute with the edit to 1, minus
        that with the edit to 0, as the mean over photos. It is 0 if the model ignores the attribute, and 1 if the judge
        is always sure. For the second, ``confirmed``, the attribute is flipped (``transform(x, {a: "flip"})``). It is
        the share of photos in which the judge's answer (probability above 0.5) is then the requested value.
    """
    device = judge.labels.weight.device
    attributes: int = model.arguments()["attributes"]
    change, confirmed = np.zeros(attributes), np.zeros(attributes)
    starts = range(0, len(images), BATCH)
    with (
        in_eval_mode(model),
        progress_bar(total=len(starts) * attributes, shown=progress, desc="Judging edits") as bar,
    ):
        for start in starts:
            z, logits = model.encode(to_float(torch.as_tensor(images[start : start + BATCH]).to(device)))
            recognised = torch.sigmoid(logits)
            flip_to_present = (recognised < 0.5).cpu().numpy()
            for index in range(attributes):
                verdicts = []
                for value in (0.0, 1.0):
                    c = recognised.clone()
                    c[:, index] = value
                    verdicts.append(predict(judge, to_uint8(model.generate(z, c)))[:, index])
                absent, present = verdicts
                change[index] += np.sum(present - absent, dtype=np.float64)
                asked = flip_to_present[:, index]
                confirmed[index] += np.sum((np.where(asked, present, absent) > 0.5) == asked)
                bar.update()
    return change / len(images), confirmed / len(images)


def generation_hamming_loss(model: IterativeGAN, judge: AttributeCNN, labels: NDArray[Any], *, seed: int = 0) -> float:
    """Generate a face for each row of ``labels`` (N, A). Return the judge's Hamming loss against ``labels``."""
    device = judge.labels.weight.device
    noise = np.random.default_rng(seed).uniform(-1, 1, (len(labels), model.arguments()["latent"])).astype(np.float32)
    verdicts = []
    with in_eval_mode(model):
        for start in range(0, len(labels), BATCH):
            part = slice(start, start + BATCH)
            z, c = (torch.from_numpy(array[part].astype(np.float32)).to(device) for array in (noise, labels))
            verdicts.append(predict(judge, to_uint8(model.generate(z, c))) > 0.5)
    return hamming_loss(np.concatenate(verdicts), labels)


def _recognise_and_rebuild(
    model: IterativeGAN, store: FaceStore, rows: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], float, float, float]:
    """Return the attributes that the model recognises (N, A), and the mean L1, PSNR and SSIM of its rebuilds."""
    device = next(model.parameters()).device
    verdicts, qualities = [], []
    with in_eval_mode(model):
        for start in range(0, len(rows), BATCH):
            x = to_float(torch.from_numpy(store.images[rows[start : start + BATCH]]).to(device))
            z, logits = model.encode(x)
            verdicts.append((finite_results(logits) > 0).cpu().numpy())
            qualities.append(
                torch.stack(image_quality(finite_results(model.generate(z, torch.sigmoid(logits))), x)).cpu()
            )
    l1, psnr, ssim = torch.cat(qualities, dim=1).double().mean(dim=1).tolist()
    return np.concatenate(verdicts), l1, psnr, ssim


def _recognition(predicted: NDArray[np.bool_], labels: NDArray[np.bool_]) -> Recognition:
    scores = attribute_scores(predicted, labels)
    defined = scores.f1[~np.isnan(scores.f1)]
    return Recognition(
        hamming_loss=hamming_loss(predicted, labels),
        accuracy=float(scores.accuracy.mean()),
        balanced_accuracy=float(scores.balanced_accuracy.mean()),
        f1=float(defined.mean()) if len(defined) else None,
    )


def _rows_of_report(names: tuple[str, ...], columns: Mapping[str, NDArray[np.float64]]) -> list[AttributeReport]:
    def row(index: int) -> dict[str, Any]:
        values = {name: float(column[index]) for name, column in columns.items()}
        return {name: None if math.isnan(value) else value for name, value in values.items()}

    return [AttributeReport(name=name, **row(index)) for index, name in enumerate(names)]


def _rows_of(store: FaceStore, split: str) -> NDArray[np.int64]:
    rows = store.splits.get(split)
    if rows is None or not len(rows):
        known = ", ".join(f"{name} ({len(found):,})" for name, found in store.splits.items())
        raise InputError(f"split: this data has no {split!r} photos, it has {known}")
    return rows

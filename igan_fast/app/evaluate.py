"""Scores a trained model on held-out photos: recognition, rebuilds, edits and generated faces, with the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from igan_fast.app.edits import EditScores, companion_pairs, edit_scores
from igan_fast.app.identity_scores import choose_embedder, identity_report
from igan_fast.app.kid_scores import choose_images, choose_network, judge_features, kid_reports
from igan_fast.app.observation import draw_again, generated_faces, generation_hamming_loss, training_photos
from igan_fast.app.report import AttributeReport, Evaluation
from igan_fast.app.summary import (
    defined,
    image_set_report,
    interval,
    judge_report,
    judged_attributes,
    recognition_report,
)
from igan_fast.baselines.cnn import SECOND_JUDGE, AttributeCNN, CNNConfig, cached_cnn
from igan_fast.checkpoint import load_model
from igan_fast.checkpoint.additions import described_additions
from igan_fast.data import FaceStore, build_store, open_source, spread
from igan_fast.data.attributes import UnknownAttribute
from igan_fast.devices import resolve_device
from igan_fast.edit_arguments import Keep, check_edit, check_keep
from igan_fast.errors import InputError, PackageMissing
from igan_fast.faces import training_aligner
from igan_fast.metrics import Embedder, attribute_scores, majority_labels
from igan_fast.paths import given_path
from igan_fast.reference.editing import STRENGTH

__all__ = ["EditScores", "Evaluation", "edit_scores", "evaluate", "generation_hamming_loss"]

#: The options of a training run that decide which photos it was trained on and which were held out.
_DATA_OPTIONS = ("split", "strict", "seed", "drawn_count")

#: The judges that are trained here, by name.
_JUDGES = {"plain CNN": CNNConfig(), "second CNN": SECOND_JUDGE}


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    split: str = "val",
    limit: int | None = None,
    edit_photos: int = 200,
    judges: int | AttributeCNN | Sequence[AttributeCNN] = 2,
    keep: Keep = "nothing",
    strength: float = STRENGTH,
    companions: bool = True,
    embedder: Embedder | str | None = None,
    inception: str | Path | None = None,
    kid_images: int = 1000,
    weights: Literal["ema", "model"] = "ema",
    cache: str | Path | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Score a model on photos that it has not seen.

    The data is split as in the run that trained the model. *Recognition* is compared with the majority answer of the
    training labels and with the judges. *Rebuilds* are scored by L1, PSNR and SSIM. *Edits* and *generated faces* are
    scored by the judges: CNNs that were trained only on the real training photos, to recognise the attributes. Edits
    are made as ``FaceEditor.transform`` makes them by default. The *identity* of rebuilds and edits is their distance
    from the person in the photo, by a face recognition network. The *KID* compares a whole set of images with the
    photos. ``igan_fast.report.Evaluation`` explains every score.

    Args:
        model: a run (its best checkpoint) or a checkpoint folder.
        data: ``"drawn"`` or a folder of photos, see ``igan_fast.data.open_source``.
        split: the photos to score: ``"train"``, ``"val"`` or, if the data has one, ``"test"``.
        limit: score at most this many of them, evenly spaced; all by default.
        edit_photos: let the judges look at edits of at most this many of these, evenly spaced; each is edited 2A times.
            The identity is measured on the same photos.
        judges: how many to train, or to take from the cache: 0, 1 (the plain CNN) or 2 (another one too, trained
            differently: ``igan_fast.baselines.cnn.SECOND_JUDGE``). Or one or two networks, in eval mode, on one device.
            0 leaves out the scores that need a judge.
        keep: what the edits keep, see ``igan_fast.app.edits.edit_scores``; ``"nothing"`` is the paper's.
        strength: of the edits, from 0 to 10, see ``igan_fast.reference.editing``; 1 is the paper's.
        companions: let the attributes that correlate with an edited one move along; False is the paper's way. If the
            checkpoint is of an older version and has no labels, none move.
        embedder: the face recognition network that measures the identity: a function from images (N, S, S, 3) uint8 to
            embeddings (N, E), see ``igan_fast.metrics.Embedder``; or its name, ``"module:function"``; or ``"dlib"``.
            None takes dlib's network if it is installed; otherwise there is no identity score, and the result says so.
        inception: the TorchScript file of an Inception network, see ``igan_fast.metrics.inception_features``. With it,
            the KID and the FID are those of other people's papers. None measures the KID in the features of
            EfficientNet-Lite0 if its weights are installed, otherwise in those of the first judge, and the result says
            in which.
        kid_images: measure the KID on at most this many images of each set, chosen at random.
        weights: ``"ema"`` takes the averaged weights, or the plain ones if the run kept no average; ``"model"`` takes
            the plain ones.
        cache: folder of decoded images and judges, ``igan_fast.data.cache_folder()`` by default.
        device: the device of the model, and of judges that are trained or taken from the cache. ``"auto"`` takes the
            device of the networks that are passed, otherwise the GPU if there is one.
        seed: the seed of the generated faces' noise, from 0 to 2⁶³ − 1.
        progress: show progress bars on stderr.

    Returns:
        The protocol and the scores.

    Raises:
        InputError: there is no model or no data at the path, the model is damaged, the data lacks one of the model's
            attributes, the split is empty, the device is not available, or an argument is out of its range. The
            embedder that is asked for is not installed or does not work, or the file is no Inception network.
    """
    for name, value in (("limit", limit), ("edit_photos", edit_photos), ("kid_images", kid_images)):
        if value is not None and value < 1:
            raise InputError(f"{name}: found {value}, expected at least 1")
    if not 0 <= seed < 2**63:
        raise InputError(f"seed: found {seed}, expected from 0 to 2⁶³ − 1")
    check_keep(keep)
    check_edit(strength, companions)
    count, own = _count_and_networks(judges)
    if device == "auto" and own:
        device = own[0].labels.weight.device
    device = resolve_device(device)
    missing: list[str] = []
    face_network: tuple[str, Embedder] | None = None
    try:
        face_network = choose_embedder(embedder)
    except PackageMissing as error:
        if embedder is not None:
            raise
        missing.append(str(error))
    comparing, lacking = choose_network(inception, device)
    missing += [lacking] if lacking else []
    data = given_path(data, "data") if str(data) not in ("drawn", "") else data
    cache = None if cache is None else given_path(cache, "cache")
    loaded = load_model(given_path(model, "model"), device=device, weights=weights)
    for number, network in enumerate(own, 1):
        if network.labels.out_features != len(loaded.attributes):
            raise InputError(
                f"judges: judge {number} knows {network.labels.out_features} attributes, "
                f"the model {len(loaded.attributes)}"
            )
    options: dict[str, Any] = {name: loaded.config[name] for name in _DATA_OPTIONS if name in loaded.config}
    try:
        align = training_aligner(loaded.config.get("align", "off"))
        source = open_source(data, attributes=loaded.attributes, align=align, **options)
    except UnknownAttribute as error:
        raise InputError(
            f"data: {data}: has no attribute {error.name!r}, one of the {len(loaded.attributes)} that this model "
            f"recognises ({model})"
        ) from error
    size: int = loaded.model.arguments()["image_size"]
    store = build_store(source, size, cache=cache, strict=bool(options.get("strict")), progress=progress)
    rows = spread(_rows_of(store, split), limit)
    named = {f"judge {number}": network for number, network in enumerate(own, 1)}
    for name in list(_JUDGES)[:count]:
        named[name] = cached_cnn(
            store, _JUDGES[name], cache=cache, device=device, progress=progress, called=f"the {name}"
        )
    if comparing is None and named:
        comparing = judge_features(*next(iter(named.items())))
    kept = choose_images(len(rows), kid_images) if comparing else None

    moving = loaded.companions if companions else None
    labels = store.labels[rows].astype(np.bool_)
    networks = tuple(named.values())
    drawn = draw_again(
        loaded.model,
        networks,
        store,
        rows,
        keep=keep,
        strength=strength,
        companions=moving,
        progress=progress,
        kept=kept,
    )
    sets = {
        "rebuilt": drawn.rebuilt,
        "edited": drawn.edited,
        "generated": generated_faces(loaded.model, networks, labels, seed=seed, device=device, kept=kept),
        "training_photos": training_photos(networks, store, rows, device, kept),
    }
    distances = kid_reports(
        comparing, {name: seen.images for name, seen in sets.items()}, drawn.photos.images, progress
    )
    edited = spread(rows, edit_photos)
    related = companion_pairs(loaded.companions, len(loaded.attributes))
    edits: tuple[EditScores, ...] = ()
    if networks:
        edits = edit_scores(
            loaded.model,
            networks,
            store.images[edited],
            keep=keep,
            strength=strength,
            companions=moving,
            related=related,
            progress=progress,
        )
    identity = None
    if face_network:
        identity = identity_report(
            face_network[1],
            face_network[0],
            loaded.model,
            source,
            store,
            edited,
            keep=keep,
            strength=strength,
            companions=moving,
            progress=progress,
        )

    answers = drawn.photos.probabilities if networks else ()
    answers_generated = sets["generated"].probabilities if networks else ()
    judged = [judged_attributes(found, labels, scores) for found, scores in zip(answers, edits, strict=True)]
    majority = np.broadcast_to(majority_labels(store.labels[store.splits["train"]]), labels.shape)
    majority_accuracy = attribute_scores(majority, labels).accuracy
    scores = attribute_scores(drawn.predicted, labels)
    return Evaluation(
        data=source.describe(),
        split=split,
        photos=len(rows),
        image_size=size,
        checkpoint=str(loaded.folder),
        iteration=loaded.iteration,
        additions=described_additions(loaded.config),
        edit_photos=len(edited) if networks else 0,
        edit_keep=keep,
        edit_strength=float(strength),
        edit_companions=moving is not None,
        model=recognition_report(drawn.predicted, labels),
        majority=recognition_report(majority, labels),
        judges=tuple(
            judge_report(name, found, of_generated, labels, said, by_attribute)
            for name, found, of_generated, said, by_attribute in zip(
                named, answers, answers_generated, edits, judged, strict=True
            )
        ),
        rebuild_l1=float(drawn.quality[0].mean()),
        rebuild_l1_interval=interval(drawn.quality[0]),
        rebuild_psnr=float(drawn.quality[1].mean()),
        rebuild_ssim=float(drawn.quality[2].mean()),
        **{
            name: image_set_report(seen, drawn.photos, judged=bool(networks), kid=distances[name])
            for name, seen in sets.items()
        },
        attributes=tuple(
            AttributeReport(
                name=name,
                present=float(labels[:, index].mean()),
                majority_accuracy=float(majority_accuracy[index]),
                accuracy=float(scores.accuracy[index]),
                balanced_accuracy=float(scores.balanced_accuracy[index]),
                f1=defined(float(scores.f1[index])),
                companions=tuple(np.array(loaded.attributes)[related[index]].tolist()) if moving else (),
                judges=tuple(each[index] for each in judged),
            )
            for index, name in enumerate(loaded.attributes)
        ),
        identity=identity,
        missing=tuple(missing),
    )


def _count_and_networks(judges: int | AttributeCNN | Sequence[AttributeCNN]) -> tuple[int, tuple[AttributeCNN, ...]]:
    """Return how many judges to train, and those that are passed."""
    count: object = judges
    if isinstance(count, Integral) and 0 <= int(count) <= len(_JUDGES):
        return int(count), ()
    networks: Sequence[Any] = ()
    if isinstance(judges, AttributeCNN):
        networks = (judges,)
    elif isinstance(judges, Sequence):
        networks = judges
    if not 1 <= len(networks) <= 2 or not all(isinstance(network, AttributeCNN) for network in networks):
        raise InputError(f"judges: found {judges!r}, expected 0, 1, 2, or one or two networks (AttributeCNN)")
    devices = {network.labels.weight.device for network in networks}
    if len(devices) > 1:
        raise InputError(f"judges: found networks on {' and '.join(sorted(map(str, devices)))}, expected one device")
    return 0, tuple(networks)


def _rows_of(store: FaceStore, split: str) -> NDArray[np.int64]:
    rows = store.splits.get(split)
    if rows is None or not len(rows):
        known = ", ".join(f"{name} ({len(found):,})" for name, found in store.splits.items())
        raise InputError(f"split: this data has no {split!r} photos, it has {known}")
    return rows

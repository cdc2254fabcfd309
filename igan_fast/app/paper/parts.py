"""Makes every figure and table of the page from the materials. What cannot be made is named, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from igan_fast.app.paper.ablation import ablation
from igan_fast.app.paper.comparison import PhotoFeatures
from igan_fast.app.paper.editing import several_attributes, single_attributes, translations
from igan_fast.app.paper.faces import compared_faces, faces_from_noise
from igan_fast.app.paper.images import NotFinite
from igan_fast.app.paper.jobs import Job, editing, generating, rebuilding, recognising
from igan_fast.app.paper.materials import Materials
from igan_fast.app.paper.methods import Ours
from igan_fast.app.paper.page import Missing, Part
from igan_fast.app.paper.plan import OURS
from igan_fast.app.paper.recognition import answered_photos, compare_recognition
from igan_fast.app.paper.recognition_plot import draw_answers, draw_recognition
from igan_fast.app.paper.timing import Training, TrainingTimes, training_times, use_times
from igan_fast.baselines.cnn import predict
from igan_fast.baselines.svm import SVMConfig, cached_svm, decisions
from igan_fast.data import spread, to_float
from igan_fast.errors import InputError
from igan_fast.metrics import majority_labels

__all__ = ["make_parts"]

#: Photos of Table 3.
ANSWERED = 6


def make_parts(
    materials: Materials, seconds: Mapping[str, list[float]], report: Callable[[str], None] = print
) -> list[Part | Missing]:
    """All figures and tables, in the order of the page.

    Args:
        seconds: the time of an iteration of each method, measured several times.
        report: called with a line for each group of figures before it is made, which may take minutes.
    """
    parts: list[Part | Missing] = []
    for title, make in (
        ("Figure 4 and Table 3: recognition", _recognition),
        ("Figure 5: which losses", _ablation),
        ("Figures 6 to 8: edits and faces of the iterative GAN", _ours),
        ("Figure 9: beside other methods", _compared),
        ("Tables 1 and 2: time", lambda found: _times(found, seconds)),
    ):
        report(f"making {title}")
        parts += _made(materials, title, make)
    return parts + _failures(materials)


def _made(
    materials: Materials, title: str, make: Callable[[Materials], Iterator[Part | Missing]]
) -> Iterator[Part | Missing]:
    try:
        yield from make(materials)
    except NotFinite as error:
        yield Missing(_key(title), title, str(error))


def _failures(materials: Materials) -> list[Part | Missing]:
    return [Missing(f"run-{_key(name)}", f"Training of {name}", why) for name, why in materials.failed.items()]


def _key(title: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in title.lower()).strip("-")


def _recognition(found: Materials) -> Iterator[Part | Missing]:
    store, photos, labels = found.store, found.photos, found.labels
    answers: dict[str, NDArray[np.bool_]] = {}
    probabilities, ours = None, None
    if found.ours is not None:
        probabilities, ours = _recognised(found.ours, photos), found.ours.name
        answers[ours] = probabilities > 0.5
    answers["plain CNN"] = predict(found.plain_cnn, photos) > 0.5
    missing = None
    if found.dcgan is not None:
        discriminator = found.dcgan.discriminator
        config = SVMConfig(costs=(0.001,), search_photos=100, max_iterations=50) if found.options.quick else SVMConfig()
        try:
            svm = cached_svm(
                discriminator.features,
                discriminator.state_dict(),
                store,
                config,
                cache=found.options.cache,
                device=next(found.dcgan.parameters()).device,
                called="the L2-SVM on DCGAN's features",
            )
            answers["DCGAN + L2-SVM"] = decisions(svm, discriminator.features, photos) > 0
        except InputError as error:
            missing = Missing("figure-4-svm", "Figure 4: DCGAN + L2-SVM", str(error))
    majority = majority_labels(store.labels[store.splits["train"]])
    answers["majority"] = np.broadcast_to(majority, labels.shape)
    compared = compare_recognition(answers, labels, store.attributes, ours=ours)
    yield Part("figure-4", compared, draw_recognition(compared))
    if missing is not None:
        yield missing
    if probabilities is not None:
        answered = answered_photos(probabilities, labels, store.attributes, count=min(ANSWERED, len(photos)))
        yield Part("table-3", answered, draw_answers(answered, photos))


def _recognised(method: Ours, photos: NDArray[np.uint8]) -> NDArray[np.float32]:
    parts = [
        method.recognise(to_float(torch.from_numpy(photos[start : start + 100]).to(method.device))).cpu().numpy()
        for start in range(0, len(photos), 100)
    ]
    return np.concatenate(parts)


def _ablation(found: Materials) -> Iterator[Part | Missing]:
    yield Part("figure-5", *ablation(found.ablations, found.edit_photos, identities=found.identities))


def _ours(found: Materials) -> Iterator[Part | Missing]:
    if found.ours is None:
        return
    names = found.store.attributes
    photos, labels = found.edit_photos, found.edit_labels
    given = (found.ours, photos, labels, names, found.judges)
    yield Part("figure-6", *single_attributes(*given, identities=found.identities, features=found.edit_features))
    yield Part("figure-7", *several_attributes(*given, identities=found.identities))
    seed = found.options.seed
    yield Part("figure-8", *faces_from_noise(found.ours, found.labels, names, found.judges, seed=seed))


def _compared(found: Materials) -> Iterator[Part | Missing]:
    ours = () if found.ours is None else (found.ours,)
    names = found.store.attributes
    if editors := (*found.editors, *ours):
        made = translations(
            editors,
            found.edit_photos,
            found.edit_labels,
            names,
            found.judges,
            identities=found.identities,
            features=found.edit_features,
        )
        yield Part("figure-9a", *made)
    if generators := (*found.generators, *ours):
        faces = compared_faces(
            generators,
            found.photos,
            found.labels,
            found.judges,
            others=_other_photos(found),
            features=PhotoFeatures.of(found.comparison, found.photos),
            seed=found.options.seed,
        )
        yield Part("figure-9b", *faces)


def _other_photos(found: Materials) -> NDArray[np.uint8] | None:
    """As many photos as are scored, and others: of the split test, which nothing was trained on, or training photos;
    None if there are too few."""
    for split in ("test", "train"):
        rows = found.store.splits.get(split, np.empty(0, np.int64))
        if len(rows) >= len(found.rows):
            return found.store.images[spread(rows, len(found.rows))]
    return None


def _times(found: Materials, seconds: Mapping[str, list[float]]) -> Iterator[Part | Missing]:
    yield Part("table-1", _training_times(found, seconds))
    jobs: list[Job] = []
    if found.ours is not None:
        jobs += [make(found.ours) for make in (recognising, rebuilding, editing, generating)]
    jobs += [editing(method) for method in found.editors] + [generating(method) for method in found.generators]
    repeats, warm_up = (2, 1) if found.options.quick else (10, 2)
    times = use_times(jobs, found.edit_photos, found.edit_labels, repeats=repeats, warm_up=warm_up)
    yield Part("table-2", times)


def _training_times(found: Materials, seconds: Mapping[str, list[float]]) -> TrainingTimes:
    """Table 1, from the measurements by which the lengths of the trainings were chosen."""
    trainings = []
    for method, measured in seconds.items():
        runs = [run for run in found.runs.values() if run.measured_as == method]
        several = method == "cyclegan"
        trainings.append(
            Training(
                "CycleGAN" if several else runs[0].title,
                measured,
                runs[0].config.photos_per_iteration,
                ours=method == OURS,
                networks=len(runs) if several else 1,
            )
        )
    return training_times(trainings, image_size=found.store.size, photos=len(found.store.splits["train"]))

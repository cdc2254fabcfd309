"""What the figures are made of: trained methods, photos, judges and identities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igan_fast.app.identity_scores import reference_photos
from igan_fast.app.paper.comparison import PhotoFeatures
from igan_fast.app.paper.methods import Baseline, Ours, PerAttribute
from igan_fast.app.paper.plan import ABLATIONS, OURS, PaperOptions, PlannedRun, ablation_name
from igan_fast.app.paper.scores import Judge, known_judges
from igan_fast.baselines.cnn import SECOND_JUDGE, AttributeCNN, CNNConfig, cached_cnn
from igan_fast.baselines.dcgan import DCGAN
from igan_fast.baselines.load import load_baseline
from igan_fast.checkpoint import load_model
from igan_fast.data import FaceStore, open_source, spread
from igan_fast.devices import resolve_device
from igan_fast.faces import training_aligner
from igan_fast.metrics import Embedder, FeatureNetwork, IdentityScale

__all__ = ["Materials", "TrainedRun", "make_materials"]

#: How many photos edits and identities are scored on, and how many recognition and generated faces are.
EDIT_PHOTOS, PHOTOS = 200, 2000
#: On how many of the former identity is measured: an embedding takes as long as many edits.
IDENTITY_PHOTOS = 50


@dataclass(frozen=True)
class TrainedRun:
    """What became of a planned training."""

    name: str
    checkpoint: Path | None
    """Its last checkpoint; None if the training diverged."""
    iteration: int
    minutes: float | None
    """Those that its iterations took; None if its log cannot be read."""
    failed: str
    """Why there is no checkpoint; empty if there is one."""


@dataclass(frozen=True)
class Materials:
    """See the module."""

    options: PaperOptions
    runs: Mapping[str, PlannedRun]
    store: FaceStore
    described_data: str
    rows: NDArray[np.int64]
    """The photos that are scored, of the split val. No method was trained on them."""
    edited: NDArray[np.int64]
    """Those of them on which edits are scored."""
    judges: tuple[Judge, ...]
    plain_cnn: AttributeCNN
    identities: IdentityScale | None
    """Of the first ``IDENTITY_PHOTOS`` of the photos ``edited``."""
    comparison: FeatureNetwork | None
    """The network in whose features sets of images are compared with photos."""
    ours: Ours | None
    ablations: tuple[Ours, ...]
    editors: tuple[Baseline | PerAttribute, ...]
    """CycleGAN and StarGAN."""
    generators: tuple[Baseline, ...]
    """CGAN and AC-GAN."""
    dcgan: DCGAN | None
    failed: Mapping[str, str]
    """Why a method is missing, by the name of its run."""

    @property
    def photos(self) -> NDArray[np.uint8]:
        return self.store.images[self.rows]

    @property
    def labels(self) -> NDArray[np.uint8]:
        return self.store.labels[self.rows]

    @property
    def edit_photos(self) -> NDArray[np.uint8]:
        return self.store.images[self.edited]

    @cached_property
    def edit_features(self) -> PhotoFeatures | None:
        """The photos on which edits are scored, as ``comparison`` sees them."""
        return PhotoFeatures.of(self.comparison, self.edit_photos)

    @property
    def edit_labels(self) -> NDArray[np.uint8]:
        return self.store.labels[self.edited]


def make_materials(
    options: PaperOptions,
    runs: Mapping[str, PlannedRun],
    trained: Mapping[str, TrainedRun],
    store: FaceStore,
    embedder: tuple[str, Embedder] | None,
    comparison: FeatureNetwork | None = None,
) -> Materials:
    """Load the last checkpoint of every method, train the judges or take them from the cache, and choose the photos."""
    device = resolve_device(options.device)
    config = runs[OURS].config
    source = open_source(
        config.data,
        split=config.split,
        seed=config.seed,
        drawn_count=config.drawn_count,
        attributes=config.attributes,
        align=training_aligner(config.align),
    )
    rows = spread(store.splits["val"], 24 if options.quick else PHOTOS)
    edited = spread(rows, 12 if options.quick else EDIT_PHOTOS)
    settings = (CNNConfig(epochs=0.2), CNNConfig(epochs=0.2, seed=7)) if options.quick else (CNNConfig(), SECOND_JUDGE)
    named = dict(zip(("plain CNN", "second CNN"), settings, strict=True))
    networks = {
        name: cached_cnn(store, each, cache=options.cache, device=device, called=f"the {name}")
        for name, each in named.items()
    }
    identities = None
    if embedder is not None:
        seen = edited[:IDENTITY_PHOTOS]
        people = None if store.identities is None else store.identities[seen]
        originals = reference_photos(source, store.positions[seen])
        identities = IdentityScale(embedder[1], store.images[seen], originals, identities=people)

    def if_trained(name: str, make: Callable[[Path], Any]) -> Any:
        checkpoint = trained[name].checkpoint
        return None if checkpoint is None else make(checkpoint)

    def of_baseline(title: str) -> Callable[[Path], Baseline]:
        return lambda path: Baseline(title, load_baseline(path, device=device).networks)

    def of_ablation(title: str) -> Callable[[Path], Ours]:
        ours = ablation_name(title) == OURS
        return lambda path: Ours.of(load_model(path, device=device), name=title, ours=ours)

    ablations = [if_trained(ablation_name(title), of_ablation(title)) for title in ABLATIONS]
    cyclegan = {
        store.attributes.index(run.config.attributes[0]): load_baseline(checkpoint, device=device).networks
        for name, run in runs.items()
        if run.measured_as == "cyclegan" and (checkpoint := trained[name].checkpoint) is not None
    }
    stargan = if_trained("stargan", of_baseline("StarGAN"))
    return Materials(
        options=options,
        runs=runs,
        store=store,
        described_data=source.describe(),
        rows=rows,
        edited=edited,
        judges=known_judges(networks, store.images[rows], store.labels[rows]),
        plain_cnn=networks["plain CNN"],
        identities=identities,
        comparison=comparison,
        ours=if_trained(OURS, lambda path: Ours.of(load_model(path, device=device))),
        ablations=tuple(each for each in ablations if each is not None),
        editors=(
            *((PerAttribute("CycleGAN", cyclegan),) if cyclegan else ()),
            *((stargan,) if stargan is not None else ()),
        ),
        generators=tuple(
            each
            for each in (if_trained("cgan", of_baseline("CGAN")), if_trained("acgan", of_baseline("AC-GAN")))
            if each is not None
        ),
        dcgan=if_trained("dcgan", lambda path: load_baseline(path, device=device).networks),
        failed={name: run.failed for name, run in trained.items() if run.failed},
    )

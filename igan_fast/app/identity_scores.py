"""How far rebuilds and edits are from the person in the photo (Sec. 5.2), between a floor and a ceiling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from igan_fast.app.observation import BATCH, flipped_in_turn
from igan_fast.app.report import IdentityReport
from igan_fast.app.summary import interval
from igan_fast.data import FaceSource, FaceStore, to_float, to_uint8
from igan_fast.edit_arguments import Keep
from igan_fast.encoded_faces import EncodedFaces
from igan_fast.errors import InputError
from igan_fast.metrics import Embedder, IdentityScale, dlib_embedder, finite_results, in_eval_mode, load_embedder
from igan_fast.progress import progress_bar
from igan_fast.reference.editing import Companions
from igan_fast.reference.models import IterativeGAN

__all__ = ["REFERENCE_SIZE", "choose_embedder", "identity_report", "rebuilt_and_edited", "reference_photos"]

#: Side of the photos that images are compared with: the centre square of CelebA's 178×218.
REFERENCE_SIZE = 178


def choose_embedder(embedder: Embedder | str | None) -> tuple[str, Embedder]:
    """Return the name and the function of an embedder.

    Args:
        embedder: a function, ``"module:function"`` or ``"dlib"``, or None for dlib's.

    Raises:
        PackageMissing: dlib or its weights are not installed.
        InputError: see ``igan_fast.metrics.load_embedder``; or ``embedder`` is something else.
    """
    if embedder is None or embedder == "dlib":
        return "dlib's ResNet", dlib_embedder()
    if isinstance(embedder, str):
        return embedder, load_embedder(embedder)
    if not callable(embedder):
        raise InputError(f"embedder: found {embedder!r}, expected a function, module:function, or dlib")
    return getattr(embedder, "__name__", type(embedder).__name__), embedder


def reference_photos(
    source: FaceSource, positions: Sequence[int] | NDArray[np.int64], size: int = REFERENCE_SIZE
) -> NDArray[np.uint8]:
    """Read photos again at full resolution: those of ``source`` at ``positions``, (N, size, size, 3) uint8.

    Photos that are smaller are enlarged.

    Raises:
        InputError: a photo is broken or no longer there.
    """
    if not len(positions):
        return np.empty((0, size, size, 3), np.uint8)
    return np.stack([source.image(int(position), size) for position in positions])


def rebuilt_and_edited(
    model: IterativeGAN,
    photos: NDArray[np.uint8],
    *,
    keep: Keep = "nothing",
    strength: float,
    companions: Companions | None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the rebuilds of photos, and edits in which one attribute is flipped: in photo i that of index i mod A.

    Args:
        photos: (N, S, S, 3) uint8.
        keep, strength, companions: of the edits, see ``igan_fast.app.edits.edit_scores``.

    Returns:
        Two arrays (N, S, S, 3) uint8.
    """
    device = next(model.parameters()).device
    rebuilt: list[NDArray[np.uint8]] = []
    edited: list[NDArray[np.uint8]] = []
    with in_eval_mode(model):
        for start in range(0, len(photos), BATCH):
            x = to_float(torch.from_numpy(photos[start : start + BATCH]).to(device))
            faces = EncodedFaces.of(model, x)
            finite_results(faces.label_logits)
            flipped = flipped_in_turn(faces.c, start, strength=strength, companions=companions)
            for images, drawn in ((rebuilt, faces.rebuilt), (edited, faces.edited(flipped, keep))):
                images.append(to_uint8(finite_results(drawn)).cpu().numpy())
    return np.concatenate(rebuilt), np.concatenate(edited)


def identity_report(
    embedder: Embedder,
    name: str,
    model: IterativeGAN,
    source: FaceSource,
    store: FaceStore,
    rows: NDArray[np.int64],
    *,
    keep: Keep = "nothing",
    strength: float,
    companions: Companions | None,
    progress: bool,
) -> IdentityReport:
    """Measure the identity of rebuilds and edits of the photos in ``rows`` of the store.

    Args:
        embedder: see ``igan_fast.metrics.Embedder``.
        name: what tables call it.
        source: of the store. The photos are read from it again, at full resolution.
        keep, strength, companions: as for ``rebuilt_and_edited``.
        progress: show a progress bar on stderr.

    Raises:
        InputError: the embedder does not work, see ``igan_fast.metrics.embed``; or a photo is no longer there.
    """
    photos = store.images[rows]
    identities = None if store.identities is None else store.identities[rows]
    rebuilt, edited = rebuilt_and_edited(model, photos, keep=keep, strength=strength, companions=companions)
    references = reference_photos(source, store.positions[rows])
    with progress_bar(total=4 * len(rows), shown=progress, desc="Measuring identity", unit="img") as bar:

        def counted(images: NDArray[np.uint8]) -> object:
            found = embedder(images)
            bar.update(len(images))
            return found

        scale = IdentityScale(counted, photos, references, identities=identities)
        distances_rebuilt, distances_edited = scale.distances(rebuilt), scale.distances(edited)
    return IdentityReport(
        embedder=name,
        photos=len(rows),
        reference_size=REFERENCE_SIZE,
        people_known=identities is not None and bool((identities >= 0).all()),
        floor=float(scale.floor.mean()),
        floor_interval=interval(scale.floor),
        ceiling=float(scale.ceiling.mean()) if len(scale.ceiling) else None,
        ceiling_interval=interval(scale.ceiling),
        rebuilt=float(distances_rebuilt.mean()),
        rebuilt_interval=interval(distances_rebuilt),
        edited=float(distances_edited.mean()),
        edited_interval=interval(distances_edited),
    )

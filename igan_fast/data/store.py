"""Decodes, crops and resizes all images of a dataset once, into memory-mapped files that training reads.

A store is a folder in the cache. ``images.npy`` holds the images, (M, S, S, 3) uint8. If they take more than 2 GiB,
they are divided into ``images-00000.npy`` and so on. ``store.json``, the manifest, holds the source's fingerprint, and
the checksums of the images and of itself. Labels and splits always come from the source, so a change of attributes
needs no new store.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from tqdm import tqdm

from igan_fast.data.decode import BrokenImage, decode_all
from igan_fast.data.image_files import IMAGES, ImageFile, Images, checksums, new_files, opened
from igan_fast.data.source import FaceSource
from igan_fast.errors import InputError, printable
from igan_fast.files import clear_write_errors, sync_file, sync_folder, write_durably
from igan_fast.json_files import read_json
from igan_fast.paths import cache_folder, given_path
from igan_fast.progress import progress_bar

__all__ = ["FaceStore", "build_store", "cache_folder", "spread"]

#: The version of the folder's layout. It is part of every store's name and manifest.
STORE_FORMAT = 2

MANIFEST = "store.json"

#: The keys of a manifest and the types of their values. "seal" is the digest of all other keys.
MANIFEST_SCHEMA = {
    "format": int, "fingerprint": str, "size": int, "count": int, "broken": list, "checksums": [int], "seal": str,
}  # fmt: skip


@dataclass(frozen=True)
class FaceStore:
    """All images of a source at one size, with their labels, as returned by ``build_store``.

    Row r of the store is image ``positions[r]`` of the source. The two numbers differ if broken images were skipped.
    """

    images: Images  #: (M, S, S, 3) uint8, RGB, read-only and memory-mapped
    labels: NDArray[np.uint8]  #: (M, A), values 0 and 1
    identities: NDArray[np.int64] | None  #: (M,), the number of the person, −1 if unknown
    splits: Mapping[str, NDArray[np.int64]]  #: the rows of "train", "val" and, if there is one, "test", ascending
    attributes: tuple[str, ...]  #: the names of the A label columns
    positions: NDArray[np.int64]  #: (M,), ascending: the position of each row's image in the source
    size: int  #: S, pixels
    path: Path | None = None  #: the store's folder in the cache
    digest: str | None = None  #: hexadecimal digest of the image data; it does not depend on file names or locations

    def __len__(self) -> int:
        return len(self.images)


def spread(rows: NDArray[np.int64], count: int | None) -> NDArray[np.int64]:
    """At most ``count`` of ``rows``, evenly spaced, as adjacent rows may show the same person. None returns all."""
    if count is None or count >= len(rows):
        return rows
    return rows[np.arange(count) * len(rows) // count]


def build_store(
    source: FaceSource,
    size: int,
    *,
    cache: str | Path | None = None,
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> FaceStore:
    """Open the store of ``source`` at ``size``. Build it first if the cache does not have it.

    Opening verifies the checksums of all data. A damaged store is built again, with a warning that gives the reason.

    A store is built in a temporary folder, which is renamed when it is complete. So an interrupted build, even by
    ``kill -9`` or a power cut, never looks like a complete store. If several processes need the same store, one builds
    it and the others wait.

    Args:
        source: the dataset.
        size: S, height and width of the images in pixels.
        cache: the folder that holds the stores. Default: ``cache_folder()``.
        workers: number of processes that decode images. Default: up to the number of cores. 1 decodes in this process.
        strict: raise an error at a broken image. Otherwise it is skipped with a warning.
        progress: show a progress bar on stderr.

    Raises:
        InputError: an image is broken (``strict``), all images are broken, the disk is full, or the cache folder cannot
            be written. The unfinished build is deleted.
    """
    if size < 1:
        raise InputError(f"size: found {size}, expected at least 1 pixel")
    if workers is not None and workers < 1:
        raise InputError(f"workers: found {workers}, expected at least 1")
    if len(source) == 0:
        raise InputError("the dataset has no pictures")
    cache = cache_folder() if cache is None else given_path(cache, "cache")
    identity = {"format": STORE_FORMAT, "fingerprint": source.fingerprint(), "size": size, "count": len(source)}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache / f"{type(source).__name__.lower()}-{size}-{key}"

    store = _open(folder, source, identity, strict, progress)
    if isinstance(store, str) or store is None:
        where = "set IGAN_FAST_CACHE to a folder elsewhere; nothing unfinished was left there"
        with clear_write_errors(str(cache), where):
            cache.mkdir(parents=True, exist_ok=True)
            with _exclusive_build(cache / f".{folder.name}.lock", progress):
                # Another process may have built the store while this one waited for the lock. A process that was
                # killed while building has left its temporary folder.
                store = _open(folder, source, identity, strict, progress)
                for stale in cache.glob(f".{folder.name}.tmp-*"):
                    shutil.rmtree(stale, ignore_errors=True)
                if isinstance(store, str):
                    warnings.warn(printable(f"{folder}: {store}; the pictures are prepared again"), stacklevel=2)
                if isinstance(store, str) or store is None:
                    _build(folder, source, identity, workers, strict, progress)
                    store = _open(folder, source, identity, strict, progress)
    if isinstance(store, str) or store is None:
        raise InputError(f"{folder}: the store cannot be read back after it was written ({store}); check that disk")
    return store


def _build(
    folder: Path,
    source: FaceSource,
    identity: Mapping[str, Any],
    workers: int | None,
    strict: bool,
    progress: bool,
) -> None:
    size, count = int(identity["size"]), len(source)
    needed, free = count * size * size * 3, shutil.disk_usage(folder.parent).free
    if needed > free:
        raise InputError(
            f"{folder.parent}: {count:,} pictures of {size}×{size} take {needed / 2**20:,.0f} MiB, but only "
            f"{free / 2**20:,.0f} MiB are free on this disk; free some, or set IGAN_FAST_CACHE to a folder elsewhere"
        )
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.tmp-", dir=folder.parent))
    try:
        files = new_files(temporary, size, count)
        for file in files:
            file.create()
        with progress_bar(total=count, shown=progress, desc=f"Preparing {size}×{size} pictures", unit="img") as bar:
            broken = decode_all(source, files, workers=workers, strict=strict, report=bar.update)
        if len(broken) == count:
            raise InputError(f"none of the {count:,} pictures can be read; the first: {broken[0][1]}")
        left = _without(files, [position for position, _ in broken])
        for file in left:
            sync_file(file.path)
        manifest = {**identity, "broken": broken, "checksums": checksums(left, progress=False)}
        manifest["seal"] = _seal(manifest)
        write_durably(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        sync_folder(temporary)
        _remove(folder)  # if it exists it is damaged, or it would have been opened
        temporary.rename(folder)
        sync_folder(folder.parent)
    except BaseException:  # KeyboardInterrupt too
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _open(
    folder: Path, source: FaceSource, identity: Mapping[str, Any], strict: bool, progress: bool
) -> FaceStore | str | None:
    """Open a complete store. Returns None if ``folder`` does not exist, and the reason if the store is unusable."""
    if not os.path.lexists(folder):
        return None
    size, count = int(identity["size"]), len(source)
    try:
        manifest = read_json(folder / MANIFEST, MANIFEST_SCHEMA)
        if manifest.pop("seal") != _seal(manifest):
            return f"{MANIFEST} is damaged: it has changed since it was written"
        broken: list[BrokenImage] = [(position, reason) for position, reason in manifest.pop("broken")]
        expected = manifest.pop("checksums")
        if manifest != identity:
            return f"{MANIFEST} belongs to other pictures"
        images = opened(folder, size, expected, progress=progress)
        if isinstance(images, str):
            return f"{images} is damaged: it has changed since it was written"
    except FileNotFoundError:
        return f"{IMAGES} is missing"
    except InputError as error:
        return str(error).removeprefix(f"{printable(folder)}{os.sep}")
    except (OSError, ValueError) as error:
        return f"{IMAGES} cannot be read: {error}"
    if len(images) != count - len(broken):
        return f"{folder.name} holds {len(images):,} pictures, expected {count - len(broken):,}"
    if _can_read_any(source, size, broken):
        return "a picture that was broken can be read now"
    positions = np.delete(np.arange(count, dtype=np.int64), [position for position, _ in broken])
    splits = {name: np.flatnonzero(np.isin(positions, split)) for name, split in source.splits.items()}
    if broken:
        emptied = [name for name, rows in splits.items() if not len(rows) and len(source.splits[name])]
        _report_broken(broken, count, emptied, strict)
    return FaceStore(
        images=images,
        labels=source.labels[positions],
        identities=None if source.identities is None else source.identities[positions],
        splits=splits,
        attributes=source.attributes,
        positions=positions,
        size=size,
        path=folder,
        digest=hashlib.sha256(json.dumps([images.shape, expected]).encode()).hexdigest(),
    )


def _without(files: list[ImageFile], positions: list[int]) -> list[ImageFile]:
    """Remove the images at ``positions`` (ascending) of the source. Returns the files that still hold any."""
    left, first = [], 0
    for file in files:
        last = first + file.count
        kept = file.without([position - first for position in positions if first <= position < last])
        if kept.count:
            left.append(kept)
        else:
            file.path.unlink()
        first = last
    return left


def _seal(manifest: Mapping[str, Any]) -> str:
    """A digest of the manifest's contents."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _remove(path: Path) -> None:
    """Delete a folder, file or link. The target of a link is kept."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _can_read_any(source: FaceSource, size: int, broken: list[BrokenImage]) -> bool:
    """Whether one of the ``broken`` images can be read now.

    The fingerprint of a zip uses the CRCs of its table of contents, which stay the same if a damaged entry is repaired.
    """
    for position, _ in broken:
        try:
            source.image(position, size)
        except InputError:
            continue
        return True
    return False


def _report_broken(broken: list[BrokenImage], count: int, emptied: list[str], strict: bool) -> None:
    """Report broken images with a warning, or in strict mode with an error. ``emptied``: splits with no image left."""
    reasons = "; ".join(reason for _, reason in broken[:3]) + ("; …" if len(broken) > 3 else "")
    message = f"{len(broken):,} of {count:,} pictures are broken: {reasons}"
    if strict:
        raise InputError(message)
    consequence = f", which leaves no pictures for {' and '.join(emptied)}" if emptied else ""
    warnings.warn(printable(f"{message}. They are left out{consequence}"), stacklevel=4)


@contextmanager
def _exclusive_build(lock: Path, progress: bool) -> Iterator[None]:
    """Hold the file lock ``lock`` inside the block. The operating system releases the lock of a process that dies."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        if progress:
            tqdm.write("Another process is preparing these pictures; waiting for it …", file=sys.stderr)
        held.acquire()
    try:
        yield
    finally:
        held.release()

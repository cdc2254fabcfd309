"""Decode, crop and resize every picture once, in parallel, into one memory-mapped file that training reads from.

A store is a folder in the cache: ``images.npy``, uint8 (M, S, S, 3), and ``store.json``, which says what it was made
from. Labels and splits are not in it: they come from the source, so that other attributes need no new store.
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

from igan_fast.data.decode import Broken, ImageFile, decode_all
from igan_fast.data.source import FaceSource
from igan_fast.errors import InputError
from igan_fast.files import clear_write_errors, sync_file, sync_folder, write_durably
from igan_fast.progress import progress_bar

__all__ = ["FaceStore", "build_store", "cache_folder", "spread"]

#: Part of every store's name and manifest: raise it when the layout of the folder changes.
STORE_FORMAT = 1

IMAGES = "images.npy"
MANIFEST = "store.json"


@dataclass(frozen=True)
class FaceStore:
    """All pictures of a source at one size, with their labels. ``build_store`` makes it.

    Row r of the store is picture ``positions[r]`` of the source; they differ where broken pictures were skipped.
    """

    images: NDArray[np.uint8]  #: (M, S, S, 3) RGB, read-only and memory-mapped: a row is read from disk when it is used
    labels: NDArray[np.uint8]  #: (M, A), values 0 and 1
    identities: NDArray[np.int64] | None  #: (M,), −1 where unknown
    splits: Mapping[str, NDArray[np.int64]]  #: ascending rows of "train", "val" and, where there is one, "test"
    attributes: tuple[str, ...]  #: the names of the A labels
    positions: NDArray[np.int64]  #: (M,), ascending: where each row's picture is in the source
    size: int  #: S, pixels
    path: Path | None = None  #: the folder in the cache
    digest: str | None = None  #: hexadecimal, of the pictures themselves: the same wherever their files come from

    def __len__(self) -> int:
        return len(self.images)


def spread(rows: NDArray[np.int64], count: int | None) -> NDArray[np.int64]:
    """At most ``count`` of ``rows`` (all where None), evenly spaced, because neighbours may show the same person."""
    if count is None or count >= len(rows):
        return rows
    return rows[np.arange(count) * len(rows) // count]


def cache_folder() -> Path:
    """Where stores are kept: ``$IGAN_FAST_CACHE``, else ``igan_fast`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("IGAN_FAST_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "igan_fast"


def build_store(
    source: FaceSource,
    size: int,
    *,
    cache: str | Path | None = None,
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> FaceStore:
    """Open the store of ``source`` at ``size``, building it first where the cache has no whole, up-to-date one.

    A build happens in a temporary folder that is renamed at the very end, so that one which was stopped, even by
    ``kill -9`` or a power cut, is never taken for a whole one. Processes that want the same store at once wait for the
    first of them.

    Args:
        source: the pictures.
        size: S, their height and width in the store, in pixels.
        cache: the folder that holds stores, ``cache_folder()`` by default.
        workers: processes that decode; all cores by default. 1 decodes in this process.
        strict: a broken picture raises, instead of being skipped with a warning.
        progress: show a progress bar on stderr.

    Raises:
        InputError: a broken picture (``strict``), no whole picture at all, a full disk or an unusable cache folder.
            Nothing of an unfinished build is left behind.
    """
    if size < 1:
        raise InputError(f"size: found {size}, expected at least 1 pixel")
    if workers is not None and workers < 1:
        raise InputError(f"workers: found {workers}, expected at least 1")
    if len(source) == 0:
        raise InputError("the dataset has no pictures")
    cache = cache_folder() if cache is None else Path(cache)
    identity = {"format": STORE_FORMAT, "fingerprint": source.fingerprint(), "size": size, "count": len(source)}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache / f"{type(source).__name__.lower()}-{size}-{key}"

    store = _open(folder, source, identity, strict)
    if store is not None:
        return store
    with clear_write_errors(str(cache), "set IGAN_FAST_CACHE to a folder elsewhere; nothing unfinished was left there"):
        cache.mkdir(parents=True, exist_ok=True)
        with _only_builder(cache / f".{folder.name}.lock", progress):
            # Whoever held the lock before us may have built it; whoever was killed while building has left its folder.
            store = _open(folder, source, identity, strict)
            for stale in cache.glob(f".{folder.name}.tmp-*"):
                shutil.rmtree(stale, ignore_errors=True)
            if store is None:
                _build(folder, source, identity, workers, strict, progress)
                store = _open(folder, source, identity, strict)
    if store is None:
        raise InputError(f"{folder}: the store cannot be read back after it was written; check that disk")
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
        file = ImageFile(temporary / IMAGES, size, count)
        file.create()
        with progress_bar(total=count, shown=progress, desc=f"Preparing {size}×{size} pictures", unit="img") as bar:
            broken = decode_all(source, file, workers=workers, strict=strict, report=bar.update)
        if len(broken) == count:
            raise InputError(f"none of the {count:,} pictures can be read; the first: {broken[0][1]}")
        file.drop([position for position, _ in broken])
        sync_file(file.path)
        write_durably(temporary / MANIFEST, json.dumps({**identity, "broken": broken}, indent=1).encode())
        sync_folder(temporary)
        if folder.exists():  # not whole, or it would have been opened
            shutil.rmtree(folder)
        temporary.rename(folder)
        sync_folder(folder.parent)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _open(folder: Path, source: FaceSource, identity: Mapping[str, Any], strict: bool) -> FaceStore | None:
    """The finished store in ``folder``, or None where there is none, or it is damaged or of another source."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        broken = [(int(position), str(reason)) for position, reason in manifest.pop("broken")]
        images = np.load(folder / IMAGES, mmap_mode="r")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    size, count = int(identity["size"]), len(source)
    shape = (count - len(broken), size, size, 3)
    if manifest != identity or images.shape != shape or images.dtype != np.uint8:
        return None
    if broken:
        if _mended(source, size, broken):
            return None
        _report(broken, count, strict)
    positions = np.delete(np.arange(count, dtype=np.int64), [position for position, _ in broken])
    return FaceStore(
        images=images,
        labels=source.labels[positions],
        identities=None if source.identities is None else source.identities[positions],
        splits={name: np.flatnonzero(np.isin(positions, split)) for name, split in source.splits.items()},
        attributes=source.attributes,
        positions=positions,
        size=size,
        path=folder,
    )


def _mended(source: FaceSource, size: int, broken: list[Broken]) -> bool:
    """Whether a picture that was broken can be read now: a zip's fingerprint does not see what was damaged in it."""
    for position, _ in broken:
        try:
            source.image(position, size)
        except InputError:
            continue
        return True
    return False


def _report(broken: list[Broken], count: int, strict: bool) -> None:
    named = "; ".join(reason for _, reason in broken[:3]) + ("; …" if len(broken) > 3 else "")
    message = f"{len(broken):,} of {count:,} pictures are broken: {named}"
    if strict:
        raise InputError(message)
    warnings.warn(f"{message}. They are left out", stacklevel=4)


@contextmanager
def _only_builder(lock: Path, progress: bool) -> Iterator[None]:
    """Hold ``lock``, which the operating system takes back from a process that dies."""
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

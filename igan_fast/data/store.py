"""Decode, crop and resize every picture once, in parallel, into one memory-mapped file that training reads from.

A store is a folder in the cache: ``images.npy``, uint8 (M, S, S, 3), and ``store.json``, which says what it was made
from and has checksums of both. Labels and splits are not in it: they come from the source, so that other attributes
need no new store.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import warnings
import zlib
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
from igan_fast.errors import InputError, printable
from igan_fast.files import clear_write_errors, open_regular, sync_file, sync_folder, write_durably
from igan_fast.json_files import read_json
from igan_fast.progress import progress_bar

__all__ = ["FaceStore", "build_store", "cache_folder", "spread"]

#: Part of every store's name and manifest: raise it when the layout of the folder changes.
STORE_FORMAT = 2

IMAGES = "images.npy"
MANIFEST = "store.json"

#: Bytes of ``images.npy`` for each checksum. A CRC takes 0.3 s a GB: opening a store reads it once, as an epoch does.
CHECKED_BYTES = 2**22

#: What is in a manifest.
SHAPE = {"format": int, "fingerprint": str, "size": int, "count": int, "broken": list, "checksums": [int], "seal": str}

#: Checking more than this shows a progress bar: on a slow disk it takes a while.
SHOWN_BYTES = 2**31


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

    Each opening compares every byte with its checksum; a store that is damaged is built again, with a warning that
    says why.

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

    store = _open(folder, source, identity, strict, progress)
    if isinstance(store, str) or store is None:
        where = "set IGAN_FAST_CACHE to a folder elsewhere; nothing unfinished was left there"
        with clear_write_errors(str(cache), where):
            cache.mkdir(parents=True, exist_ok=True)
            with _only_builder(cache / f".{folder.name}.lock", progress):
                # Whoever held the lock before us may have built it; whoever was killed while building has left its
                # folder.
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
        file = ImageFile(temporary / IMAGES, size, count)
        file.create()
        with progress_bar(total=count, shown=progress, desc=f"Preparing {size}×{size} pictures", unit="img") as bar:
            broken = decode_all(source, file, workers=workers, strict=strict, report=bar.update)
        if len(broken) == count:
            raise InputError(f"none of the {count:,} pictures can be read; the first: {broken[0][1]}")
        file.drop([position for position, _ in broken])
        sync_file(file.path)
        manifest = {**identity, "broken": broken, "checksums": _checksums(file.path, False)}
        manifest["seal"] = _seal(manifest)
        write_durably(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        sync_folder(temporary)
        _remove(folder)  # it is not whole, or it would have been opened
        temporary.rename(folder)
        sync_folder(folder.parent)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _open(
    folder: Path, source: FaceSource, identity: Mapping[str, Any], strict: bool, progress: bool
) -> FaceStore | str | None:
    """The finished store in ``folder``, None where nothing is there, or what is wrong with what is there."""
    if not os.path.lexists(folder):
        return None
    size, count = int(identity["size"]), len(source)
    try:
        manifest = read_json(folder / MANIFEST, SHAPE)
        if manifest.pop("seal") != _seal(manifest):
            return f"{MANIFEST} is damaged: it has changed since it was written"
        broken: list[Broken] = [(position, reason) for position, reason in manifest.pop("broken")]
        checksums = manifest.pop("checksums")
        if manifest != identity:
            return f"{MANIFEST} is of other pictures"
        if _checksums(folder / IMAGES, progress) != checksums:
            return f"{IMAGES} is damaged: it has changed since it was written"
        images = np.load(folder / IMAGES, mmap_mode="r")
    except FileNotFoundError:
        return f"{IMAGES} is missing"
    except InputError as error:
        return str(error).removeprefix(f"{printable(folder)}{os.sep}")
    except (OSError, ValueError) as error:
        return f"{IMAGES} cannot be read: {error}"
    if images.shape != (count - len(broken), size, size, 3) or images.dtype != np.uint8:
        return f"{IMAGES} holds {images.dtype} of shape {images.shape}"
    if _mended(source, size, broken):
        return "a picture that was broken can be read now"
    positions = np.delete(np.arange(count, dtype=np.int64), [position for position, _ in broken])
    splits = {name: np.flatnonzero(np.isin(positions, split)) for name, split in source.splits.items()}
    if broken:
        emptied = [name for name, rows in splits.items() if not len(rows) and len(source.splits[name])]
        _report(broken, count, emptied, strict)
    return FaceStore(
        images=images,
        labels=source.labels[positions],
        identities=None if source.identities is None else source.identities[positions],
        splits=splits,
        attributes=source.attributes,
        positions=positions,
        size=size,
        path=folder,
        digest=hashlib.sha256(json.dumps([images.shape, checksums]).encode()).hexdigest(),
    )


def _checksums(path: Path, progress: bool) -> list[int]:
    """The CRC-32 of each ``CHECKED_BYTES`` of a file, its header included."""
    checksums = []
    with open_regular(path) as file:
        total = os.fstat(file.fileno()).st_size
        buffer = bytearray(CHECKED_BYTES)
        shown = progress and total > SHOWN_BYTES
        with progress_bar(total=total, shown=shown, desc="Checking the pictures", unit="B", unit_scale=True) as bar:
            while read := file.readinto(buffer):
                checksums.append(zlib.crc32(memoryview(buffer)[:read]))
                bar.update(read)
    return checksums


def _seal(manifest: Mapping[str, Any]) -> str:
    """A digest of all that a manifest says."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _remove(path: Path) -> None:
    """Take away what is in a store's place: a folder, a file, or a link (and not what it leads to)."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _mended(source: FaceSource, size: int, broken: list[Broken]) -> bool:
    """Whether a picture that was broken can be read now: a zip's fingerprint does not see what was damaged in it."""
    for position, _ in broken:
        try:
            source.image(position, size)
        except InputError:
            continue
        return True
    return False


def _report(broken: list[Broken], count: int, emptied: list[str], strict: bool) -> None:
    named = "; ".join(reason for _, reason in broken[:3]) + ("; …" if len(broken) > 3 else "")
    message = f"{len(broken):,} of {count:,} pictures are broken: {named}"
    if strict:
        raise InputError(message)
    left = f", and nothing is left of {' and '.join(emptied)}" if emptied else ""
    warnings.warn(printable(f"{message}. They are left out{left}"), stacklevel=4)


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

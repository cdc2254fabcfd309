"""Writes the folder of ``igan-fast export``: complete and checked, or not at all."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from igan_fast.checkpoint import LoadedModel
from igan_fast.errors import InputError
from igan_fast.export.check import check_network
from igan_fast.export.description import FILE, describe, metadata, to_text
from igan_fast.export.files import (
    SUFFIXES,
    WEIGHTS,
    Format,
    check_packages,
    open_onnx,
    open_torch,
    program,
    write_onnx,
    write_torch,
)
from igan_fast.export.networks import NETWORKS
from igan_fast.files import check_place, clear_write_errors, sync_folder, temporary_path, write_durably
from igan_fast.reference import IterativeGAN

__all__ = ["check_folder", "export_model"]

#: Every name that an export may write.
_NAMES = {FILE} | {
    network.NAME + suffix for network in NETWORKS for suffix in (*SUFFIXES.values(), SUFFIXES["onnx"] + WEIGHTS)
}


def check_folder(folder: Path, *, force: bool) -> Path:
    """Check before any work that an export can be written to ``folder``.

    Args:
        folder: a new or an empty folder; with ``force`` also that of an earlier export.

    Returns:
        ``folder`` without links.

    Raises:
        InputError: something else is there, or there is no permission to write.
    """
    real = Path(os.path.realpath(folder))
    check_place(real)
    if not os.path.lexists(real):
        return real
    if not real.is_dir():
        raise InputError(f"{folder}: found a file, expected a folder")
    try:
        names = sorted(path.name for path in real.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error})") from error
    if foreign := [name for name in names if name not in _NAMES or not (real / name).is_file()]:
        raise InputError(f"{folder}: holds {foreign[0]}, which no export writes; expected a new folder")
    if names and not force:
        raise InputError(f"{folder}: exists already; --force writes over it")
    return real


def export_model(
    loaded: LoadedModel,
    folder: Path,
    formats: Sequence[Format] = ("onnx",),
    *,
    force: bool = False,
    report: Callable[[str], object] = lambda line: None,
) -> list[Path]:
    """Write the recogniser, the generator and the editor of a model, each as a file that runs without igan_fast.

    The networks are those of ``igan_fast.reference``, in eval mode, for batches of any size. Each file is opened again
    and compared with the model in float64 before the folder gets its name: probabilities, latent codes and pictures
    (from 0 to 1) may differ by 1e-5.

    Args:
        loaded: the model, as ``igan_fast.checkpoint.load_model`` returns it.
        folder: a new folder. It then holds a file per network and format, and ``model.json``.
        formats: ``"onnx"`` writes ONNX files, ``"torch"`` files for ``torch.export.load``.
        force: whether an earlier export in ``folder`` may be replaced.
        report: gets a line for each file that is written and checked.

    Returns:
        The files.

    Raises:
        PackageMissing: ONNX is asked for, and a package of the extra ``export`` is not installed.
        InputError: ``folder`` holds something else, or cannot be written; or a file differs from the model.
    """
    if not formats or (unknown := set(formats) - set(SUFFIXES)):
        raise InputError(f"formats: found {sorted(unknown) if formats else 'none'}, expected of {', '.join(SUFFIXES)}")
    target = check_folder(folder, force=force)
    if "onnx" in formats:
        check_packages()
    model = _reference(loaded)
    exact = copy.deepcopy(model).double()
    networks = [network(model).eval() for network in NETWORKS]
    suffixes = tuple(SUFFIXES[each] for each in formats)
    description = describe(loaded, networks, suffixes)
    temporary = temporary_path(target)
    with clear_write_errors(str(folder)):
        temporary.mkdir(parents=True)
        try:
            write_durably(temporary / FILE, to_text(description).encode())
            for network in networks:
                graph = program(network)
                for each in formats:
                    path = temporary / (network.NAME + SUFFIXES[each])
                    if each == "onnx":
                        write_onnx(graph, network, path, metadata(description))
                        run = open_onnx(path)
                    else:
                        write_torch(graph, path, {FILE: to_text(description)})
                        run = open_torch(path, [value.name for value in network.OUTPUTS])
                    error = check_network(network, exact, run, path.name)
                    report(f"{path.name}: {path.stat().st_size / 1e6:,.1f} MB, within {error:.0e} of the model")
            names = sorted(path.name for path in temporary.iterdir())
            sync_folder(temporary)
            _put(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return [folder / name for name in names]


def _reference(loaded: LoadedModel) -> IterativeGAN:
    """The model on the plain operators, on the CPU."""
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten: keep the caller's random state
        model = IterativeGAN(**loaded.model.arguments())
    model.load_state_dict(loaded.model.state_dict())
    return model.eval().requires_grad_(False)


def _put(temporary: Path, target: Path) -> None:
    """Give the complete folder its name. An earlier export goes only when the new one is in its place."""
    if not target.exists():
        temporary.rename(target)
    else:
        earlier = temporary_path(target)
        target.rename(earlier)
        try:
            temporary.rename(target)
        except BaseException:
            earlier.rename(target)
            raise
        shutil.rmtree(earlier, ignore_errors=True)
    sync_folder(target.parent)

"""Checkpoints to test with: small ones, and ones that were changed after they were written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save


def small(value: float) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of a small checkpoint."""
    return {"model": {"weight": torch.full((3, 5), value)}, "rng": {"cpu": torch.get_rng_state()}}


def step_names(run: Path) -> list[str]:
    """What lies among the checkpoints of a run."""
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def silent(message: str) -> None:
    """A ``report`` that must not be called."""
    raise AssertionError(f"nothing should be reported, got: {message}")


def flip_byte(path: Path, position: int) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def rewrite(folder: Path, name: str, data: bytes) -> None:
    """Put ``data`` into a file of a checkpoint, and its size and digest into the manifest."""
    (folder / name).write_bytes(data)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(manifest))


def edit_state(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Change the state of a checkpoint in place."""
    content = json.loads((folder / "state.json").read_text())
    edit(content["state"])
    rewrite(folder, "state.json", json.dumps(content).encode())


def edit_tensors(folder: Path, group: str, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change a group of tensors of a checkpoint in place."""
    name = f"{group}.safetensors"
    tensors = {key: value.clone() for key, value in load((folder / name).read_bytes()).items()}
    edit(tensors)
    rewrite(folder, name, save(tensors))


def remove_group(folder: Path, group: str) -> None:
    """Remove a group of tensors from a checkpoint, as if it had never been saved."""
    (folder / f"{group}.safetensors").unlink()
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["files"][f"{group}.safetensors"]
    path.write_text(json.dumps(manifest))


def run_files(run: Path) -> dict[str, bytes]:
    """Every file of a run, but for its lock."""
    paths = sorted(path for path in run.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}

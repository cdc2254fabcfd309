"""Reading one checkpoint: whole or refused."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from checkpoints import small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igan_fast.checkpoint import CheckpointError, load_checkpoint
from igan_fast.train.save import save_checkpoint


def test_only_reads_the_groups_asked_for(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, 1, small(1.0), {})
    (folder / "rng.safetensors").write_bytes(b"")
    assert load_checkpoint(folder, only=["model", "absent"]).tensors.keys() == {"model"}
    with pytest.raises(CheckpointError, match=r"rng\.safetensors"):
        load_checkpoint(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("run"), 321, {"m": {"w": torch.arange(6.0)}}, {"lr": 0.1})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_flipped_bit_is_ever_read_as_something_else(whole: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(path.name for path in whole.iterdir())))
    original = (whole / name).read_bytes()
    position, bit = data.draw(st.integers(0, len(original) - 1)), data.draw(st.integers(0, 7))
    changed = bytearray(original)
    changed[position] ^= 1 << bit
    try:
        (whole / name).write_bytes(changed)
        found = None
        with contextlib.suppress(CheckpointError):
            found = load_checkpoint(whole)
        if found is not None:  # only the manifest has bytes that mean nothing: spaces, and the package's version
            assert name == "manifest.json"
            assert (found.iteration, found.state) == (321, {"lr": 0.1})
            assert torch.equal(found.tensors["m"]["w"], torch.arange(6.0))
    finally:
        (whole / name).write_bytes(original)

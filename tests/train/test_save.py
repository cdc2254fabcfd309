"""Checkpoints are saved exactly and atomically, whatever kills the process or fills the disk."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from checkpoints import silent, small, step_names

from igan_fast.checkpoint import load_checkpoint
from igan_fast.checkpoint.find import newest_checkpoint
from igan_fast.errors import InputError
from igan_fast.train.diverged import TrainingDiverged
from igan_fast.train.retention import prune_checkpoints
from igan_fast.train.save import save_checkpoint


def test_every_dtype_shape_and_layout_comes_back_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shared = torch.randn(6, 4)
    tensors = {
        "model": {
            "zero_dim": torch.tensor(3.0),
            "empty": torch.empty(0, 7),
            "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
            "transposed": shared.t(),
            "shared": shared,
            "part": shared[1::2, :3],
            "negative_zero": torch.tensor([-0.0, 1e-45]),
            "parameter": torch.nn.Parameter(torch.randn(3)),
            **{str(dtype): torch.randn(5).to(dtype) for dtype in (torch.float64, torch.bfloat16, torch.float16)},
            **{str(dtype): torch.arange(5).to(dtype) for dtype in (torch.int64, torch.int32, torch.int8, torch.bool)},
        },
        "rng": {"cpu": torch.get_rng_state()},
        "nothing": {},
    }
    state = {"loss": 0.1 + 0.2, "tiny": 5e-324, "big": 2**70, "none": None, "text": "ø\ud800", "list": [1, [2.5]]}
    loaded = load_checkpoint(save_checkpoint(tmp_path, 7, tensors, state))

    assert loaded.iteration == 7
    assert loaded.state == state
    assert loaded.tensors.keys() == tensors.keys()
    for group, members in tensors.items():
        assert loaded.tensors[group].keys() == members.keys()
        for name, tensor in members.items():
            found = loaded.tensors[group][name]
            assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape), name
            bits = tensor.detach().contiguous().numpy(force=True) if tensor.dtype != torch.bfloat16 else None
            expected = bits.tobytes() if bits is not None else tensor.view(torch.int16).numpy().tobytes()
            same = found.numpy() if found.dtype != torch.bfloat16 else found.view(torch.int16).numpy()
            assert same.tobytes() == expected, name


def test_the_folder_holds_no_pickle_and_a_manifest_of_every_file(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, 123, small(1.0), {"a": 1})
    assert folder == tmp_path / "checkpoints" / "step-00000123"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {path.name for path in folder.iterdir()} == {"manifest.json", *manifest["files"]}
    assert set(manifest["files"]) == {"model.safetensors", "rng.safetensors", "state.json"}
    assert manifest["iteration"] == 123
    sums = subprocess.run(["sha256sum", *manifest["files"]], cwd=folder, capture_output=True, text=True, check=True)
    for line in sums.stdout.splitlines():
        digest, name = line.split()
        assert manifest["files"][name] == {"bytes": (folder / name).stat().st_size, "sha256": digest}


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({"metrics": {"psnr": float("inf")}}, ValueError, r"state\.metrics\.psnr is inf"),
        ({"list": [0.0, float("nan")]}, ValueError, r"state\.list\[1\] is nan"),
        ({"table": {3: "x"}}, TypeError, r"state\.table: the key 3 is a int"),
        ({"tensor": torch.zeros(1)}, TypeError, r"state\.tensor is a Tensor"),
    ],
)
def test_state_that_json_would_change_is_refused(
    tmp_path: Path, state: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        save_checkpoint(tmp_path, 1, small(1.0), state)
    assert step_names(tmp_path) == []


def test_a_group_that_is_no_file_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'\.\./model'"):
        save_checkpoint(tmp_path, 1, {"../model": {}}, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, value: float) -> None:
    tensors = small(1.0)
    tensors["model"]["weight"][1, 2] = value
    with pytest.raises(TrainingDiverged, match=f"iteration 9: model/weight is {value}") as caught:
        save_checkpoint(tmp_path, 9, tensors, {})
    assert caught.value.iteration == 9
    assert step_names(tmp_path) == []


def test_saving_again_replaces_and_removes_what_lies_ahead(tmp_path: Path) -> None:
    for iteration in (1, 2, 3, 4):
        save_checkpoint(tmp_path, iteration, small(iteration), {})
    save_checkpoint(tmp_path, 2, small(20.0), {})
    assert step_names(tmp_path) == ["step-00000001", "step-00000002"]
    newest = newest_checkpoint(tmp_path, silent)
    assert newest is not None
    assert torch.equal(newest.tensors["model"]["weight"], torch.full((3, 5), 20.0))


def test_a_kill_between_the_two_renames_of_a_replacement_loses_nothing(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, 5, small(5.0), {})
    folder.rename(folder.with_name("step-00000005.replaced"))  # the moment before the new one gets its name
    newest = newest_checkpoint(tmp_path, silent)
    assert newest is not None
    assert newest.iteration == 5
    save_checkpoint(tmp_path, 5, small(6.0), {})
    assert step_names(tmp_path) == ["step-00000005"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("failing_call", [1, 2, 3, 4, 5, 6])
def test_a_full_disk_at_any_write_leaves_the_older_ones_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, failing_call: int
) -> None:
    save_checkpoint(tmp_path, 1, small(1.0), {"good": True})
    calls = 0
    real = os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing_call:
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    if failing_call <= 5:  # two groups, state, manifest, the folder
        with pytest.raises(InputError, match=r"disk is full .*iteration 2 was not written, older ones are untouched"):
            save_checkpoint(tmp_path, 2, small(2.0), {})
        assert step_names(tmp_path) == ["step-00000001"]
        assert load_checkpoint(tmp_path / "checkpoints" / "step-00000001").state == {"good": True}
    else:  # the new name itself could not be forced: the new one is there and so is the old one
        with pytest.raises(InputError, match="disk is full"):
            save_checkpoint(tmp_path, 2, small(2.0), {})
        assert step_names(tmp_path) == ["step-00000001", "step-00000002"]


def test_a_real_write_that_the_system_cuts_short(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, small(1.0), {})
    script = (
        "import resource, sys, torch; from pathlib import Path\n"
        "from igan_fast.errors import InputError; from igan_fast.train.save import save_checkpoint\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: save_checkpoint(Path(sys.argv[1]), 2, {'model': {'w': torch.zeros(100_000)}}, {})\n"
        "except InputError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert "disk is full" in done.stdout
    assert step_names(tmp_path) == ["step-00000001"]
    assert newest_checkpoint(tmp_path, silent) is not None


def test_a_run_folder_that_cannot_be_made_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        save_checkpoint(tmp_path / "file", 1, small(1.0), {})


WRITER = """
import sys, torch
from pathlib import Path
from igan_fast.checkpoint.find import newest_checkpoint
from igan_fast.train.retention import prune_checkpoints
from igan_fast.train.save import save_checkpoint
run = Path(sys.argv[1])
newest = newest_checkpoint(run, lambda message: sys.exit("DAMAGED " + message))
start = newest.state["i"] + 1 if newest else 0  # not its iteration, which may be the one that is written twice
print("ready", flush=True)
for i in range(start, start + 100_000):
    # every third time the same iteration is written again: replacing has to be as safe
    save_checkpoint(run, i - (i % 3 == 2), {"model": {"w": torch.full((200_000,), float(i))}, "b": {"x": torch.tensor(i)}}, {"i": i})
    prune_checkpoints(run, 2)
    print(i, flush=True)
"""  # noqa: E501


def test_kill_9_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    rng = random.Random(0)
    latest = -1
    for _ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        confirmed = [int(writer.stdout.readline())]  # one is whole, however busy the machine
        time.sleep(rng.uniform(0.0, 0.1))
        writer.send_signal(signal.SIGKILL)
        confirmed += [int(line) for line in writer.stdout.read().splitlines() if line.isdigit()]
        writer.stdout.close()
        writer.wait()
        newest = newest_checkpoint(tmp_path, silent)
        assert newest is not None
        value = newest.state["i"]
        assert value >= max([latest, *confirmed])
        assert torch.equal(newest.tensors["model"]["w"], torch.full((200_000,), float(value)))
        assert newest.tensors["b"]["x"] == value
        latest = value
    assert latest > 0
    prune_checkpoints(tmp_path, 1)
    assert len(step_names(tmp_path)) == 1

"""Checkpoints: exact, atomic, found again after a kill, a flipped byte or a full disk."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igan_fast.errors import InputError
from igan_fast.reference.models import IterativeGAN
from igan_fast.train.checkpoint import (
    CheckpointError,
    best_checkpoint,
    find_checkpoint,
    load_checkpoint,
    load_model,
    mark_best,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from igan_fast.train.diverged import TrainingDiverged


def silent(message: str) -> None:
    raise AssertionError(f"nothing should be reported, got: {message}")


def small(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"weight": torch.full((3, 5), value)}, "rng": {"cpu": torch.get_rng_state()}}


def step_names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def flip_byte(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


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


def test_only_reads_the_groups_asked_for(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, 1, small(1.0), {})
    (folder / "rng.safetensors").write_bytes(b"")
    assert load_checkpoint(folder, only=["model", "absent"]).tensors.keys() == {"model"}
    with pytest.raises(CheckpointError, match=r"rng\.safetensors"):
        load_checkpoint(folder)


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


def damage_flip(folder: Path) -> None:
    flip_byte(folder / "model.safetensors", -3)


def damage_cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size - 1)


def damage_missing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def damage_empty_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"")


def damage_no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def damage_manifest_of_another_kind(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"files": [1, 2]}')


def damage_manifest_list(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")


def damage_bad_state(folder: Path) -> None:
    (folder / "state.json").write_text("{")


def damage_path_in_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("model.safetensors", "../x.safetensors"))


def damage_a_folder_in_its_place(folder: Path) -> None:
    (folder / "state.json").unlink()
    (folder / "state.json").mkdir()


DAMAGES = [
    (damage_flip, "model.safetensors: damaged"),
    (damage_cut, "model.safetensors: damaged"),
    (damage_missing, "model.safetensors: missing"),
    (damage_empty_manifest, "manifest.json: damaged: not JSON"),
    (damage_no_manifest, "manifest.json: missing"),
    (damage_manifest_of_another_kind, "manifest.json: damaged"),
    (damage_manifest_list, "manifest.json: damaged"),
    (damage_bad_state, "state.json: damaged"),
    (damage_path_in_manifest, "manifest.json: damaged"),
    (damage_a_folder_in_its_place, "state.json: found a folder, expected a file"),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGES, ids=lambda item: getattr(item, "__name__", ""))
def test_a_damaged_newest_is_reported_in_one_line_and_the_one_before_taken(
    tmp_path: Path, damage: object, expected: str
) -> None:
    assert callable(damage)
    for iteration in (1, 2, 3):
        save_checkpoint(tmp_path, iteration, small(iteration), {"i": iteration})
    damage(tmp_path / "checkpoints" / "step-00000003")
    reports: list[str] = []
    newest = newest_checkpoint(tmp_path, reports.append)
    assert newest is not None
    assert (newest.iteration, newest.state) == (2, {"i": 2})
    assert torch.equal(newest.tensors["model"]["weight"], torch.full((3, 5), 2.0))
    assert len(reports) == 1
    assert "\n" not in reports[0]
    assert f"step-00000003/{expected}" in reports[0]
    assert find_checkpoint(tmp_path, reports.append).folder.name == "step-00000002"
    with pytest.raises(CheckpointError, match="step-00000003"):
        load_checkpoint(tmp_path / "checkpoints" / "step-00000003")


def test_all_damaged_is_an_error_and_none_at_all_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "absent", silent) is None
    for iteration in (1, 2):
        damage_flip(save_checkpoint(tmp_path, iteration, small(1.0), {}))
    reports: list[str] = []
    with pytest.raises(CheckpointError, match=r"none of its 2 checkpoints can be used; the first: .*step-00000002"):
        newest_checkpoint(tmp_path, reports.append)
    assert reports == []  # one message says it all


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


def test_iterations_past_eight_digits_sort_as_numbers(tmp_path: Path) -> None:
    for iteration in (99_999_999, 100_000_000):
        save_checkpoint(tmp_path, iteration, small(1.0), {})
    newest = newest_checkpoint(tmp_path, silent)
    assert newest is not None
    assert newest.iteration == 100_000_000


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
        "from igan_fast.errors import InputError; from igan_fast.train.checkpoint import save_checkpoint\n"
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
from igan_fast.train.checkpoint import newest_checkpoint, prune_checkpoints, save_checkpoint
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


def test_best_is_found_first_kept_and_survives_damage(tmp_path: Path) -> None:
    assert best_checkpoint(tmp_path) is None
    for iteration in range(1, 7):
        save_checkpoint(tmp_path, iteration, small(iteration), {})
    mark_best(tmp_path, 2, 0.125)
    best = best_checkpoint(tmp_path, silent)
    assert best == (tmp_path / "checkpoints" / "step-00000002", 2, 0.125)
    assert find_checkpoint(tmp_path, silent).folder.name == "step-00000002"

    leftover = tmp_path / "checkpoints" / "tmp-step-00000007-99999"
    leftover.mkdir()
    (leftover / "model.safetensors").write_text("half")
    prune_checkpoints(tmp_path, 2)
    assert step_names(tmp_path) == ["best.json", "step-00000002", "step-00000005", "step-00000006"]

    mark_best(tmp_path, 6, 0.1)
    prune_checkpoints(tmp_path, 2)
    assert step_names(tmp_path) == ["best.json", "step-00000005", "step-00000006"]

    damage_flip(tmp_path / "checkpoints" / "step-00000006")
    with pytest.warns(UserWarning, match="step-00000006"):
        assert find_checkpoint(tmp_path).folder.name == "step-00000005"
    reports: list[str] = []
    (tmp_path / "checkpoints" / "best.json").write_text("{}")
    assert best_checkpoint(tmp_path, reports.append) is None
    assert "best.json: damaged" in reports[0]
    with pytest.raises(ValueError, match="no checkpoint of iteration 77"):
        mark_best(tmp_path, 77, 0.0)
    with pytest.raises(ValueError, match="keep is 0"):
        prune_checkpoints(tmp_path, 0)


def test_a_best_whose_checkpoint_is_gone_counts_as_none(tmp_path: Path) -> None:
    for iteration in (1, 2):
        save_checkpoint(tmp_path, iteration, small(iteration), {})
    mark_best(tmp_path, 1, 0.5)
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000001")
    reports: list[str] = []
    assert find_checkpoint(tmp_path, reports.append).folder.name == "step-00000002"
    assert len(reports) == 1
    assert "iteration 1" in reports[0]


def test_find_checkpoint_says_what_is_wrong_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(InputError, match="expected a run or a checkpoint folder"):
        find_checkpoint(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match="no checkpoint yet"):
        find_checkpoint(tmp_path)
    folder = save_checkpoint(tmp_path, 1, small(1.0), {})
    copied = shutil.copytree(folder, tmp_path / "my favourite")
    assert find_checkpoint(copied).folder == copied
    damage_cut(copied)
    with pytest.raises(CheckpointError, match="my favourite"):
        find_checkpoint(copied)


@pytest.fixture
def model() -> IterativeGAN:
    torch.manual_seed(0)
    return IterativeGAN(image_size=32, attributes=3, latent=5, width=4)


def state_of(model: IterativeGAN, attributes: tuple[str, ...] = ("Smiling", "Male", "Bald")) -> dict[str, object]:
    return {"model": {"arguments": model.arguments(), "attributes": attributes}, "config": {"seed": 3}}


def test_load_model_takes_the_average_else_the_plain_weights(tmp_path: Path, model: IterativeGAN) -> None:
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    average = {name: tensor + 1 for name, tensor in plain.items()}
    save_checkpoint(tmp_path, 1, {"model": plain, "ema": average, "optimizer_g": {}}, state_of(model))
    rng = torch.get_rng_state()
    loaded = load_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), rng)
    assert (loaded.attributes, loaded.iteration, loaded.config) == (("Smiling", "Male", "Bald"), 1, {"seed": 3})
    assert loaded.folder == tmp_path / "checkpoints" / "step-00000001"
    assert not any(module.training for module in loaded.model.modules())
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, average[name])
    for name, tensor in load_model(loaded.folder, weights="model").model.state_dict().items():
        assert torch.equal(tensor, plain[name])

    save_checkpoint(tmp_path, 2, {"model": plain}, state_of(model))
    for name, tensor in load_model(tmp_path).model.state_dict().items():
        assert torch.equal(tensor, plain[name])
    with pytest.raises(InputError, match="'best'"):
        load_model(tmp_path, weights="best")  # type: ignore[arg-type]


def test_load_model_refuses_what_does_not_fit(tmp_path: Path, model: IterativeGAN) -> None:
    other = IterativeGAN(image_size=32, attributes=3, latent=5, width=8)
    cases: list[tuple[dict[str, dict[str, torch.Tensor]], dict[str, object], str]] = [
        ({"rng": {}}, state_of(model), "holds no model"),
        ({"model": dict(model.state_dict())}, {}, "does not describe a model"),
        ({"model": dict(model.state_dict())}, {"model": {"arguments": {"size": 1}, "attributes": []}}, "not describe"),
        ({"model": dict(model.state_dict())}, state_of(other), "do not fit the model"),
        ({"model": dict(model.state_dict())}, state_of(model, ("Male",)), "names 1 attributes for a model of 3"),
    ]
    for number, (tensors, state, message) in enumerate(cases):
        folder = save_checkpoint(tmp_path / str(number), 1, tensors, state)
        with pytest.raises(CheckpointError, match=message) as caught:
            load_model(folder)
        assert "\n" not in str(caught.value)

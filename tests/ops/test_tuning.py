"""Choices by measurement: what is chosen, and where the choices are kept, with timers that are made up."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from measuring import Clock, measuring
from no_warnings import no_warning

from igan_fast.ops import tuning
from igan_fast.ops.convolution import asked_for, asking_for, choice
from igan_fast.ops.tuning import OTHER, TRITON, Choices


def chosen(choices: Choices, key: str = "key", *, measure: bool = True) -> str:
    return choices.fastest(key, {TRITON: lambda: "triton", OTHER: lambda: "other"}, measure=measure)


FAILED = RuntimeError("CUDA out of memory")


@pytest.mark.parametrize(
    ("of_triton", "of_other", "expected"),
    [(1, 2, TRITON), (2, 1, OTHER), (1, 1, OTHER), (FAILED, 1, OTHER), (1, FAILED, TRITON), (FAILED, FAILED, OTHER)],
)
def test_the_faster_is_chosen(of_triton: Any, of_other: Any, expected: str) -> None:
    clock = Clock(triton=of_triton, other=of_other)
    choices = Choices(None, clock)
    assert [chosen(choices) for _ in range(3)] == [expected] * 3
    assert clock.asked == 2


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [((3, 1, 2), "b"), ((1, 1, 2), "b"), ((1, 2, 1), "c"), ((FAILED, 2, FAILED), "b"), ((FAILED,) * 3, "c")],
)
def test_the_fastest_of_several_ways_and_of_equal_ones_the_last(seconds: Any, expected: str) -> None:
    choices = Choices(None, Clock(**dict(zip("abc", seconds, strict=True))))
    ways = {name: name.lower for name in "abc"}
    assert choices.fastest("key", ways, measure=False) == "c"
    assert [choices.fastest("key", ways, measure=measure) for measure in (True, False)] == [expected] * 2


def test_a_way_that_there_is_no_longer_is_not_taken(tmp_path: Path) -> None:
    folder = tmp_path / "choices"
    older = Choices(folder, Clock(a=1, b=2))
    assert older.fastest("key", {name: name.lower for name in "ab"}, measure=True) == "a"
    for choices in (Choices(folder, Clock(b=1, c=2)), Choices(None, Clock(b=1, c=2), {"key": "a"})):
        ways = {name: name.lower for name in "bc"}
        assert choices.fastest("key", ways, measure=False) == "c"
        assert choices.fastest("key", ways, measure=True) == "b"


def test_an_error_of_the_program_is_not_hidden() -> None:
    with pytest.raises(TypeError):
        chosen(Choices(None, Clock(triton=TypeError("wrong"), other=1)))


def test_what_may_not_be_measured_is_not_remembered() -> None:
    choices = Choices(None, Clock(triton=1, other=2))
    assert chosen(choices, measure=False) == OTHER
    assert chosen(choices) == TRITON
    assert chosen(choices, measure=False) == TRITON


def test_a_choice_is_kept_for_later_processes(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    chosen(Choices(folder, Clock(triton=1, other=2)))
    later = Clock(triton=2, other=1)
    assert chosen(Choices(folder, later), measure=False) == TRITON
    assert chosen(Choices(folder, later)) == TRITON
    assert later.asked == 0
    assert chosen(Choices(folder, later), "another key") == OTHER
    assert later.asked == 2
    assert len(list(folder.iterdir())) == 2  # no temporary file is left


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"key": "key"}', '{"key": "other", "chosen": "triton"}'])
def test_a_damaged_choice_is_measured_again_and_replaced(tmp_path: Path, text: str) -> None:
    chosen(Choices(tmp_path, Clock(triton=2, other=1)))
    (file,) = tmp_path.iterdir()
    file.write_text(text)
    assert chosen(Choices(tmp_path, Clock(triton=1, other=2))) == TRITON
    assert json.loads(file.read_text()) == {"key": "key", "chosen": TRITON}
    file.write_bytes(b"\xff\xfe")
    assert chosen(Choices(tmp_path, Clock(triton=2, other=1))) == OTHER


def test_of_two_processes_that_measure_both_take_the_choice_of_the_first(tmp_path: Path) -> None:
    first, second = Choices(tmp_path, Clock(triton=1, other=2)), Choices(tmp_path, Clock(triton=2, other=1))

    def measured_meanwhile() -> str:
        assert chosen(first) == TRITON
        return "other"

    ways = {TRITON: lambda: "triton", OTHER: measured_meanwhile}
    assert second.fastest("key", ways, measure=True) == TRITON
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    choices = Choices(file / "folder", Clock(triton=1, other=2))
    with pytest.warns(UserWarning, match="file/folder: the choices of convolutions cannot be kept there"):
        assert chosen(choices) == TRITON
    with no_warning():
        assert chosen(choices) == TRITON
        assert chosen(choices, "another key") == TRITON
    assert file.read_text() == "kept"


def test_what_triton_cannot_compile_for_a_device_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    class TritonError(Exception):
        pass

    class OutOfResources(TritonError):
        pass

    choices = Choices(None, Clock(triton=OutOfResources("shared memory"), other=1))
    with pytest.raises(OutOfResources):
        chosen(choices)  # an exception of this name alone says nothing
    monkeypatch.setitem(sys.modules, "triton.errors", SimpleNamespace(TritonError=TritonError))
    assert chosen(choices) == OTHER


def test_given_choices_are_taken_before_those_on_disk(tmp_path: Path) -> None:
    chosen(Choices(tmp_path, Clock(triton=1, other=2)))
    timer = Clock(triton=1, other=2)
    choices = Choices(tmp_path, timer, {"key": OTHER})
    assert chosen(choices) == OTHER
    assert timer.asked == 0
    assert chosen(choices, "another key") == TRITON
    assert choices.known == {"key": OTHER, "another key": TRITON}
    assert chosen(Choices(tmp_path, timer)) == TRITON  # those on disk stay as they are


def test_processes_agree(tmp_path: Path) -> None:
    """The first that chooses decides, and who comes later need not measure."""
    settled: dict[str, str] = {}

    def agree(key: str, choose: Any) -> str:
        return settled[key] if key in settled else settled.setdefault(key, choose())

    first, second = Clock(triton=1, other=2), Clock(triton=2, other=1)
    machines = [Choices(tmp_path / str(number), timer, agree=agree) for number, timer in enumerate((first, second))]
    assert [chosen(choices) for choices in machines] == [TRITON, TRITON]
    assert [chosen(choices, "another key") for choices in machines[::-1]] == [OTHER, OTHER]
    assert (first.asked, second.asked) == (2, 2)
    assert machines[0].known == machines[1].known
    # While a graph is recorded, what is known neither here nor on disk is not asked for.
    assert [chosen(choices, "a third", measure=False) for choices in machines] == [OTHER, OTHER]
    assert "a third" not in settled


def test_a_run_starts_with_its_own_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    timer, agreed = Clock(triton=1, other=2), []

    def faster(key: str) -> bool:
        return tuning.is_triton_faster(key, lambda: "triton", lambda: "other", "cuda")

    def agree(name: str, choose: Any) -> str:
        agreed.append(name)
        return str(choose())

    with measuring(monkeypatch, timer, "H100"):
        assert faster("a")
        assert tuning.taken() == {"H100": {"a": TRITON}}
        choice.start_measuring({"H100": {"b": OTHER}, "another": {"a": OTHER}}, agree)
        assert [faster("a"), faster("b")] == [True, False]  # "a" is on disk
        assert timer.asked == 2
        assert agreed == ["H100 a"]
        assert tuning.taken() == {"H100": {"a": TRITON, "b": OTHER}}
        monkeypatch.setattr(tuning, "device_name", lambda: "another")
        assert not faster("a")
        assert tuning.taken()["another"] == {"a": OTHER}
    assert tuning.taken() == {}
    with measuring(monkeypatch, timer):
        assert faster("b")
    assert agreed == ["H100 a"]  # who agreed belonged to that run


def test_without_triton_and_a_cache_folder_there_are_choices_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IGAN_FAST_CACHE", "~nobody-of-this-name/x")
    assert tuning._folder_of("H100") is None
    monkeypatch.delenv("IGAN_FAST_CACHE")
    monkeypatch.setattr(tuning, "_version_of_triton", lambda: "")
    assert tuning._folder_of("H100") is not None


def test_what_is_asked_for_ends_with_the_block() -> None:
    before = asked_for()
    with asking_for("measure"):
        assert asked_for() == "measure"
        with pytest.raises(KeyError), asking_for("blocks"):
            raise KeyError
        assert asked_for() == "measure"
    assert asked_for() == before
    message = "choice is 'cudnn'; expected one of auto, triton, measure, blocks"
    with pytest.raises(ValueError, match=message), asking_for("cudnn"):
        pass
    assert asked_for() == before


def test_devices_and_versions_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IGAN_FAST_CACHE", str(tmp_path))
    folders = set()
    for name, version in (("H100", "1"), ("H200", "1"), ("H100", "2"), ("H100", "1")):
        monkeypatch.setattr(torch, "__version__", version)
        folder = tuning._folder_of(name)
        assert folder is not None
        assert folder.parent == tmp_path / "convolutions"
        folders.add(folder)
    assert len(folders) == 3


def test_a_version_of_cudnn_that_is_refused_once_does_not_change_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """``torch.backends.cudnn.version`` raises in the first call of a process only."""
    answers: list[Any] = [RuntimeError("cuDNN version incompatibility"), 91002, 91002]

    def version() -> Any:
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return answer

    monkeypatch.setattr(torch.backends.cudnn, "version", version)
    assert tuning._folder_of("H100") == tuning._folder_of("H100")
    assert answers == []
    answers[:] = [RuntimeError("there is none")] * 4
    assert tuning._folder_of("H100") == tuning._folder_of("H100")

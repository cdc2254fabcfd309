"""Which process this one is, from torchrun's variables."""

from __future__ import annotations

import pytest

from igan_fast.distributed.process import Process, ToldElsewhere, first_tells, this_process
from igan_fast.errors import InputError

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "there"}


def test_torchruns_variables_are_read() -> None:
    process = this_process(TORCHRUN)
    assert process == Process(rank=5, world_size=8, local_rank=1, local_world_size=4)
    assert not process.is_first
    assert not process.is_alone
    assert str(process).startswith("process 5 of 8 (")


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "8"}, {"RANK": "3"}])
def test_without_torchrun_there_is_one_process(environment: dict[str, str]) -> None:
    process = this_process(environment)
    assert process == Process()
    assert process.is_first
    assert process.is_alone


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"])
@pytest.mark.parametrize("value", ["", "-1", "two", "1.0", "²"])
def test_a_variable_that_is_no_number_is_named(name: str, value: str) -> None:
    with pytest.raises(InputError, match=f"{name}: found .*expected the whole number from . up that torchrun sets"):
        this_process(TORCHRUN | {name: value})


@pytest.mark.parametrize("change", [{"RANK": "8"}, {"LOCAL_RANK": "4"}])
def test_ranks_beyond_their_number_are_refused(change: dict[str, str]) -> None:
    with pytest.raises(InputError, match="expected ranks below these sizes"):
        this_process(TORCHRUN | change)


def test_only_the_first_process_tells_of_an_error_that_all_make() -> None:
    with pytest.raises(InputError, match="wrong") as raised, first_tells(Process(0, 2, 0, 2)):
        raise InputError("wrong")
    assert not isinstance(raised.value, ToldElsewhere)
    with pytest.raises(ToldElsewhere, match="wrong"), first_tells(Process(1, 2, 1, 2)):
        raise InputError("wrong")

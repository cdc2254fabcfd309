"""What the emulation refuses, and what it computes (rules.cpp)."""

from __future__ import annotations

import ctypes
import re

import pytest

BROKEN = [
    r"__syncthreads that some threads never reach \(block 0, 0, 0, thread 32\)",
    r"__syncthreads that some threads never reach \(block 0, 0, 0, thread 5\)",
    r"__shfl_down_sync with a mask that names a lane that has ended \(block 0, 0, 0, thread 31\)",
    r"__shfl_sync with a mask that does not name the calling lane \(block 0, 0, 0, thread 16\)",
    r"__shfl_down_sync from a lane that the mask does not name \(block 0, 0, 0, thread 15\)",
    r"__shfl_sync with another mask than another lane's",
    r"__shfl_sync with a mask that names a lane at __syncthreads \(block 0, 0, 0, thread 0\)",
    r"__any_sync while another lane calls another",
    r"more than 48 KiB of shared memory",
    r"a grid of 1 x 65536 x 1",
    r"a grid of 0 x 1 x 1",
    r"a block that is not 1 to 1024 threads",
    r"__shfl_xor_sync with a mask that names lanes that do not exist|__shfl_up_sync with a mask that names lanes",
]
UNWRITTEN, REVERSED, SHUFFLES = range(len(BROKEN), len(BROKEN) + 3)


def outcome(runtime: ctypes.CDLL, which: int) -> list[int] | str:
    """The results of the first 64 threads, or the message."""
    out, message = (ctypes.c_int * 64)(), ctypes.create_string_buffer(300)
    runtime.cuda_on_cpu_rules.restype = ctypes.c_bool
    return list(out) if runtime.cuda_on_cpu_rules(which, out, message, 300) else message.value.decode()


@pytest.mark.parametrize("order", [0, 1, 7])
@pytest.mark.parametrize("which", range(len(BROKEN)), ids=str)
def test_a_broken_rule_is_an_error(runtime: ctypes.CDLL, which: int, order: int) -> None:
    runtime.cuda_on_cpu_set_order(order)
    message = outcome(runtime, which)
    assert isinstance(message, str)
    pattern = BROKEN[which] if order == 0 else BROKEN[which].split(r" \(")[0]
    assert re.search(pattern, message), message


@pytest.mark.parametrize("order", [0, 1, 7, 99])
def test_what_keeps_the_rules_has_cudas_result(runtime: ctypes.CDLL, order: int) -> None:
    runtime.cuda_on_cpu_set_order(order)
    assert outcome(runtime, UNWRITTEN) == [-1] * 64  # 0xFF in each byte, in the second block too
    assert outcome(runtime, REVERSED) == [*range(63, -1, -1)]
    sums = [sum(range(first, first + 16)) for first in range(0, 64, 16)]
    expected = [sums[t // 16] + 10_000 * (t % 32 >= 16) + 100_000 + 5_000_000 for t in range(64)]
    assert outcome(runtime, SHUFFLES) == expected


def test_an_error_leaves_the_next_launch_alone(runtime: ctypes.CDLL) -> None:
    assert isinstance(outcome(runtime, 0), str)
    assert outcome(runtime, REVERSED) == [*range(63, -1, -1)]

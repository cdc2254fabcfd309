"""The predicted times of minimal filtering of sequences and of PyTorch's convolutions."""

from __future__ import annotations

import json

import pytest
import torch

from igan_fast.ops import backend
from igan_fast.ops.convolution import winograd_1d_costs, winograd_costs
from igan_fast.ops.convolution.winograd_1d_costs import (
    DIRECT_TERMS,
    FILTER_TERMS,
    WINOGRAD_TERMS,
    Work,
    direct_counts,
    filter_counts,
    is_faster,
    parts_of,
    seconds_of,
    winograd_counts,
)
from igan_fast.ops.convolution.winograd_costs import COMPUTATIONS, FILE

KNOWN = json.loads(FILE.read_text(encoding="utf-8"))

#: 2 sequences of 60 values, 32 channels to 64, 3 taps.
WORK = Work(2, 60, 60, 32, 64, 3)


@pytest.fixture
def avx512(monkeypatch):
    monkeypatch.setattr(winograd_1d_costs, "INSTRUCTION_SET", "avx512")
    monkeypatch.setattr(winograd_costs, "INSTRUCTION_SET", "avx512")


@pytest.mark.parametrize(
    ("kernel", "parts"),
    [
        *(
            (1, (2, 1)),
            (2, (2, 1)),
            (3, (3, 1)),
            (4, (4, 1)),
            (5, (5, 1)),
            (6, (4, 2)),
            (8, (4, 2)),
            (9, (5, 2)),
            (11, (4, 3)),
        ),
        *((12, (4, 3)), (13, (5, 3)), (16, (4, 4)), (41, (4, 11))),
    ],
)
def test_the_parts_of_a_filter(kernel, parts):
    assert parts_of(kernel) == parts
    taps, count = parts
    assert 4 * (count - 1) + taps >= kernel  # all taps are in a part


@pytest.mark.skipif(not backend.has_native_cpu(), reason="only the extension has these kernels")
@pytest.mark.parametrize("transposed", [False, True])
def test_the_kernels_divide_filters_into_the_same_parts(transposed):
    """A filter has a header of 16 values, and rows of 6 or 12 output channels; its planes are a little larger."""
    rows = winograd_costs.ROWS[winograd_costs.INSTRUCTION_SET]
    for kernel in range(1, 42):
        for stride in (1, 2, 4):
            filter = torch.ops.igan_fast.winograd_1d_filter(torch.zeros(24, 36, kernel), stride, 1, transposed)
            taps, parts = parts_of(-(-kernel // stride))
            inputs, outputs = (24, 36 * stride) if transposed else (36 * stride, 24)
            values = (taps + 3) * parts * inputs * (-(-outputs // rows) * rows)
            assert 0 <= filter.numel() - 16 - values <= 48 * (taps + 3), (kernel, stride)


@pytest.mark.usefixtures("avx512")
def test_the_counts_of_a_small_convolution():
    weights = 3 * 32 * 64
    assert direct_counts(WORK) == [1, 120 * weights, 120 * 96, weights]
    # 15 tiles, and a column behind them, of 6 products: 32 columns, one block. 64 rows are five times 12, and 4.
    assert winograd_counts(WORK, "convolution") == [1, 6 * 32 * 64 * 32, 6 * 32 * 96, 0, 6 * 32 * 72, 0]
    # 32 rows are twice 12, and 8.
    assert winograd_counts(WORK, "transposed") == [1, 6 * 64 * 32 * 32, 6 * 32 * 96, 0, 6 * 64 * 36, 0]
    assert winograd_counts(WORK, "weight_gradient") == [1, 6 * 64 * 32 * 32, 6 * 32 * 96, 0, 6 * 64 * 32, 0]
    assert filter_counts(WORK) == [1, 6 * 32 * 64, weights]
    # Of 7 taps there are two parts, of 7 products each; a sequence has two more columns.
    longer = WORK._replace(kernel=7)
    assert winograd_counts(longer, "convolution") == [1, 2 * 7 * 32 * 64 * 48, 7 * 34 * 96, 0, 2 * 7 * 32 * 72, 0]
    assert filter_counts(longer) == [1, 2 * 7 * 32 * 64, 7 * 32 * 64]
    # With dilation 3 there are three sequences of 20 values, 5 tiles each, and a column.
    dilated = winograd_counts(WORK._replace(interleaved=3), "convolution")
    assert dilated == [1, 6 * 32 * 64 * 48, 6 * 36 * 96, 120 * 96, 6 * 32 * 72, 0]
    # With stride 2 a filter of 6 taps has 3, of twice as many channels of the large sequences, which lie apart.
    strided = WORK._replace(small=30, kernel=6, stride=2)
    apart, columns = 2 * 60 * 32, 32  # two times 8 tiles and a column, in vectors of 16
    assert winograd_counts(strided, "convolution") == [1, 6 * 64 * 64 * columns, 6 * 18 * 128, apart, 6 * 64 * 72, 0]
    assert winograd_counts(strided, "transposed") == [1, 6 * 64 * 64 * columns, 6 * 18 * 128, apart, 6 * 64 * 72, 0]
    assert filter_counts(strided) == [1, 6 * 64 * 64, 6 * 32 * 64]
    # The transposed convolution of 16 taps, stride 8 and padding 4 computes 4 values of the padding, too: 9 of 8.
    up = Work(1, 64, 8, 32, 64, 16, stride=8, padding=4)
    assert winograd_counts(up, "transposed")[2] == 5 * 4 * (64 + 8 * 32)  # 3 tiles and a column, 5 products
    assert winograd_counts(up._replace(padding=8), "transposed")[2] == 5 * 3 * (64 + 8 * 32)
    # 257 tiles and a column: five blocks of 64 columns, the last of which computes 16.
    long = Work(1, 1028, 1028, 12, 12, 3)
    assert winograd_counts(long, "convolution")[1] == 6 * 12 * 12 * (4 * 64 + 16)
    # Two groups have half the channels on both sides, and each is a call.
    grouped = WORK._replace(large_channels=64, small_channels=128, groups=2)
    once = winograd_counts(WORK, "convolution")
    assert winograd_counts(grouped, "convolution") == [2 * count for count in once]
    assert direct_counts(grouped) == [1, 2 * 120 * weights, 2 * 120 * 96, 2 * weights]
    assert filter_counts(grouped) == [2, 2 * 6 * 32 * 64, 2 * weights]
    # A filter of 6 · 1024 · 1032 floats is read from memory.
    large = winograd_counts(WORK._replace(large_channels=1024, small_channels=1024), "convolution")
    assert large[4:] == [0, 6 * 1024 * 1032]


@pytest.mark.usefixtures("avx512")
def test_a_filter_is_read_once_for_each_block_of_columns():
    assert winograd_1d_costs._blocks(224, 1 << 10) == (1, 224)  # shared by threads
    assert winograd_1d_costs._blocks(225, 1 << 10) == (8, 32)
    assert winograd_1d_costs._blocks(1000, 1 << 10) == (8, 128)
    assert winograd_1d_costs._blocks(100_000, 1 << 10) == (391, 256)
    assert winograd_1d_costs._blocks(1000, 1 << 20) == (32, 32)


def test_times_are_sums_of_counts_and_constants(monkeypatch):
    of = {"direct": [1000, 0, 1, 0], "winograd": [0] * 6, "filter": [3000, 0, 0]}
    monkeypatch.setattr(winograd_1d_costs, "COSTS_1D", dict.fromkeys(COMPUTATIONS, of))
    direct = 1e-6 + 120 * 96e-9
    assert seconds_of(WORK, "convolution") == pytest.approx((3e-6, direct))
    assert seconds_of(WORK, "convolution", kept=True) == pytest.approx((0, direct))
    assert seconds_of(WORK, "weight_gradient") == pytest.approx((0, direct))  # transforms no filter
    assert is_faster(WORK, "convolution")
    of["direct in groups"] = [2000, 0, 0, 0]
    assert seconds_of(WORK._replace(groups=2), "convolution")[1] == pytest.approx(2e-6)
    of["filter"][0] = 12_000  # within the margin
    assert not is_faster(WORK, "convolution")
    assert is_faster(WORK, "convolution", kept=True)


@pytest.mark.parametrize("name", KNOWN)
def test_what_was_measured(name, monkeypatch):
    """The convolutions of a network that makes sounds by minimal filtering; short ones of many channels by PyTorch."""
    for module in (winograd_costs, winograd_1d_costs):
        monkeypatch.setattr(module, "INSTRUCTION_SET", name)
    monkeypatch.setattr(winograd_1d_costs, "COSTS_1D", KNOWN[name]["costs_1d"])
    terms = dict.fromkeys(("direct", "direct in groups"), len(DIRECT_TERMS))
    terms |= {"winograd": len(WINOGRAD_TERMS), "filter": len(FILTER_TERMS)}
    for computation in COMPUTATIONS:
        for way, constants in KNOWN[name]["costs_1d"][computation].items():
            without_filter = way == "filter" and computation == "weight_gradient"
            assert len(constants) == (0 if without_filter else terms[way])
            assert all(constant >= 0 for constant in constants)
        for channels, length in ((256, 256), (128, 2048), (64, 4096), (32, 8192)):
            for kernel in (3, 7, 11):
                work = Work(16, length, length, channels, channels, kernel)
                assert is_faster(work, computation)
        short = Work(1, 8, 8, 1024, 1024, 5)
        assert not is_faster(short, computation)


def test_an_instruction_set_that_was_not_measured_has_the_constants_of_avx2(monkeypatch):
    monkeypatch.setattr(winograd_costs, "INSTRUCTION_SET", "baseline")
    assert winograd_costs._load("costs_1d") == KNOWN["avx2"]["costs_1d"]

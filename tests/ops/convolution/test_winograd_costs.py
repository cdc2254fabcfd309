"""The predicted times of minimal filtering and of PyTorch's convolutions, and the choices that they make."""

from __future__ import annotations

import json

import pytest
import torch

from igan_fast.ops.convolution import winograd, winograd_costs
from igan_fast.ops.convolution.winograd_costs import (
    COMPUTATIONS,
    DIRECT_TERMS,
    FILE,
    FILTER_TERMS,
    HALF_TYPES,
    WINOGRAD_TERMS,
    Work,
    best_tile,
    direct_counts,
    filter_counts,
    is_predicted,
    seconds_of,
    winograd_counts,
)

KNOWN = json.loads(FILE.read_text(encoding="utf-8"))

#: A 3×3 convolution of one 8 × 8 image with 32 channels to 64 channels.
WORK = Work(1, (8, 8), (8, 8), 32, 64, 3, 1)


@pytest.fixture
def costs(monkeypatch):
    """A function that sets the constants of each way."""

    def set_to(direct, winograd_, filter):
        of = {"direct": direct, "winograd": winograd_, "filter": filter}
        monkeypatch.setattr(winograd_costs, "_COSTS", {"3x3 stride 1": dict.fromkeys(COMPUTATIONS, of)})

    return set_to


def test_the_counts_of_a_small_convolution(monkeypatch):
    monkeypatch.setattr(winograd_costs, "INSTRUCTION_SET", "avx512")
    weights = 9 * 32 * 64
    assert direct_counts(WORK) == [1, 64 * weights, 64 * (32 + 64), weights]
    # 16 tiles of 2 × 2 outputs, each of 4 × 4 products; one block of tiles, of 12 and of 4 rows
    assert winograd_counts(WORK, 2, "convolution") == [1, 16 * 16 * 32 * 64, 16 * 16 * 96, 16 * 32 * 64, 0]
    # 4 tiles of 4 × 4 outputs, each of 6 × 6 products
    assert winograd_counts(WORK, 4, "convolution") == [1, 36 * 4 * 32 * 64, 36 * 4 * 96, 36 * 32 * 64, 0]
    # 32 output channels fill one panel; 40 need two
    transposed = winograd_counts(WORK._replace(large_channels=40), 4, "transposed")
    assert transposed == [1, 36 * 4 * 64 * 64, 36 * 4 * 128, 36 * 64 * 64, 0]
    # 12 tiles are 12 rows; two more take as long as four
    wider = [winograd_counts(WORK._replace(small=(8, width)), 4, "convolution")[1] for width in (24, 26)]
    assert [count / (36 * 32 * 64) for count in wider] == [12, 12 + 4]
    assert winograd_counts(WORK, 4, "weight_gradient")[1] == 36 * 4 * 32 * 64
    assert filter_counts(WORK, 4) == [1, 36 * 32 * 64, weights]
    # 36 · 512 · 256 floats are more than 16 MiB
    large = WORK._replace(large_channels=512, small_channels=256)
    assert winograd_counts(large, 4, "convolution")[3:] == [0, 36 * 512 * 256]


def test_a_filter_is_read_once_for_each_block_of_tiles():
    assert winograd_costs._blocks(1, 1 << 10, 1 << 20) == 1
    assert winograd_costs._blocks(42, 1 << 20, 1) == 1  # 7 blocks of 6 tiles are too few for many threads
    assert winograd_costs._blocks(43, 1 << 20, 1) == 8
    assert winograd_costs._blocks(1024, 1 << 15, 1 << 20) == 64  # 16 tiles of 32 KiB are 512 KiB
    assert winograd_costs._blocks(1030, 1 << 15, 1 << 20) == 72  # a multiple of 8, so that threads get as many
    # A filter of 64 MiB for blocks of 6 tiles costs more than planes that leave the cache.
    assert winograd_costs._blocks(129, 1 << 18, 1 << 26) == 2  # shared by threads, at most 128 tiles each


def test_the_sums_of_a_weight_gradient_are_read_once_for_each_block_of_tiles():
    assert winograd_costs._gradient_blocks(1024, 1 << 15, 8 << 20) == 11  # 96 tiles of 32 KiB are 3 MiB
    assert winograd_costs._gradient_blocks(1024, 1 << 20, 8 << 20) == 32  # of at least 32 tiles
    assert winograd_costs._gradient_blocks(1024, 1 << 15, (8 << 20) + 1) == 2  # 768 tiles are 24 MiB
    assert winograd_costs._gradient_blocks(1024, 1 << 20, 9 << 20) == 16  # of at least 64 tiles


def test_times_are_sums_of_counts_and_constants(costs):
    costs([1000, 0, 1, 0], [0, 0, 0, 0, 0], [3000, 0, 0])
    assert seconds_of(WORK, "convolution") == pytest.approx([1e-6 + 64 * 96e-9, 3e-6, 3e-6])
    assert seconds_of(WORK, "convolution", kept=True) == pytest.approx([1e-6 + 64 * 96e-9, 0, 0])
    assert seconds_of(WORK, "weight_gradient") == pytest.approx([1e-6 + 64 * 96e-9, 0, 0])  # transforms no filter


@pytest.mark.parametrize("dtype", [torch.float32, *HALF_TYPES])
def test_a_channels_last_weight_suits_pytorch_better(costs, dtype, monkeypatch):
    monkeypatch.setattr(winograd_costs, "_PRODUCTS", dict.fromkeys(HALF_TYPES, "none"))
    costs([1000, 0, 0, 2], [0, 0, 0, 0, 0], [100, 0, 0])
    weights = 9 * 32 * 64
    direct, *ways = seconds_of(WORK._replace(dtype=dtype), "transposed", channels_last=True)
    saved = winograd_costs.SAVED_BY_CHANNELS_LAST[4 if dtype == torch.float32 else 2]
    assert direct == pytest.approx(1e-6 + (2 - saved) * weights * 1e-9)
    assert ways == pytest.approx([1e-7 + winograd_costs.FILTER_OF_CHANNELS_LAST * weights * 1e-9] * 2)
    assert seconds_of(WORK, "transposed", kept=True, channels_last=True)[1:] == [0, 0]


def test_small_convolutions_are_left_to_pytorch(costs):
    costs([1e9, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0])
    assert best_tile(WORK, "convolution") is None
    assert best_tile(WORK._replace(batch=4), "convolution") == 2


def test_the_choice(costs, monkeypatch):
    monkeypatch.setattr(winograd_costs, "FEWEST", 0)
    costs([1000, 0, 0, 0], [900, 0, 0, 0, 0], [40, 0, 0])
    assert best_tile(WORK, "convolution") == 2  # both take as long
    costs([1000, 0, 0, 0], [900, 0, 0, 0, 0], [60, 0, 0])  # 960: within the margin
    assert best_tile(WORK, "convolution") is None
    assert best_tile(WORK, "convolution", kept=True) == 2
    costs([1e6, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0])  # tiles of 4 need fewer products
    assert best_tile(WORK, "convolution") == 4
    costs([1e9, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0])  # tiles of 2 have a smaller filter
    assert best_tile(WORK, "convolution") == 2


def test_threads_share_the_memory_from_which_a_filter_is_read(costs, monkeypatch):
    monkeypatch.setattr(winograd_costs, "INSTRUCTION_SET", "avx512")
    work, values = WORK._replace(large_channels=512, small_channels=256), 512 * 256 / 1e9
    # Tiles of 2: 16 planes, 16 rows. Tiles of 4: 36 planes, 4 rows, and a filter of 18 MiB, twice as dear as products.
    costs([100e6, 0, 0, 0], [0, 1, 0, 0, 2], [0, 0, 0])
    assert seconds_of(work, "convolution")[1:] == pytest.approx([16 * 16 * values, 36 * (4 + 2) * values])
    assert best_tile(work, "convolution") == 2  # 256 against 36 · (4 + 4)
    costs([100e6, 0, 0, 0], [0, 1, 0, 0, 1.5], [0, 0, 0])
    assert best_tile(work, "convolution") == 4  # 36 · (4 + 3)
    costs([34e6, 0, 0, 0], [0, 1, 0, 0, 2], [0, 0, 0])
    assert best_tile(work, "convolution") == 4  # PyTorch is faster than tiles of 2
    costs([100e6, 0, 0, 0], [0, 1, 0, 0, 2], [0, 0, 0])
    monkeypatch.setattr(winograd_costs, "CACHE_BYTES", 1 << 30)
    assert best_tile(work, "convolution") == 4


@pytest.mark.parametrize("name", KNOWN)
def test_what_was_measured(name, monkeypatch):
    """Large convolutions of well-known networks by minimal filtering, tiny ones by PyTorch."""
    monkeypatch.setattr(winograd_costs, "INSTRUCTION_SET", name)
    monkeypatch.setattr(winograd_costs, "_COSTS", KNOWN[name]["costs"])
    terms = {"direct": len(DIRECT_TERMS), "winograd": len(WINOGRAD_TERMS), "filter": len(FILTER_TERMS)}
    terms["direct in bfloat16"] = len(DIRECT_TERMS)
    for kernel, stride in winograd.FILTERS:
        for computation in COMPUTATIONS:
            measured = KNOWN[name]["costs"][f"{kernel}x{kernel} stride {stride}"][computation]
            for way, constants in measured.items():
                without_filter = way == "filter" and computation == "weight_gradient"
                assert len(constants) == (0 if without_filter else terms[way])
                assert all(constant >= 0 for constant in constants)
                assert without_filter or any(constants)
            tiny = Work(1, (4 * stride,) * 2, (4, 4), 16, 16, kernel, stride)
            assert best_tile(tiny, computation) is None
            large = Work(16, (32 * stride,) * 2, (32, 32), 256, 256, kernel, stride)
            assert best_tile(large, computation) is not None


def test_half_types_are_compared_with_pytorchs_products_in_them(monkeypatch):
    """Without instructions for them these take at least as long as in float32."""
    costs = {"direct": [0, 1, 0, 0], "winograd": [0] * 5, "filter": [0] * 3}
    with_half = costs | {"direct in bfloat16": [0, 0.25, 0, 0]}
    monkeypatch.setattr(winograd_costs, "_COSTS", {"3x3 stride 1": dict.fromkeys(COMPUTATIONS, with_half)})
    full = seconds_of(WORK, "convolution")[0]
    for products, of_bfloat16, of_float16 in (
        ("none", full, full),
        ("vectors", full / 4, None),
        ("matrices", None, None),
        (None, None, None),
    ):
        monkeypatch.setattr(winograd_costs, "_PRODUCTS", dict.fromkeys(HALF_TYPES, products))
        for dtype, expected in zip(HALF_TYPES, (of_bfloat16, of_float16), strict=True):
            work = WORK._replace(dtype=dtype, batch=4)
            assert is_predicted(dtype) is (expected is not None)
            assert (best_tile(work, "convolution") is None) is (expected is None)
            if expected is not None:
                assert seconds_of(work._replace(batch=1), "convolution")[0] == pytest.approx(expected)
    monkeypatch.setattr(winograd_costs, "_COSTS", {"3x3 stride 1": dict.fromkeys(COMPUTATIONS, costs)})
    monkeypatch.setattr(winograd_costs, "_PRODUCTS", dict.fromkeys(HALF_TYPES, "vectors"))
    assert not is_predicted(torch.bfloat16)  # measured on a CPU without these instructions


def test_an_instruction_set_that_was_not_measured_has_the_constants_of_avx2(monkeypatch):
    monkeypatch.setattr(winograd_costs, "INSTRUCTION_SET", "baseline")
    assert winograd_costs._load("costs") == KNOWN["avx2"]["costs"]

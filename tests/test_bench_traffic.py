"""``bench.traffic``: the passes of an iteration over feature maps, against numbers computed by hand."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "bench").is_dir():
    pytest.skip("the benchmarks are not here: the installed package is tested", allow_module_level=True)
sys.path.append(str(ROOT))

pytest.importorskip("triton", reason="Triton is not installed")

from bench import traffic  # noqa: E402
from bench.fake_step import calls_of_an_iteration  # noqa: E402
from igan_fast.ops import backend  # noqa: E402

#: Of D's four maps, each of which is half as large as the one before, in A; G's are the same, the smallest first.
H1, H2, H3, H4 = 8 / 15, 4 / 15, 2 / 15, 1 / 15

#: Passes of the normalised maps: two of G's four maps, and four of D's last three.
NORMALISED = 2 + 4 * (H2 + H3 + H4)

MASK = 1 / 8  # the signs of all maps, 2 bits for 16


@pytest.fixture(scope="module")
def counted() -> dict[str, dict[str, float]]:
    if backend.switched_off():
        pytest.skip("the fused operators are switched off")
    return traffic.counted()


def test_plain_pytorch(counted: dict[str, dict[str, float]]) -> None:
    """A normalisation reads its input twice and writes once; its gradient reads two tensors twice. An activation reads
    and writes one, its gradient reads two. D's first layer and G's last have a bias, which is a pass of its own."""
    first = 4 * H1
    norms = (3 + 5) * NORMALISED + (2 + 3) * (NORMALISED + first)
    assert norms == pytest.approx(61, abs=1)  # DESIGN.md, section 4: 65 with the perceptual loss in bfloat16
    bias = 2 * first + first / 2  # added to the output in four passes; the gradient is a sum in two of them
    assert counted["plain PyTorch"][traffic.NORMS] == pytest.approx(norms + bias, rel=0.01)


def test_fused(counted: dict[str, dict[str, float]]) -> None:
    first = (2 + 3) * 4 * H1 + 2 * H1  # D's first layer: LeakyReLU, its gradient, and the sum for the bias
    distance = 2 + MASK + MASK + 1
    assert 8 * NORMALISED + distance == pytest.approx(34, abs=0.5)  # DESIGN.md, section 4
    assert counted["fused"][traffic.NORMS] == pytest.approx(8 * NORMALISED + first, rel=0.01)
    assert counted["fused"][traffic.DISTANCE] == pytest.approx(distance, rel=0.01)


def test_blocks(counted: dict[str, dict[str, float]]) -> None:
    """A block's products read its raw map beside the gradient, and the input gradient that of the block before."""
    g = 2 * ((H1 + H2 + H3) * 2 + (H1 + H2 + H3 + H4))  # two products of three blocks; four maps before a product
    g += 2 * (1 + 3) * H4  # its first map: the statistics read it, its gradient reads two and writes one
    d = 2 * (H2 + H3) + 4 * ((H2 + H3) + (H2 + H3))  # the weights learn in two passes
    last = 4 * (2 + 5) * H4  # a linear layer takes the activation, so that it is written, and its gradient too
    first = 4 * H1  # the signs of the LeakyReLU
    distance = 2 + MASK + H4 + MASK * H4  # the last map's gradient is written, the others' are part of a product
    found = counted["blocks"]
    assert found[traffic.NORMS] + found[traffic.DISTANCE] == pytest.approx(
        g + d + last + first + distance + MASK * (1 - H4), rel=0.01
    )
    # DESIGN.md, section 4, without the first layer: 13. The last map is not a raw one, which takes 1 more.
    assert found[traffic.NORMS] + found[traffic.DISTANCE] - first == pytest.approx(14.6, abs=0.2)


def test_the_default_preset_is_computed_by_blocks_too() -> None:
    """With film, and with edited rebuilds: only D's last maps are activated for linear layers to read them."""
    options = {"preset": "default", "convolution": "blocks"}
    found = Counter(call.operator for call in calls_of_an_iteration(64, 32, 8, "bf16", **options))  # type: ignore[arg-type]
    assert found["convolution_image_block_gradient"] == found["convolution_norm_gradient"] > 0
    assert found["norm_act"] == found["convolution_backward"] == 0
    assert found["norm_act_inference"] == found["norm_act_backward"] == found["convolution_from_image"]


def test_the_traffic_of_a_batch_is_that_of_its_images() -> None:
    """And it is the same for other sizes, but for the weights."""
    small, large = (calls_of_an_iteration(64, 32, n, "bf16", convolution="blocks") for n in (8, 16))
    found = [traffic.traffic(calls, 64, 32, n) for calls, n in ((small, 8), (large, 16))]
    assert found[0] == pytest.approx(found[1], rel=0.01)


def test_readers_of_the_first_map() -> None:
    """By hand: D reads the photos and G's images in stage 1, where its weights learn from both; and in each branch of
    stage 2 another batch, whose gradient goes on to the image. The perceptual loss compares the maps of two."""
    side, width, n = 32, 16, 8
    written, reads = traffic.first_map(2 * side, width, n)
    size = 2 * n * width * side**2
    assert written == 4 * size
    assert {operator: found.passes for operator, found in reads.items()} == {
        "convolution_statistics": 4,
        "convolution_weight_gradient": 2,
        "convolution_image_weight_gradient": 2,
        "convolution_to_image": 2,
        "feature_l1_raw": 2,
    }
    second, loss = reads["convolution_statistics"], reads["feature_l1_raw"]
    assert (second.read, second.image) == (4 * size, 4 * 2 * n * 3 * (2 * side) ** 2)
    # A pass of the second layer over all maps computes each number for each of its taps, in steps of 2.
    assert second.flops == 4 * n * width * (side // 2) ** 2 * 25 * 150
    assert loss.flops == 2 * n * width * side**2 * 150


def test_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """They are those of docs/pages/gpu.md."""
    assert traffic.main([]) == 0
    page = (ROOT / "docs" / "pages" / "gpu.md").read_text(encoding="utf-8")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|") and "In A" not in line]
    assert len(rows) == 5 + 8
    for row in rows:
        assert row in page

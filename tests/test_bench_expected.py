"""``bench.expected`` and ``bench.passes``: the sums of an iteration, against the reference and numbers by hand."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "bench").is_dir():
    pytest.skip("the benchmarks are not here: the installed package is tested", allow_module_level=True)
sys.path.append(str(ROOT))

from bench import expected, fake_step, passes, profile_step  # noqa: E402
from bench.counting import Call  # noqa: E402
from bench.iterations import KINDS  # noqa: E402
from bench.parts import (  # noqa: E402
    ACTIVATIONS,
    ADAM,
    CASTS,
    CONVOLUTIONS,
    COPIES,
    FEATURE_L1,
    IMAGE_CONVOLUTIONS,
    LINEAR,
    NORM_ACT,
    PARTS,
    REST,
    part_of,
)
from igan_fast import reference  # noqa: E402
from igan_fast.ops import backend  # noqa: E402
from igan_fast.train import TrainConfig  # noqa: E402

if not (backend.has_native_cpu() or backend._triton_can_load()):
    pytest.skip("there is no implementation of the fused operators", allow_module_level=True)

H100 = expected.Ceilings(3e12, {"bf16": 800e12, "tf32": 400e12, "fp32": 50e12})


def call(operator: str = "mm", shapes: Any = (), moved: int = 0, flops: int = 0, dtype: Any = torch.float32) -> Call:
    return Call(operator, shapes, (), dtype, moved, 0, flops)


def test_a_call_takes_the_longer_of_its_bytes_and_its_flops() -> None:
    assert expected.seconds(call(moved=3 * 10**9), H100, "fp32") == pytest.approx(1e-3)
    assert expected.seconds(call(moved=3 * 10**9, flops=10**8), H100, "fp32") == pytest.approx(1e-3)
    work = call(moved=3000, flops=10**12)
    assert expected.seconds(work, H100, "fp32") == pytest.approx(0.02)
    assert expected.seconds(work, H100, "tf32") == pytest.approx(0.0025)
    assert expected.seconds(work, H100, "bf16") == pytest.approx(0.02)  # a product of float32 among those of bfloat16
    assert expected.seconds(work._replace(dtype=torch.bfloat16), H100, "bf16") == pytest.approx(0.00125)


@pytest.mark.parametrize(
    ("operator", "shapes", "part"),
    [
        ("convolution", ((4, 64, 8, 8), (128, 64, 5, 5)), CONVOLUTIONS),
        ("convolution", ((4, 3, 8, 8), (64, 3, 5, 5)), IMAGE_CONVOLUTIONS),
        ("convolution", ((4, 16, 8, 8), (64, 16, 3, 3)), IMAGE_CONVOLUTIONS),
        ("convolution_backward", ((4, 3, 8, 8), (4, 64, 4, 4), (64, 3, 5, 5)), IMAGE_CONVOLUTIONS),
        ("convolution_backward", ((4, 64, 8, 8), (4, 128, 4, 4), (128, 64, 5, 5)), CONVOLUTIONS),
        ("convolution_statistics", ((4, 64, 8, 8), (128, 64, 5, 5), (1, 3, 64)), CONVOLUTIONS),
        ("convolution_block_gradient", ((4, 64, 8, 8), (64, 128, 5, 5)), CONVOLUTIONS),
        ("convolution_weight_gradient", ((4, 64, 8, 8), (4, 128, 4, 4)), CONVOLUTIONS),
        ("convolution_weight_gradient", ((4, 64, 8, 8), (4, 3, 16, 16)), IMAGE_CONVOLUTIONS),
        ("convolution_image_block_gradient", ((4, 3, 8, 8), (64, 3, 5, 5)), IMAGE_CONVOLUTIONS),
        ("convolution_norm_gradient", (), NORM_ACT),
        ("feature_l1_raw", (), FEATURE_L1),
        ("sum", ((4, 64, 8, 8),), ACTIVATIONS),
        ("sum", ((4, 64),), REST),
        ("_to_copy", ((4, 64),), CASTS),
        ("_fused_adam_", (), ADAM),
        ("unheard_of", (), REST),
    ],
)
def test_parts(operator: str, shapes: Any, part: str) -> None:
    assert part_of(operator, shapes) == part
    assert expected.expected([call(operator, shapes, 3 * 10**9)], H100, "fp32") == pytest.approx(
        {**dict.fromkeys(PARTS, 0.0), part: 1.0}
    )


@pytest.mark.parametrize("convolution", ["auto", "triton", "blocks"])
def test_the_flops_are_those_of_the_reference(convolution: str) -> None:
    """PyTorch's counter on real tensors is the oracle, in float32, in which each convolution is computed as it is.

    They differ by a few linear layers: ours does without D's heads for the rebuilt images, for example.
    """
    if convolution != "auto" and not backend._triton_can_load():
        pytest.skip("Triton is not installed")
    n, convolutions = 4, (torch.ops.aten.convolution, torch.ops.aten.convolution_backward)
    calls = fake_step.calls_of_an_iteration(32, 8, n, "fp32", convolution=convolution)
    step = reference.TrainStep(reference.IterativeGAN(image_size=32, width=8))
    with FlopCounterMode(display=False) as counter:
        step(torch.rand(n, 3, 32, 32), torch.ones(n, 40), torch.rand(n, 100))
    found = counter.get_flop_counts()["Global"]
    ours = sum(each.flops for each in calls if each.operator.startswith("convolution"))
    assert ours == sum(found[operator] for operator in convolutions)
    assert sum(each.flops for each in calls) == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize("preset", ["paper", "default"])
def test_the_calls_of_an_iteration(preset: str) -> None:
    """At 128², width 64, in bfloat16, against numbers by hand."""
    n, config = 64, TrainConfig(preset=preset)
    calls = fake_step.calls_of_an_iteration(128, 64, n, "bf16", preset=preset)
    maps = [n * 64 * 64 * 64 * 2 >> i for i in range(4)]  # bytes of h¹..h⁴; G's maps have the same sizes
    # D sees two batches in stage 1, and one in each branch of stage 2. Its first layer is not normalised.
    norm_act = 4 * sum(maps[1:]) + 2 * sum(maps)
    assert sum(c.moved for c in calls if c.operator == "norm_act") == pytest.approx(3 * norm_act, rel=1e-3)
    (features,) = [c for c in calls if c.operator == "feature_l1" and len(c.shapes) == 8]
    assert features.moved == pytest.approx(sum(maps) * (2 + 1 / 8), rel=1e-3)  # two bits for each value's sixteen
    model = reference.IterativeGAN(image_size=128, width=64, film=config.film)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert sum(c.moved for c in calls if c.operator == "_fused_adam_") >= 28 * parameters
    # As on a GPU: D's first and G's last layer are computed in blocks of 16 channels, and no CPU kernel is called.
    blocks = [c for c in calls if part_of(c.operator, c.shapes) == IMAGE_CONVOLUTIONS]
    assert {min(c.shapes[1 if c.operator == "convolution" else 2][:2]) for c in blocks} == {16}
    assert "transpose" not in {c.operator for c in calls}
    left = {c.operator: c.moved for c in calls if part_of(c.operator, c.shapes) == REST}
    assert sum(left.values()) < 0.002 * sum(c.moved for c in calls), f"PART_OF lacks one of {sorted(left)}"


def test_bytes_and_flops_grow_with_the_batch() -> None:
    small, large = (fake_step.calls_of_an_iteration(32, 8, n, "fp32") for n in (4, 8))
    assert len(small) == len(large)
    assert sum(c.flops for c in large) == 2 * sum(c.flops for c in small)
    adam = [sum(c.moved for c in calls if c.operator == "_fused_adam_") for calls in (small, large)]
    assert adam[0] == adam[1]


def test_the_choices_of_a_gpu_end_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    before = backend.transformed
    with fake_step.choices_of_a_gpu():
        assert backend.transformed is not before
    assert backend.transformed is before
    monkeypatch.setattr(backend, "switched_off", lambda: True)
    with pytest.raises(RuntimeError, match="IGAN_FAST_IMPL"), fake_step.choices_of_a_gpu():
        pass


def document(**more: Any) -> dict[str, Any]:
    def iteration(batch: int, dtype: str, milliseconds: float, operator: str = expected.OPERATOR) -> dict[str, Any]:
        times = {"ours": {"both": {"median_ms": milliseconds}}}
        return {"operator": operator, "batch": batch, "dtype": dtype, "times": times, "product_gflop_per_s": 700e3}

    results = [iteration(256, "bf16", 20.0), iteration(64, "bf16", 12.0), iteration(64, "bf16", 1.0, "another")]
    return {"machine": {"name": "nvidia-h100-80gb-hbm3"}, "results": results, **more}


def test_ceilings_are_the_best_that_was_measured() -> None:
    copies = [{"dtype": "float32", "copy_gb_per_s": speed, "product_gflop_per_s": speed} for speed in (5.0, 7.0)]
    assert expected.ceilings_of("new", copies) == expected.Ceilings(7e9, {"fp32": 7e9})
    known = expected.MEASURED["nvidia-h200"]
    assert expected.ceilings_of("nvidia-h200", copies) == expected.Ceilings(known.copy, {**known.product, "fp32": 7e9})
    with pytest.raises(ValueError, match="new: no large copy"):
        expected.ceilings_of("new", [{"dtype": "fp32", "product_gflop_per_s": 3.0}])


@pytest.fixture
def two_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """An iteration with n images is two calls, of n / 32 and n / 64 milliseconds at 3 TB/s; with blocks the second is
    none."""

    def counted(batch: int, precision: str, kind: str) -> list[Call]:
        calls = [call("norm_act", moved=batch * 93_750_000), call("cat", moved=batch * 46_875_000)]
        return calls[: 1 if KINDS[kind].convolution == "blocks" else 2]

    monkeypatch.setattr(expected, "counted", counted)
    monkeypatch.setattr(backend, "_triton_can_load", lambda: True)


def rows_of(text: str) -> dict[str, list[str]]:
    """The rows of a table by their heads."""
    lines = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {cells[0]: cells[1:] for cells in lines}


#: What comes between the two tables.
BLOCKS = "With `IGAN_FAST_CONVOLUTION=blocks`"


@pytest.mark.usefixtures("two_calls")
def test_the_table_shows_what_was_measured_beside_what_is_expected() -> None:
    parts = {NORM_ACT: 9.0, COPIES: 7.5}
    profiles = [{"operator": expected.OPERATOR, "batch": 256, "precision": "bf16", "parts": parts}]
    text = expected.render(document(profiles=profiles)).partition(BLOCKS)[0].rstrip()
    rows, lines = rows_of(text), text.splitlines()
    assert rows["Type, batch"] == ["bf16, 64", "bf16, 256", "bf16, 1024"]
    assert rows[NORM_ACT] == ["2.00", "8.00", "32.00"]
    assert rows[COPIES] == ["1.00", "4.00", "16.00"]
    assert rows["**All, expected**"] == ["**3.0**", "**12.0**", "**48.0**"]
    assert rows["Images per second"] == ["21,333"] * 3
    assert rows["Measured / expected"][:2] == ["4.00", "1.67"]
    assert lines[-2].startswith("Of the measured iterations, bf16, 64 departs most: 12.0 ms, 4.00 times")
    assert lines[-1].startswith("In the profile of bf16, 256 these parts take the most longer: Copies and fills 7.50")


@pytest.mark.usefixtures("two_calls")
def test_the_table_of_a_machine_without_results() -> None:
    text = expected.render({"machine": {"name": "nvidia-h200"}})
    assert "Measured" not in text
    assert text.partition(BLOCKS)[0].rstrip().endswith("No iteration of this size was measured on it.")


@pytest.mark.usefixtures("two_calls")
def test_the_iteration_with_blocks_is_shown_beside_the_default_one(monkeypatch: pytest.MonkeyPatch) -> None:
    given = document()
    blocks, both = (KINDS[kind].named(128, 64) for kind in ("blocks", "blocks_film"))
    given["results"] += [
        {"operator": blocks, "batch": 256, "dtype": "bf16", "times": {"ours": {"both": {"median_ms": 16.0}}}},
        {"operator": both, "batch": 64, "dtype": "bf16", "times": {"ours": {"both": {"median_ms": 5.0}}}},
    ]
    rows = rows_of(expected.render(given).partition(BLOCKS)[2])
    names = ["default", "blocks", "additions", "additions, blocks"]
    assert rows["Batch, iteration"] == [f"{batch}, {name}" for batch in (64, 256) for name in names]
    assert rows["**All, expected**"] == [f"**{ms}**" for ms in (3.0, 2.0, 3.0, 2.0, 12.0, 8.0, 12.0, 8.0)]
    assert [cell.strip("* ") for cell in rows["**Measured**, as a CUDA graph"]] == [
        *("12.0", "", "", "5.0"),
        *("20.0", "16.0", "", ""),
    ]
    monkeypatch.setattr(backend, "_triton_can_load", lambda: False)
    assert expected.render(given).endswith("Blocks are not counted, because Triton is not installed.")


def test_the_kinds_of_iterations_have_different_names() -> None:
    assert len({kind.operator for kind in KINDS.values()}) == len(KINDS)
    assert set(expected.CHOICES) <= set(KINDS)


@pytest.mark.usefixtures("two_calls")
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.json").write_text(json.dumps(document()))
    assert expected.main([str(tmp_path)]) == 0
    assert "Measured / expected" in capsys.readouterr().out
    assert expected.main([]) == 0
    assert capsys.readouterr().out.count("| Type, batch |") == len(expected.MEASURED)
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "missing.json"):
        assert expected.main([str(path)]) == 2
        assert path.name in capsys.readouterr().err


def test_passes_are_counted_by_operator_and_line() -> None:
    calls = [
        Call("_to_copy", ((4, 6),), ((4, 6),), torch.float32, 96, 48, line="models.py:7 judge", caller="step.py:1 a"),
        Call("_to_copy", ((9, 6),), ((9, 6),), torch.float32, 216, 108, line="models.py:7 judge", caller="step.py:2 b"),
        Call("_to_copy", ((1,),), ((1,),), torch.float32, 4, 2, line="step.py:3 c", caller="step.py:3 c"),
        Call("norm_act", ((4, 6),), ((4, 6),), torch.float32, 10**9, 10**9),
    ]
    assert passes.passes(calls, least=6) == [
        passes.Pass("_to_copy", "models.py:7 judge", ("step.py:1 a", "step.py:2 b"), 2, (9, 6), 468),
        passes.Pass("_to_copy", "step.py:3 c", (), 1, (1,), 6),
    ]
    assert len(passes.passes(calls, least=7)) == 1


def test_the_list_of_passes_names_the_lines() -> None:
    """Each line exists, is one of the named function, and is reached from the iteration."""
    *rows, total = passes.render(batch=8, precision="bf16", least=10**6).splitlines()[2:]
    assert len(rows) > 5
    moved = 0
    for row in rows:
        _, count, _, megabytes, _, cause, callers = (cell.strip(" `") for cell in row.strip("|").split("|"))
        moved += int(megabytes)
        assert int(count) >= 1
        file, number, function = re.fullmatch(r"([\w/]+\.py):(\d+) (\w+)", cause).groups()  # type: ignore[union-attr]
        lines = (ROOT / "igan_fast" / file).read_text(encoding="utf-8").splitlines()
        heads = [line for line in lines[: int(number)] if re.match(r" *def ", line)]
        assert any(f"def {function}(" in head for head in heads)
        assert all(caller.startswith("step.py:") for caller in callers.split("`, `") if caller)
        assert callers or file == "step.py"
    assert int(total.split("|")[4]) == pytest.approx(moved, abs=len(rows))


def test_a_profile_is_divided_into_the_same_parts() -> None:
    def event(name: str, shapes: Any, microseconds: float, parent: Any = None) -> Any:
        return SimpleNamespace(name=name, input_shapes=shapes, self_device_time_total=microseconds, cpu_parent=parent)

    weight, block = [64, 128, 5, 5], [64, 16, 3, 3]
    cast = event("aten::_to_copy", [[3, 4]], 0, event("aten::to", [[3, 4]], 0))
    wide = event("aten::convolution", [[4, 128, 8, 8], weight, []], 0)
    narrow = event("aten::convolution", [[4, 16, 8, 8], block, [64]], 0, event("aten::conv2d", [], 0))
    function = event("_ConvNormActBackward", [[4, 64, 8, 8]], 0)
    events = [
        event("aten::copy_", [[3, 4], [3, 4]], 1000, cast),
        event("aten::copy_", [[3, 4], [3, 4]], 2000, event("aten::clone", [[3, 4]], 0)),
        event("aten::cudnn_convolution", [[4, 128, 8, 8], weight], 3000, wide),
        event("aten::cudnn_convolution", [[4, 16, 8, 8], block], 4000, narrow),
        event("aten::add_", [[4, 64, 8, 8], [1, 64, 1, 1]], 5000, narrow),
        event("aten::convolution_backward", [[4, 64, 8, 8], [4, 128, 4, 4], [128, 64, 5, 5]], 6000, function),
        event("igan_fast_triton::norm_act_backward", [[4, 64, 8, 8]], 7000, function),
        event("Optimizer.step#Adam.step", [], 8000),
    ]
    assert profile_step.parts_of(events, on_gpu=True) == pytest.approx(
        {
            **dict.fromkeys(PARTS, 0.0),
            CASTS: 1.0,
            COPIES: 2.0,
            CONVOLUTIONS: 3.0 + 6.0,
            IMAGE_CONVOLUTIONS: 4.0,
            ACTIVATIONS: 5.0,
            NORM_ACT: 7.0,
            REST: 8.0,
        }
    )


def test_a_profile_is_kept_beside_the_results(tmp_path: Path) -> None:
    path, machine = tmp_path / "machine.json", {"name": "machine"}
    old, new = ({"operator": "o", "batch": 4, "precision": "bf16", "parts": {"Adam": ms}} for ms in (1.0, 2.0))
    other = {**old, "batch": 8}
    profile_step.keep_parts(path, machine, old)
    path.write_text(json.dumps({**json.loads(path.read_text()), "results": [3]}))
    for profile in (other, new):
        profile_step.keep_parts(path, machine, profile)
    assert json.loads(path.read_text()) == {"machine": machine, "results": [3], "profiles": [other, new]}


def test_the_parts_are_the_whole() -> None:
    calls = fake_step.calls_of_an_iteration(128, 64, 64, "bf16")
    parts = expected.expected(calls, H100, "bf16")
    assert all(parts[part] > 0 for part in (CONVOLUTIONS, NORM_ACT, LINEAR, ADAM))
    assert math.isclose(sum(parts.values()), sum(expected.seconds(c, H100, "bf16") for c in calls) * 1e3)

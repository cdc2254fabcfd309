"""Profiles a training iteration by operator and by layer: ``python -m bench.profile_step --out FOLDER``.

Prints tables for ours and the reference. With ``--out`` it writes them to profile-MACHINE.md, beside a bar chart, and
the time of each part of ours to MACHINE.json, where ``bench.expected`` compares it with what the part should take. A
layer is identified by the shapes of its operator's inputs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import igan_fast
from bench import core
from bench.conftest import describe_machine
from bench.counting import BIAS
from bench.parts import CHANNELS_AT, PARTS, REST, part_of
from bench.test_step import batch_of
from igan_fast import reference
from igan_fast.devices import keep_freed_memory

ROWS = 12


class Row(NamedTuple):
    """The totals of an operator in one iteration."""

    name: str
    milliseconds: float
    """Its own time, without that of the operators it calls."""
    calls: int
    launches: int
    """The number of GPU kernels that it launches."""


def record(step: Callable[..., Any], batch: Sequence[torch.Tensor]) -> list[Any]:
    """The profiler's events of the CPU in one iteration, after two warm-up iterations. They know their kernels."""
    for _ in range(2):
        step(*batch)
    on_gpu = batch[0].is_cuda
    activities = [torch.profiler.ProfilerActivity.CPU]
    if on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, record_shapes=True) as recorded:
        step(*batch)
        if on_gpu:
            torch.cuda.synchronize()
    return [event for event in recorded.events() if event.device_type == torch.autograd.DeviceType.CPU]


def own_milliseconds(event: Any, on_gpu: bool) -> float:
    """The time of an event without that of the operators that it calls: of its kernels on a GPU."""
    return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3


def rows_of(events: Sequence[Any], on_gpu: bool, by_shape: bool) -> list[Row]:
    """The rows of an iteration, sorted by time, longest first."""
    rows: dict[str, Row] = {}
    for event in events:
        kernels = [kernel for kernel in event.kernels if not kernel.name.startswith(("Memcpy", "Memset"))]
        shapes = [list(shape) for shape in event.input_shapes if len(shape) >= 2][:2] if by_shape else []
        name = " ".join([event.name.split("::")[-1], *(str(shape).replace(" ", "") for shape in shapes)])
        so_far = rows.get(name, Row(name, 0.0, 0, 0))
        own = own_milliseconds(event, on_gpu)
        rows[name] = Row(name, so_far.milliseconds + own, so_far.calls + 1, so_far.launches + len(kernels))
    return sorted((row for row in rows.values() if row.milliseconds > 0), key=lambda row: -row.milliseconds)


def parts_of(events: Sequence[Any], on_gpu: bool) -> dict[str, float]:
    """The milliseconds of each part of the iteration, as ``bench.expected`` divides it."""
    parts = dict.fromkeys(PARTS, 0.0)
    for event in events:
        parts[_part_of(event)] += own_milliseconds(event, on_gpu)
    return parts


def _part_of(event: Any) -> str:
    """The part of the outermost operator around an event that belongs to one: of ``_to_copy``, not of the ``copy_``
    that it calls."""
    part, outer = REST, event
    while outer is not None:
        operator = outer.name.split("::")[-1]
        found = part_of(operator, outer.input_shapes) if _is_operator(operator, outer) else REST
        if found != REST:
            part = found
            if operator == "convolution" and event.name.split("::")[-1] == "add_":
                return part_of(BIAS, ())
        outer = outer.cpu_parent
    return part


def _is_operator(operator: str, event: Any) -> bool:
    """Whether the event has the shapes by which ``part_of`` tells convolutions apart."""
    needed = CHANNELS_AT.get(operator, ())
    shapes = event.input_shapes
    return max(needed, default=-1) < len(shapes) and all(len(shapes[at]) > 2 for at in needed)


def table(rows: Sequence[Row]) -> str:
    """A Markdown table of the longest rows, the sum of the others, and the total."""
    whole, rest = total("all", rows), total("everything else", rows[ROWS:])
    head = ["Operator", "Own time", "Share", "Calls", "Launches"]
    lines = [head, ["---"] * len(head)]
    for row in (*rows[:ROWS], rest, whole):
        share = f"{row.milliseconds / (whole.milliseconds or 1.0):.0%}"  # the total is 0 if the profiler saw no kernel
        lines.append([row.name, f"{row.milliseconds:.1f} ms", share, str(row.calls), str(row.launches)])
    columns = len(head) if whole.launches else len(head) - 1
    return "\n".join(f"| {' | '.join(line[:columns])} |" for line in lines)


def total(name: str, rows: Sequence[Row]) -> Row:
    """The sum of ``rows``, as a row called ``name``."""
    return Row(name, *(sum(row[column] for row in rows) for column in (1, 2, 3)))


def draw(profiles: dict[str, list[Row]], path: Path) -> None:
    """Draw a bar chart for each implementation, on one scale, with a bar for each operator."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(profiles), sharex=True, figsize=(12, 4.5), layout="constrained")
    for axis, (implementation, rows) in zip(axes, profiles.items(), strict=True):
        shown = rows[:ROWS][::-1]
        axis.barh([row.name for row in shown], [row.milliseconds for row in shown])
        axis.set_title(f"{implementation}: {sum(row.milliseconds for row in rows):.0f} ms")
        axis.set_xlabel("own time in one iteration, ms")
    figure.savefig(path, dpi=110)


def keep_parts(path: Path, machine: dict[str, Any], profile: dict[str, Any]) -> None:
    """Add a profile to a result file, in place of an earlier one of the same iteration."""
    document = core.read_results(path)
    key = ("operator", "batch", "precision")
    others = [each for each in document.get("profiles", []) if any(each[name] != profile[name] for name in key)]
    document = {"machine": machine, "results": [], **document, "profiles": [*others, profile]}
    core.write_results(path, document)


def main(arguments: Sequence[str] | None = None) -> int:
    """Profile both implementations and print the tables. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile_step", description=__doc__)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "tf32", "bf16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="a tiny iteration: whether it runs, not how fast")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    if options.quick:
        options.image_size, options.width, options.batch_size = 32, 8, 4
        torch.set_num_threads(1)
    batch = batch_of(options.image_size, options.batch_size, device)
    config = igan_fast.StepConfig(precision=options.precision)
    steps = {
        name: module.TrainStep(
            module.IterativeGAN(image_size=options.image_size, width=options.width).to(device), config
        )
        for name, module in (("ours", igan_fast), ("reference", reference))
    }
    machine = describe_machine(device)
    if options.quick:
        machine["name"] += "-quick"
    size = f"{options.image_size}², width {options.width}"
    texts = [
        "# Where an iteration's time goes",
        f"{machine['hardware']}, torch {machine['torch']}, {machine['date']}; {size}, batch {options.batch_size}, "
        f"{options.precision}.",
    ]
    events = {name: record(step, batch) for name, step in steps.items()}
    by_operator = {name: rows_of(found, device.type == "cuda", by_shape=False) for name, found in events.items()}
    for name, rows in by_operator.items():
        texts.append(f"## {name}, by operator\n\n{table(rows)}")
    by_layer = rows_of(events["ours"], device.type == "cuda", by_shape=True)
    texts.append(f"## ours, by layer\n\n{table(by_layer)}")
    print("\n\n".join(texts), flush=True)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        profile = {
            "operator": f"iteration, {options.image_size}² width {options.width}",
            "batch": options.batch_size,
            "precision": options.precision,
            "date": machine["date"],
            "commit": machine["commit"],
            "parts": parts_of(events["ours"], device.type == "cuda"),
        }
        keep_parts(options.out / f"{machine['name']}.json", machine, profile)
        chart = options.out / f"profile-{machine['name']}.png"
        texts.insert(2, f"![Own time of the operators]({chart.name})")
        (options.out / f"profile-{machine['name']}.md").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
        draw(by_operator, chart)  # last, because importing matplotlib may take long
    return 0


if __name__ == "__main__":
    sys.exit(main())

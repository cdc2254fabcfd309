"""Measures networks of others (``bench/networks.py``) after ``fuse`` against the same networks as written, on the CPU.

    python -m bench.fused_networks --out bench/results/networks/MACHINE.json

One thread, one image (or sound) at a time. The fused and the plain network take turns, and times are the process's own,
so that other programs disturb them less. What counts is the quotient of the two times of each turn, and its quartiles
over the turns. Memory is as malloc gives it, as in a plain PyTorch process. A training step is a forward and a backward
pass, with the mean of the squared outputs as loss.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import igan_fast
from bench.conftest import describe_machine
from bench.core import quartiles, write_results
from bench.networks import NETWORKS, Network
from bench.subjects import LAYOUTS

__all__ = ["main", "measure", "render"]

#: Turns that are not counted: a fused module learns from its first calls.
WARM_UPS = 4

MODES = ("evaluation", "training")


def measure(network: Network, layout: str, mode: str, turns: int) -> dict[str, Any] | None:
    """The milliseconds of the plain and of the fused network, and the quartiles of their quotients.

    Args:
        layout: one of ``LAYOUTS``: of the images and the network.
        mode: one of ``MODES``.
        turns: that are counted.

    Returns:
        None where the network has no such layout: sounds are not channels_last.
    """
    torch.manual_seed(0)
    x, plain = torch.randn(1, *network.shape), network.build().train(mode == "training")
    if x.dim() == 4:
        x = x.contiguous(memory_format=LAYOUTS[layout])
        plain = plain.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
    elif layout != "contiguous":
        return None
    fused = copy.deepcopy(plain)
    igan_fast.fuse(fused)
    run = _step if mode == "training" else _evaluate
    seconds: dict[str, list[float]] = {"plain": [], "fused": []}
    pair = [("plain", plain), ("fused", fused)]
    for turn in range(WARM_UPS + turns):
        for name, module in pair if turn % 2 else pair[::-1]:
            took = _seconds(run, module, x)
            if turn >= WARM_UPS:
                seconds[name].append(took)
    quotients = [a / b for a, b in zip(seconds["plain"], seconds["fused"], strict=True)]
    low, middle, high = statistics.quantiles(quotients, n=4)
    return {
        "plain_ms": quartiles(seconds["plain"])["median_ms"],
        "fused_ms": quartiles(seconds["fused"])["median_ms"],
        "times": {"median": middle, "q1": low, "q3": high},
    }


def _seconds(run: Callable[[nn.Module, Tensor], object], network: nn.Module, x: Tensor) -> float:
    began = time.process_time()
    run(network, x)
    return time.process_time() - began


def _evaluate(network: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        network(x)


def _step(network: nn.Module, x: Tensor) -> None:
    network.zero_grad(set_to_none=True)
    network(x).square().mean().backward()


def render(document: dict[str, Any]) -> str:
    """A table of the results, in Markdown: how many times as fast the fused networks are."""
    machine = document["machine"]
    columns = [(mode, layout) for mode in MODES for layout in LAYOUTS]
    found = {(each["network"], each["mode"], each["layout"]): each for each in document["results"]}
    lines = [
        "| | " + " | ".join(f"{mode.capitalize()}, {layout}" for mode, layout in columns) + " |",
        "|---" * (1 + len(columns)) + "|",
    ]
    for name in dict.fromkeys(each["network"] for each in document["results"]):
        cells = [_cell(found.get((name, *column))) for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    about = f"{machine['hardware']}, PyTorch {machine['torch']}, {machine['date']}; one image at a time"
    return "\n".join([*lines, "", f"{about}: the time of plain PyTorch, divided by that after `fuse`."])


def _cell(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    times = result["times"]
    return f"{result['plain_ms']:,.1f} ms, **{times['median']:.2f}×** ({times['q1']:.2f}–{times['q3']:.2f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.fused_networks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="keep the results in this file")
    parser.add_argument("--turns", type=int, default=25, help="that are counted, 2 or more (%(default)s)")
    parser.add_argument("--only", default="", help="only networks whose names contain this")
    options = parser.parse_args(arguments)
    if options.turns < 2:
        parser.error(f"--turns: found {options.turns}, expected 2 or more")
    torch.set_num_threads(1)
    document: dict[str, Any] = {"machine": describe_machine(torch.device("cpu")), "results": []}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    for name, network in NETWORKS.items():
        if options.only.lower() not in name.lower():
            continue
        for mode, layout in itertools.product(MODES, LAYOUTS):
            result = measure(network, layout, mode, options.turns)
            if result is None:
                continue
            print(f"{name}, {mode}, {layout}: {_cell(result)}", file=sys.stderr, flush=True)
            document["results"].append({"network": name, "mode": mode, "layout": layout} | result)
            if options.out:  # each time, so that a run that is stopped loses nothing
                write_results(options.out, document)
    print(render(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())

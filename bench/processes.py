"""Measures the iteration of several processes on this machine's CPU against that of one process.

    python -m bench.processes --out bench/results/processes/MACHINE.json

Each way of computing, such as two processes of one thread, is started once, and takes turns with the others, so that a
disturbance of the machine affects all alike. The processes exchange by gloo. Memory that is freed is kept, as in
``igan-fast train``. Times are by the clock, medians over the turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

import igan_fast
from bench.conftest import describe_machine
from bench.core import quartiles, write_results
from igan_fast.devices import keep_freed_memory
from igan_fast.distributed.plan import BatchPlan
from igan_fast.distributed.process import Process
from igan_fast.distributed.step import PartedStep
from igan_fast.train import TrainConfig

#: Height, width and the whole batch of what is measured.
SIZES = ((64, 32, 64), (128, 64, 16))

#: Turns that are not counted, turns that are, and iterations in each.
WARM_UPS, TURNS, ITERATIONS = 1, 7, 4


class Way(NamedTuple):
    """A way of computing the iteration: so many processes, threads of each, and norm groups S."""

    processes: int
    threads: int
    norm_groups: int


def ways(cores: int) -> list[Way]:
    """One process with one thread and with all, and one process per core, with S as many as processes and 1."""
    return [Way(1, 1, cores), *(Way(*way, s) for s in (cores, 1) for way in ((1, cores), (cores, 1)))]


def measure(image_size: int, width: int, batch: int, cores: int) -> list[dict[str, Any]]:
    """The seconds of an iteration by each way, as quartiles."""
    with tempfile.TemporaryDirectory() as folder:
        worlds = {}
        for number, way in enumerate(ways(cores)):
            worlds[way] = _started(way, (image_size, width, batch), Path(folder) / str(number))
        times: dict[Way, list[float]] = {way: [] for way in worlds}
        for turn in range(WARM_UPS + TURNS):
            for way, ends in worlds.items():
                for end in ends:
                    end.send(ITERATIONS)
                seconds = max(end.recv() for end in ends)
                if turn >= WARM_UPS:
                    times[way].append(seconds / ITERATIONS)
        for end in (end for ends in worlds.values() for end in ends):
            end.send(0)
    size = {"image_size": image_size, "width": width, "batch": batch}
    return [size | way._asdict() | quartiles(seconds) for way, seconds in times.items()]


def _started(way: Way, sizes: tuple[int, int, int], meeting: Path) -> list[Connection]:
    """Start the processes of a way. Returns a connection to each: it takes a number of iterations, 0 to end, and gives
    the seconds that they took."""
    context = multiprocessing.get_context("spawn")
    ends = []
    for rank in range(way.processes):
        ours, theirs = context.Pipe()
        context.Process(target=_computes, args=(way, rank, sizes, meeting, theirs), daemon=True).start()
        theirs.close()
        ends.append(ours)
    return ends


def share(way: Way, rank: int, batch: int) -> BatchPlan:
    """The rows of the batch that a process computes."""
    return BatchPlan(batch, way.norm_groups, Process(rank, way.processes, rank, way.processes))


def _computes(way: Way, rank: int, sizes: tuple[int, int, int], meeting: Path, end: Connection) -> None:
    keep_freed_memory()
    torch.set_num_threads(way.threads)
    image_size, width, batch = sizes
    if way.processes > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        store = dist.FileStore(str(meeting), way.processes)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=way.processes)
    torch.manual_seed(0)
    config = TrainConfig(image_size=image_size, width=width, batch_size=batch, norm_groups=way.norm_groups)
    model = igan_fast.IterativeGAN(image_size=image_size, width=width, film=config.film)
    plan = share(way, rank, batch)
    step = PartedStep(model, dataclasses.replace(config.step_config(), norm_groups=way.norm_groups), plan)
    images = (torch.rand(batch, 3, image_size, image_size) * 2 - 1).contiguous(memory_format=torch.channels_last)
    labels, z = (torch.rand(batch, 40) < 0.5).float(), torch.rand(batch, 100) * 2 - 1
    own = images[plan.rows]
    while iterations := end.recv():
        began = time.perf_counter()
        for _ in range(iterations):
            step(own, labels, z)
        end.send(time.perf_counter() - began)


def render(document: dict[str, Any]) -> str:
    """A table of the results, in Markdown."""
    lines = [
        "| | Processes × threads | S | ms an iteration (quartiles) | Against one thread |",
        "|---|---|---|---|---|",
    ]
    for size in SIZES:
        found = [each for each in document["results"] if (each["image_size"], each["width"], each["batch"]) == size]
        alone = next(each["median_ms"] for each in found if each["processes"] == each["threads"] == 1)
        image_size, width, batch = size
        for each in found:
            quartiles = f"{each['median_ms']:,.0f} ({each['q1_ms']:,.0f}–{each['q3_ms']:,.0f})"
            computing = f"{each['processes']} × {each['threads']} | {each['norm_groups']}"
            name = f"{image_size}², width {width}, batch {batch}"
            lines.append(f"| {name} | {computing} | {quartiles} | {alone / each['median_ms']:.2f}× |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.processes", description=__doc__)
    parser.add_argument("--out", type=Path, help="keep the results in this file")
    options = parser.parse_args(arguments)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    results = [each for size in SIZES for each in measure(*size, cores)]
    document = {"machine": describe_machine(torch.device("cpu")), "results": results}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_results(options.out, document)
    print(render(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The speed of training beside other busy programs, by OpenMP's spin count and the number of threads.

``python -m bench.neighbours`` runs ``igan-fast train`` many times, alone and beside programs that each keep one core
busy, in interleaved rounds. It prints the median images per second of each setting. It takes six minutes on two cores,
on which nothing else should run. The spin count in ``igan_fast/_start.py`` was chosen with it.

A spin count of "default" is OpenMP's own; "ours" is the one that the command sets. With "auto" threads, the command
chooses their number by how busy the machine is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

#: The spin count of GNU's OpenMP if neither GOMP_SPINCOUNT nor OMP_WAIT_POLICY is set.
DEFAULT_SPINS = 300_000

TRAIN = [
    "train", "--data", "drawn", "--drawn-count", "400", "--image-size", "32", "--width", "32", "--batch-size", "64",
    "--log-every", "1",
]  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--spins", nargs="+", default=["0", "1000", "10000", "100000", "default", "ours"])
    options.add_argument("--neighbours", nargs="+", type=int, default=[0, 1, 3])
    options.add_argument("--threads", nargs="+", default=["2", "auto"])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--iterations", type=int, default=40)
    arguments = options.parse_args()
    cases = [(spin, threads) for spin in arguments.spins for threads in arguments.threads]
    measured: dict[tuple[str, str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            for count in arguments.neighbours:
                for case in cases:
                    run = Path(folder) / f"run-{number}-{count}-{'-'.join(case)}"
                    with neighbours(count):
                        speed = train(run, *case, arguments.iterations)
                    measured.setdefault((*case, count), []).append(speed)
    titles = [f"{count} beside" for count in arguments.neighbours]
    print(f"{'spin count':>12}{'threads':>9}" + "".join(f"{title:>12}" for title in titles) + "   img/s, medians")
    for spin, threads in cases:
        speeds = [statistics.median(measured[spin, threads, count]) for count in arguments.neighbours]
        print(f"{spin:>12}{threads:>9}" + "".join(f"{speed:>12.0f}" for speed in speeds))


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Run ``count`` programs that each keep one core busy inside the block."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def train(run: Path, spin: str, threads: str, iterations: int) -> float:
    """Train briefly. Returns the median images per second of the second half of the iterations."""
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment["IGAN_FAST_CACHE"] = str(run.parent / "cache")
    if spin != "ours":
        environment["GOMP_SPINCOUNT"] = str(DEFAULT_SPINS) if spin == "default" else spin
    command = [sys.executable, "-m", "igan_fast", *TRAIN, "--run", str(run), "--iterations", str(iterations)]
    if threads != "auto":
        command += ["--threads", threads]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = map(json.loads, (run / "log.jsonl").read_text(encoding="utf-8").splitlines())
    speeds = [line["images_per_second"] for line in lines if line["kind"] == "losses"]
    return statistics.median(speeds[len(speeds) // 2 :])


if __name__ == "__main__":
    main()

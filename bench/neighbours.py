"""Training beside busy programs: images a second by OpenMP's spin count, threads and how many neighbours there are.

``python -m bench.neighbours`` starts ``igan-fast train`` again and again, alone and beside programs that only count, in
interleaved rounds, and prints the median of each. It wants a machine where nothing else runs; six minutes on two cores.
The spin count of ``igan_fast/_start.py`` is chosen by it. A spin count of "default" is OpenMP's own, "ours" is
what the command sets; "auto" threads are what the command takes where it sees the neighbours.
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

#: GNU's OpenMP has it where neither GOMP_SPINCOUNT nor OMP_WAIT_POLICY is set.
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
    given = options.parse_args()
    cases = [(spin, threads) for spin in given.spins for threads in given.threads]
    found: dict[tuple[str, str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.rounds):
            for count in given.neighbours:
                for case in cases:
                    run = Path(folder) / f"run-{number}-{count}-{'-'.join(case)}"
                    with neighbours(count):
                        speed = train(run, *case, given.iterations)
                    found.setdefault((*case, count), []).append(speed)
    titles = [f"{count} beside" for count in given.neighbours]
    print(f"{'spin count':>12}{'threads':>9}" + "".join(f"{title:>12}" for title in titles) + "   img/s, medians")
    for spin, threads in cases:
        speeds = [statistics.median(found[spin, threads, count]) for count in given.neighbours]
        print(f"{spin:>12}{threads:>9}" + "".join(f"{speed:>12.0f}" for speed in speeds))


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many programs that each keep one core busy."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def train(run: Path, spin: str, threads: str, iterations: int) -> float:
    """Images a second of the later half of a short run."""
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

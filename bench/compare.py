"""Times two commits against each other: ``python -m bench.compare main -k feature_l1``.

The first argument is the old side, a commit. The second is the new side. If it is left out, the new side is the working
tree: all files that git does not ignore, as they are now. Each side is checked out into a temporary folder. Its native
extension is built there. An extension that was built earlier from the same sources is used again (``build/compare``).

First the tests of both sides run (``--tests``). If one fails, nothing is timed. Then the benchmarks that ``-k`` selects
run in ``--rounds`` rounds. A round runs them once on each side, each side in a new process, and the side that goes
first changes from round to round. So both sides meet the same disturbances from the rest of the machine.

The table has a row for each benchmark: the median time of each side, and the ratio of the new time to the old time
(below 1 the new side is faster). The ratio is taken in each round; the table shows its median, its smallest and its
largest value. A difference is beyond the spread if all rounds agree on which side is faster. If both sides are equally
fast, 7 rounds still agree in one case of 64.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: The default of ``--tests``: the iteration, the layers and the losses, compared with the reference.
TESTS = ("tests/test_step.py", "tests/test_layers.py", "tests/test_losses.py", "-m", "not slow")

#: The files and the environment variables that an extension is built from.
SOURCES = ("csrc", "setup.py", "pyproject.toml")
SETTINGS = ("NO_EXTENSION", "NO_CUDA", "FORCE_CUDA", "TORCH_CUDA_ARCH_LIST", "CXX", "CC", "CFLAGS", "CXXFLAGS")


#: The fewest rounds for a verdict: with 4, equally fast sides agree by chance in one case of 8.
ENOUGH = 5


class Refused(Exception):
    """Nothing is timed; the message says why."""


@dataclass(frozen=True)
class Side:
    """One of the two commits, checked out."""

    name: str
    """The name in the table: the argument, or "working tree"."""
    commit: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.name} ({self.commit[:9]})"

    def run(self, *command: str, log: Path) -> int:
        """Run Python on this side's package, in its folder. The output goes to ``log``. Returns the exit status."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}  # no timing in a worker
        environment = {**inherited, "PYTHONPATH": str(self.folder)}
        with log.open("wb") as out:
            return subprocess.run(
                [sys.executable, *command], cwd=self.folder, env=environment, stdout=out, stderr=subprocess.STDOUT
            ).returncode


@dataclass(frozen=True)
class Row:
    """A benchmark that both sides have, with its seconds in each round."""

    name: str
    old: Sequence[float]
    new: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        """New time to old time, in each round."""
        return [new / old for old, new in zip(self.old, self.new, strict=True)]

    @property
    def verdict(self) -> str:
        """Whether the new side is faster or slower, if the difference is beyond the spread."""
        if len(self.ratios) < ENOUGH:
            return "too few rounds"
        if max(self.ratios) < 1:
            return "faster"
        return "slower" if min(self.ratios) > 1 else "within the spread"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table. Returns the exit status: 0, or 1 if nothing was timed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", help="a commit, branch or tag")
    parser.add_argument("new", nargs="?", help="another one (default: the working tree)")
    parser.add_argument("-k", dest="select", default="", help="which benchmarks, in pytest's words (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="processes of each side (default 7)")
    parser.add_argument("--tests", default=shlex.join(TESTS), help="pytest's arguments, quoted (default: %(default)s)")
    parser.add_argument("--options", default="", help="more options of the benchmarks: --options=--quick")
    parser.add_argument("--json", type=Path, help="a file for the times of every round")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds: found {options.rounds}, expected at least 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folders are removed
    try:
        with tempfile.TemporaryDirectory(prefix="igan-fast-compare-") as name:
            work = Path(name)
            with checked_out(options.old, work / "old") as old, checked_out(options.new, work / "new") as new:
                rows, missing = compared(old, new, options, work)
                print(table(old, new, rows, options.rounds))
                if missing:
                    print(f"\nOnly one side has: {', '.join(sorted(missing))}")
                if options.json:
                    _keep(options.json, old, new, rows)
    except Refused as reason:
        print(f"Nothing was timed: {reason}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def checked_out(name: str | None, folder: Path) -> Iterator[Side]:
    """Check out the commit ``name``, or the working tree if it is None, and remove ``folder`` at the end."""
    try:
        commit = _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") if name else _working_tree(folder)
    except subprocess.CalledProcessError:
        raise Refused(f"{name} is no commit of {ROOT}") from None
    _git("worktree", "add", "--quiet", "--detach", str(folder), commit)
    try:
        yield Side(name or "working tree", commit, folder)
    finally:
        _git("worktree", "remove", "--force", str(folder))


def _working_tree(folder: Path) -> str:
    """Make a commit of all files that git does not ignore. It is on no branch, and the index stays as it is."""
    index = {"GIT_INDEX_FILE": str(folder.with_suffix(".index"))}
    who = {f"GIT_{role}_{what}": "bench.compare" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    _git("read-tree", "HEAD", **index)
    _git("add", "--all", **index)
    tree = _git("write-tree", **index)
    return _git("commit-tree", "-p", "HEAD", "-m", "The working tree", tree, **who)


def compared(old: Side, new: Side, options: argparse.Namespace, work: Path) -> tuple[list[Row], set[str]]:
    """Build, test and time both sides.

    Returns:
        The benchmarks that both sides have, and the names of those that only one side has.

    Raises:
        Refused: a side cannot be built, a test of it fails, or it has no such benchmark.
    """
    built = {side: build(side, work) for side in (old, new)}
    if built[old] != built[new]:
        which = old if built[old] else new
        raise Refused(f"only {which} has a native extension; build_ext's output is above")
    for side in (old, new):
        test(side, shlex.split(options.tests), work)
    # The peers of a benchmark (plain PyTorch, torch.compile) are the same on both sides, so they are left out. Older
    # commits lack the option for that.
    ours_only = all("--ours-only" in _text(side.folder / "bench" / "conftest.py") for side in (old, new))
    more = [*shlex.split(options.options), *(["--ours-only"] if ours_only else [])]
    times: dict[Side, list[Mapping[str, float]]] = {old: [], new: []}
    for number in range(options.rounds):
        for side in (old, new) if number % 2 == 0 else (new, old):
            times[side].append(bench(side, options.select, more, work))
            print(f"round {number + 1} of {options.rounds}: {side}", file=sys.stderr, flush=True)
    names = [set.intersection(*(set(measured) for measured in times[side])) for side in (old, new)]
    rows = [
        Row(name, [t[name] for t in times[old]], [t[name] for t in times[new]])
        for name in times[new][0]
        if name in names[0] & names[1]
    ]
    if not rows:
        raise Refused(f"no benchmark that -k {options.select!r} selects is on both sides")
    return rows, names[0] ^ names[1]


def build(side: Side, work: Path) -> bool:
    """Build the side's extension, or copy one that was built from the same sources. Returns whether there is one."""
    if not (side.folder / "setup.py").is_file():
        return False
    kept = ROOT / "build" / "compare" / _key(side)
    package = side.folder / "igan_fast"
    if not kept.is_dir():
        print(f"{side}: building the native extension", file=sys.stderr, flush=True)
        log = work / "build.log"
        if side.run("setup.py", "--quiet", "build_ext", "--inplace", log=log):
            raise Refused(f"{side} cannot be built\n{_end(log)}")
        shutil.rmtree(side.folder / "build", ignore_errors=True)
        draft = kept.with_suffix(f".{os.getpid()}")
        draft.mkdir(parents=True)
        for path in (*package.glob("_C.*"), *package.glob("_build_failure.txt")):
            shutil.copy2(path, draft)
            if path.suffix == ".txt":
                print(path.read_text(encoding="utf-8").strip(), file=sys.stderr)
        draft.rename(kept)
    for path in kept.iterdir():
        shutil.copy2(path, package)
    return any(package.glob("_C.*.so"))


def _key(side: Side) -> str:
    """A digest of everything that a build depends on: sources, Python, torch, settings."""
    from importlib import metadata

    sources = [_git("rev-parse", f"{side.commit}:{name}") for name in SOURCES if (side.folder / name).exists()]
    torch = next((d.version for d in metadata.distributions(name="torch")), "")
    settings = [f"{name}={os.environ.get(name, '')}" for name in SETTINGS]
    return hashlib.sha256("\n".join([*sources, sys.version, torch, *settings]).encode()).hexdigest()[:16]


def test(side: Side, arguments: Sequence[str], work: Path) -> None:
    """Run the side's tests.

    Raises:
        Refused: a test fails, or there is none.
    """
    print(f"{side}: testing", file=sys.stderr, flush=True)
    log = work / "test.log"
    if status := side.run("-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, log=log):
        why = "has no such test" if status in (4, 5) else "fails a test"
        raise Refused(f"{side} {why} (pytest {shlex.join(arguments)})\n{_end(log)}")


def bench(side: Side, select: str, options: Sequence[str], work: Path) -> dict[str, float]:
    """Run the side's benchmarks in a new process. Returns the median seconds of each."""
    log, results = work / "bench.log", work / "bench.json"
    results.unlink(missing_ok=True)
    command = ["-m", "pytest", "bench", "-q", "-p", "no:cacheprovider", "--benchmark-enable", "--benchmark-quiet"]
    chosen = ["-k", select] if select else []
    if status := side.run(*command, f"--benchmark-json={results}", *chosen, *options, log=log):
        why = f"has no benchmark that -k {select!r} selects" if status == 5 else "cannot run its benchmarks"
        raise Refused(f"{side} {why}\n{_end(log)}")
    if not results.is_file():  # pytest-benchmark writes none if nothing was timed
        raise Refused(f"{side} timed nothing: its benchmarks are skipped or disabled\n{_end(log)}")
    measured = json.loads(results.read_text(encoding="utf-8"))["benchmarks"]
    return {one["fullname"].removeprefix("bench/"): one["stats"]["median"] for one in measured}


def table(old: Side, new: Side, rows: Sequence[Row], rounds: int) -> str:
    """The comparison as a Markdown table, and below it how far chance can explain the last column."""
    lines = [
        f"| Benchmark | {old} | {new} | New : old | Smallest to largest | |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratios = row.ratios
        cells = [
            row.name,
            f"{statistics.median(row.old) * 1e3:.3g} ms",
            f"{statistics.median(row.new) * 1e3:.3g} ms",
            f"{statistics.median(ratios):.3f}",
            f"{min(ratios):.3f} to {max(ratios):.3f}",
            row.verdict,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if rounds < ENOUGH:
        lines += ["", f"{rounds} rounds are too few to tell; {ENOUGH} are the least."]
    else:
        lines += ["", f"{rounds} rounds. Of two equal sides one looks faster in one case of {2 ** (rounds - 1)}."]
    return "\n".join(lines)


def _keep(path: Path, old: Side, new: Side, rows: Sequence[Row]) -> None:
    document = {
        "old": {"name": old.name, "commit": old.commit},
        "new": {"name": new.name, "commit": new.commit},
        "seconds": {row.name: {"old": list(row.old), "new": list(row.new)} for row in rows},
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _git(*arguments: str, **environment: str) -> str:
    """Run git in this checkout. Returns what it prints."""
    command = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _end(log: Path, lines: int = 30) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


if __name__ == "__main__":
    sys.exit(main())

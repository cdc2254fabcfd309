"""``bench/gpu.sh`` with a made-up Python: the order of its parts, their limits, and what happens when one hangs."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "bench" / "gpu.sh"
if not SCRIPT.is_file():
    pytest.skip("the benchmarks are not here: the installed package is tested", allow_module_level=True)
sys.path.append(str(ROOT))

pytestmark = pytest.mark.any_build(processes="the script, with a Python made up for the test")

#: Writes its arguments to calls.txt. HANG: a command with these words ignores signals and waits for a child. FAIL: a
#: command with these words fails.
PYTHON = """#!/usr/bin/env bash
echo "$*" >> "$CALLS"
if [ -n "$HANG" ] && [[ "$*" == *$HANG* ]]; then
    trap '' INT
    sleep 600 &
    echo $! > "$CALLS.child"
    echo "it hangs"
    wait
fi
if [ -n "$FAIL" ] && [[ "$*" == *$FAIL* ]]; then echo "it fails"; exit 3; fi
"""

#: The parts that matter most, in this order.
FIRST = [
    *("build", "backends", "equality-of-the-iteration", "equality-of-blocks"),
    *("iteration", "iteration-with-blocks", "block-kernels"),
]


class Script:
    """The script in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.out, self.calls, self.python = folder / "out", folder / "calls.txt", folder / "python"
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)

    def run(self, *arguments: str, hang: str = "", fail: str = "", limit: int = 60) -> subprocess.CompletedProcess[str]:
        """Run it; without arguments as on a GPU."""
        environment = {
            **os.environ,
            **{"CALLS": str(self.calls), "HANG": hang, "FAIL": fail},
            **{"GPU_SH_LIMIT": str(limit), "GPU_SH_GRACE": "1"},
        }
        command = ["bash", str(SCRIPT), *(arguments or (str(self.out), str(self.python)))]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    def commands(self) -> list[str]:
        """The commands of its parts, in their order."""
        lines = self.calls.read_text().splitlines()
        return [line for line in lines if line.startswith(("-m", "setup.py"))]  # not Python code, which it runs with -c


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


def outcomes(text: str) -> dict[str, str]:
    """For each part what became of it."""
    return dict(re.findall(r"^== (\S+): (.*)$", text, re.MULTILINE))


def test_what_matters_most_comes_first(script: Script) -> None:
    done = script.run()
    assert done.returncode == 0, done.stderr
    found = outcomes(done.stdout)
    assert list(found)[: len(FIRST)] == FIRST
    assert all(outcome.startswith("exit status 0 after") for outcome in found.values())
    commands = script.commands()
    assert len(commands) == len(found)
    assert commands[0] == "setup.py build_ext --inplace"
    assert "-m gpu and not slow tests/test_step.py" in commands[2]
    assert "-m gpu and not slow tests/test_step_blocks.py tests/ops/blocks" in commands[3]
    assert "bench/test_step.py" in commands[4]
    assert "--bench-device cuda" in commands[4]
    assert (script.out / "logs.txt").read_text().count("==== ") == 2 * len(found)


def test_it_goes_on_from_a_later_part(script: Script) -> None:
    """What an earlier call has written stays."""
    script.out.mkdir()
    (script.out / "logs.txt").write_text("before\n")
    done = script.run("--from", "iteration-with-measure", str(script.out), str(script.python))
    assert done.returncode == 0, done.stderr
    assert next(iter(outcomes(done.stdout))) == "iteration-with-measure"
    assert "-k measure" in script.commands()[0]
    assert (script.out / "logs.txt").read_text().startswith("before\n\n==== iteration-with-measure\n")
    plan = script.run("--from", "profile", "--plan").stdout
    assert plan.split()[2] == "profile"


@pytest.mark.parametrize("name", ["iterations", ""])
def test_a_part_that_does_not_exist(script: Script, name: str) -> None:
    done = script.run("--from", name, str(script.out), str(script.python))
    assert done.returncode == 2
    assert "--from" in done.stderr
    assert not script.commands()


def test_its_paths_exist_and_it_runs_every_test_for_a_gpu(script: Script) -> None:
    script.run()
    words = [word for command in script.commands() for word in command.split()]
    paths = {word for word in words if word.startswith(("tests/", "bench/"))}
    assert all((ROOT / path).exists() for path in paths)
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    marked = [path for path, text in texts.items() if "mark.gpu" in text or "triton_devices" in text]
    assert len(marked) > 5
    with_fixtures = ("test_norm_act.py", "blocks/test_features.py", "triton/test_convolution.py")
    for path in {*marked, *(ROOT / "tests/ops" / name for name in with_fixtures)}:
        named = [str(each.relative_to(ROOT)) for each in (path, *path.parents) if ROOT in each.parents]
        assert path == Path(__file__) or paths & set(named), f"{path.name} is in no part"
    modules = {word for before, word in itertools.pairwise(words) if before == "-m" and word.startswith("bench")}
    assert modules == {"bench.block_time", "bench.kernel_time", "bench.profile_step", "bench.expected"}
    for module in modules:
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()


def test_the_first_iterations_are_those_of_three_batch_sizes(script: Script) -> None:
    from bench.test_step import CASES

    script.run()
    (command,) = [each for each in script.commands() if "bench/test_step.py -k paper" in each]
    words = command.partition(" -k ")[2].split(" and ")
    chosen = [str(case) for case in CASES if all(word in str(case) for word in words)]
    assert sorted(chosen) == ["paper-128-1024-bf16", "paper-128-256-bf16", "paper-128-64-bf16"]
    assert [str(case) for case in CASES[:3]] == chosen


def test_every_iteration_with_another_choice_is_in_one_part(script: Script) -> None:
    """Those with 256 images first, and the preset of the paper before the default one."""
    from bench.iterations import KINDS
    from bench.test_step import CASES

    script.run()
    words = [each.partition(" -k ")[2] for each in script.commands() if "bench/test_step.py -k" in each]
    assert words[1:3] == ["blocks", "measure"]
    assert words[3] == f"not ({words[0]}) and not blocks and not measure"
    for word in words[1:3]:
        chosen = [case for case in CASES if word in str(case)]
        assert {KINDS[case.kind].convolution for case in chosen} == {word}
        assert [case.on_gpu for case in chosen] == sorted((case.on_gpu for case in chosen), reverse=True)
        assert {case.on_gpu for case in chosen} == {64, 256}
        assert KINDS[chosen[0].kind].preset == "paper"
    others = [case for case in CASES if KINDS[case.kind].convolution == "auto"]
    assert not any(word in str(case) for case in others for word in words[1:3])


def test_a_part_that_hangs_is_cut_with_its_children(script: Script) -> None:
    begin = time.monotonic()
    done = script.run(hang="bench/test_step.py -k paper", limit=1)
    assert time.monotonic() - begin < 60
    found = outcomes(done.stdout)
    assert re.fullmatch(r"exit status (124|137) after [1-9] s", found["iteration"])
    assert done.returncode in (124, 137)
    others = [outcome for name, outcome in found.items() if name != "iteration"]
    assert len(others) >= 10
    assert all(outcome.startswith("exit status 0") for outcome in others)
    assert "it hangs" in done.stdout
    child = Path(f"{script.calls}.child").read_text().strip()
    assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split(")")[1]


def test_a_part_that_fails_does_not_stop_the_others(script: Script) -> None:
    done = script.run(fail="bench.profile_step")
    assert done.returncode == 3
    found = outcomes(done.stdout)
    assert found["profile"].startswith("exit status 3 after")
    assert list(found)[-1] == "tests-under-the-sanitizer"
    assert "it fails" in done.stdout


def test_the_plan_fits_into_nine_minutes() -> None:
    """If every part were stopped at its limit, the first ones would still have theirs, and the end would be in time."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GPU_SH_")}
    done = subprocess.run(["bash", str(SCRIPT), "--plan"], env=environment, capture_output=True, text=True, check=True)
    rows = re.findall(r"^ *(\d+) s  (\S+) +at most +(\d+) s$", done.stdout, re.MULTILINE)
    assert [name for _, name, _ in rows][: len(FIRST)] == FIRST
    parts = [(int(start), int(limit)) for start, _, limit in rows]
    assert all(limit >= 20 for _, limit in parts[: len(FIRST)])
    assert all(start + limit + (10 if limit else 0) <= 540 for start, limit in parts)
    assert [start for start, _ in parts] == sorted(start for start, _ in parts)


def test_a_rehearsal_runs_the_same_parts_with_tiny_inputs(script: Script) -> None:
    full = outcomes(script.run().stdout)
    on_gpu = script.commands()
    script.calls.unlink()
    done = script.run("--rehearse", str(script.out), str(script.python))
    assert list(outcomes(done.stdout)) == list(full)
    commands = script.commands()
    assert len(commands) == len(on_gpu)
    for command in commands:
        if any(word in command for word in (" bench/", "bench.profile_step", "bench.kernel_time", "bench.block_time")):
            assert "--quick" in command
        if "--bench-device" in command:
            assert "--bench-device cpu" in command


@pytest.mark.parametrize("arguments", [["--rehearse"], ["a", "b", "c"], ["--unheard-of", "folder"]])
def test_a_wrong_call_shows_how_it_is_called(script: Script, arguments: list[str]) -> None:
    done = script.run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: bench/gpu.sh")
    assert not script.calls.exists()

"""``python -m bench.compare`` on repositories of three files: what it builds, tests, refuses and prints."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "bench").is_dir():
    pytest.skip("the benchmarks are not here: the installed package is tested", allow_module_level=True)
pytestmark = pytest.mark.any_build(processes="they import packages made up for the test")

SETUP = """
import pathlib
package = pathlib.Path("igan_fast")
pathlib.Path("builds").open("a").write("built\\n")
(package / "_C.made-up.so").write_bytes(pathlib.Path("csrc/source.cpp").read_bytes())
pathlib.Path(%r).open("a").write(pathlib.Path("csrc/source.cpp").read_text())
"""
BENCHMARK = """
import igan_fast
def test_speed(benchmark):
    assert (igan_fast.folder / "_C.made-up.so").exists()
    benchmark.pedantic(lambda: None, rounds=2)
def test_other(benchmark):
    benchmark.pedantic(lambda: None, rounds=2)
"""
# To find out about the machine takes longer than everything else here.
NO_MACHINE = "def pytest_benchmark_generate_machine_info(config):\n    return {}\n"
PACKAGE = "import pathlib\nfolder = pathlib.Path(__file__).parent\n"


class Repository:
    """A checkout with a package, a test, a benchmark and a build that writes down that it ran."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.builds = folder.parent / "builds"
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        for name, text in {
            "igan_fast/__init__.py": PACKAGE,
            "tests/test_it.py": "def test_it():\n    pass\n",
            "bench/__init__.py": "",
            "bench/test_it.py": BENCHMARK,
            "bench/conftest.py": NO_MACHINE,
            "csrc/source.cpp": "one\n",
            "setup.py": SETUP % str(self.builds),
            ".gitignore": "*.so\n__pycache__\n/build/\n",
        }.items():
            self.write(name, text)
        shutil.copy(ROOT / "bench" / "compare.py", folder / "bench")
        self.commit()

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=Nobody", "-c", "user.email=nobody@example.org"]
        command = ["git", *who, *arguments]
        return subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout

    def commit(self) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=Made up")
        return self.git("rev-parse", "HEAD").strip()

    def compare(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bench.compare", *arguments, "--tests", "tests", "--rounds", "2"]
        quick = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p pytest_benchmark.plugin"}
        environment = {**os.environ, **quick, "PYTHONPATH": str(self.folder)}
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)

    @property
    def built(self) -> list[str]:
        """The sources that extensions were built from."""
        return self.builds.read_text(encoding="utf-8").split() if self.builds.exists() else []

    @property
    def untouched(self) -> bool:
        """Whether no checkout and no temporary folder is left."""
        return len(self.git("worktree", "list").splitlines()) == 1


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    return Repository(tmp_path / "repository")


def test_the_working_tree_is_compared_with_a_commit(repository: Repository, tmp_path: Path) -> None:
    repository.write("tests/test_new.py", "def test_new():\n    pass\n")  # git does not know it yet
    repository.write("bench/test_new.py", "def test_new(benchmark):\n    benchmark.pedantic(lambda: None)\n")
    before = repository.git("status", "--porcelain")
    done = repository.compare("main", "--json", str(tmp_path / "times.json"))
    assert done.returncode == 0, done.stderr
    head, _, *rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert re.match(r"\| Benchmark \| main \([0-9a-f]{9}\) \| working tree \([0-9a-f]{9}\) \|", head)
    assert [row.split(" | ")[0] for row in rows] == ["| test_it.py::test_speed", "| test_it.py::test_other"]
    assert all(row.endswith("| too few rounds |") for row in rows)
    assert "Only one side has: test_new.py::test_new" in done.stdout
    # Each round begins with the other side.
    order = re.findall(r"round (\d) of 2: (main|working tree)", done.stderr)
    assert order == [("1", "main"), ("1", "working tree"), ("2", "working tree"), ("2", "main")]
    times = json.loads((tmp_path / "times.json").read_text(encoding="utf-8"))
    assert len(times["seconds"]["test_it.py::test_speed"]["old"]) == 2
    assert repository.built == ["one"], "both sides have the same sources: one build serves both"
    assert repository.git("status", "--porcelain") == before
    assert repository.untouched
    assert not list((tmp_path / "temporary").iterdir())


def test_an_extension_is_built_for_each_of_different_sources_and_kept(repository: Repository) -> None:
    first = repository.git("rev-parse", "HEAD").strip()
    repository.write("csrc/source.cpp", "two\n")
    second = repository.commit()
    for _ in range(2):
        done = repository.compare(first, second, "-k", "speed")
        assert done.returncode == 0, done.stderr
        assert "test_other" not in done.stdout
    assert repository.built == ["one", "two"]


@pytest.mark.parametrize("side", ["old", "new"])
def test_red_tests_of_either_side_are_refused(repository: Repository, side: str) -> None:
    green = repository.git("rev-parse", "HEAD").strip()
    repository.write("tests/test_it.py", "def test_it():\n    assert 1 == 2, 'as it was made up'\n")
    red = repository.commit()
    done = repository.compare(*((red, green) if side == "old" else (green, red)))
    assert done.returncode == 1
    assert not done.stdout
    assert f"Nothing was timed: {red} ({red[:9]}) fails a test (pytest tests)" in done.stderr
    assert "as it was made up" in done.stderr
    assert repository.untouched


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["nothing"], "nothing is no commit of "),
        (["main", "-k", "nowhere"], "has no benchmark that -k 'nowhere' selects"),
        (["main", "--options=--unheard-of"], "cannot run its benchmarks"),
    ],
)
def test_what_cannot_be_compared_is_refused(repository: Repository, arguments: list[str], why: str) -> None:
    done = repository.compare(*arguments)
    assert done.returncode == 1
    assert why in done.stderr
    assert repository.untouched


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        ([0.8, 0.9, 0.99, 0.7, 0.8], "faster"),
        ([1.1, 1.2, 1.01, 1.3, 1.1], "slower"),
        ([0.8, 0.9, 0.99, 0.7, 1.01], "within the spread"),
        ([1, 1, 1, 1, 1], "within the spread"),
        ([0.8, 0.8, 0.8, 0.8], "too few rounds"),
    ],
)
def test_a_difference_is_one_that_all_rounds_agree_on(compare: ModuleType, new: list[float], verdict: str) -> None:
    assert compare.Row("test_it", [1.0] * len(new), new).verdict == verdict


@pytest.fixture(scope="module")
def compare() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("compare_of_bench", ROOT / "bench" / "compare.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


def test_a_side_without_an_extension_is_refused(repository: Repository) -> None:
    first = repository.git("rev-parse", "HEAD").strip()
    broken = "import pathlib\npathlib.Path('igan_fast/_build_failure.txt').write_text('no compiler was found')\n"
    repository.write("setup.py", broken)
    done = repository.compare(first)
    assert done.returncode == 1
    assert f"only {first} ({first[:9]}) has a native extension" in done.stderr
    assert "no compiler was found" in done.stderr


def test_skipped_benchmarks_are_refused(repository: Repository) -> None:
    repository.write("bench/test_it.py", "import pytest\n@pytest.mark.skip\ndef test_speed(benchmark):\n    pass\n")
    done = repository.compare(repository.commit())
    assert done.returncode == 1
    assert "timed nothing: its benchmarks are skipped or disabled" in done.stderr
    assert "Traceback" not in done.stderr
    assert repository.untouched

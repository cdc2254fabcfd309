"""Builds and checks the source archive and the wheel (``make wheel``), and then copies them to dist/.

The wheel is built from the source archive, which shows that the archive is complete. The wheel must hold all files that
belong in it and no others, need no functions of PyTorch outside its stable ABI, and install without a compiler. It must
pass the operators' tests on the oldest PyTorch that the package supports (``--torch`` selects other versions). If that
version cannot be installed, a line says so, and the tests run on the installed PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from release import contents
from release.elsewhere import ROOT, Environment, oldest_torch

TESTS = ("tests/ops", "tests/test_models.py", "tests/test_step.py")


def main() -> None:
    """Build both files, inspect them, install the wheel and test it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", nargs="+", help="versions of PyTorch to test the wheel on")
    parser.add_argument("--no-tests", action="store_true", help="build and inspect only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="igan-fast-wheel-") as work:
        sdist = build_sdist(Path(work))
        accept(sdist, contents.inspect_sdist(sdist, tracked_files()))
        wheel = build_wheel(Path(work), sdist)
        accept(wheel, contents.inspect_wheel(wheel, extension=True))
        say(f"{wheel.name} needs {contents.needs(wheel)}")
        check_isolated_build(Path(work), sdist)
        if not options.no_tests:
            recipe = json.loads((ROOT / "csrc" / "build.json").read_text(encoding="utf-8"))
            for torch in options.torch or [oldest_torch(recipe["definitions"][0])]:
                check_elsewhere(Path(work) / torch, wheel, torch)
        for file in (sdist, wheel):
            (ROOT / "dist").mkdir(exist_ok=True)
            shutil.copy(file, ROOT / "dist")
            say(f"dist/{file.name}")


def build_sdist(work: Path) -> Path:
    """Build the source archive from the checkout, with setuptools."""
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(work)], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    (sdist,) = work.glob("*.tar.gz")
    return sdist


def build_wheel(work: Path, sdist: Path) -> Path:
    """Build the wheel from the source archive, with the installed torch."""
    folder = work / "wheel"
    pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(folder), str(sdist))
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_isolated_build(work: Path, sdist: Path) -> None:
    """A plain ``pip install`` of the source, with build isolation, installs no torch and leaves the extension out."""
    folder = work / "isolated"
    built = pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(sdist), check=False)
    if built.returncode and "Could not find a version" in built.stderr:
        say("setuptools cannot be downloaded without a network: the build in isolation was skipped")
        return
    if built.returncode:
        raise SystemExit(f"a build in isolation fails:\n{built.stdout}{built.stderr}")
    (wheel,) = folder.glob("*.whl")
    accept(wheel, contents.inspect_wheel(wheel, extension=False))
    say(f"{wheel.name}, as built in isolation, has no extension and says why")


def check_elsewhere(folder: Path, wheel: Path, torch: str) -> None:
    """Install and test the wheel in a virtual environment with this version of torch, without a compiler."""
    environment = Environment(folder / "venv")
    problem = environment.install_torch(torch)
    problem = problem or environment.install_wheel(wheel, libraries=True)
    if problem:
        say(f"torch {torch}: {problem}; testing on torch {version('torch')}, with which the wheel was built")
        shutil.rmtree(folder)
        environment = Environment(folder / "venv")
        environment.share_builders_libraries()
        environment.install_wheel(wheel, libraries=False)
    doctor = environment.run("-m", "igan_fast", "doctor", "--json", "-")
    if doctor.returncode:
        raise SystemExit(f"igan-fast doctor fails in the new environment:\n{doctor.stderr}")
    report = json.loads(doctor.stdout)["sections"]
    say(f"installed without a compiler; torch {report['Python and PyTorch']['PyTorch']}")
    say(f"native kernels: {report['Operators']['native-cpu']}; auto is {report['Operators']['auto on cpu']}")
    if report["Operators"]["native-cpu"] != "available":
        raise SystemExit("the extension does not load in the new environment")
    environment.test(folder / "tests", TESTS)
    shutil.rmtree(folder)


def accept(file: Path, problems: list[str]) -> None:
    """Exit with an error if ``file`` has problems."""
    if problems:
        raise SystemExit("\n".join([f"{file.name} has problems:", *(f"  {line}" for line in problems)]))


def tracked_files() -> list[str]:
    """The files that git tracks; empty outside of a repository."""
    if not (ROOT / ".git").exists():
        return []
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    return listed.stdout.split("\n")[:-1]


def pip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run this environment's pip, without NO_EXTENSION."""
    environment = {name: value for name, value in os.environ.items() if name != "NO_EXTENSION"}
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"pip {' '.join(arguments)} fails:\n{done.stdout}{done.stderr}")
    return done


def say(line: str) -> None:
    """Print a line of progress."""
    print(f"wheel: {line}", flush=True)


if __name__ == "__main__":
    main()

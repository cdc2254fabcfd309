"""``make wheel``: the source archive and the wheel, in dist/, each proved before it is left there.

The wheel is built out of the source archive, so that this is whole. It must hold what belongs in it and nothing else,
ask nothing of PyTorch but the stable ABI, install without a compiler, and pass the operators' tests on the oldest
PyTorch that the package takes (``--torch`` names others). Where that cannot be had, that is said, and the tests run on
the one that is here.
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
    """Build, inspect, install, test."""
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
        isolated(Path(work), sdist)
        if not options.no_tests:
            recipe = json.loads((ROOT / "csrc" / "build.json").read_text(encoding="utf-8"))
            for torch in options.torch or [oldest_torch(recipe["definitions"][0])]:
                check_elsewhere(Path(work) / torch, wheel, torch)
        for file in (sdist, wheel):
            (ROOT / "dist").mkdir(exist_ok=True)
            shutil.copy(file, ROOT / "dist")
            say(f"dist/{file.name}")


def build_sdist(work: Path) -> Path:
    """Out of the checkout, by setuptools itself."""
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(work)], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    (sdist,) = work.glob("*.tar.gz")
    return sdist


def build_wheel(work: Path, sdist: Path) -> Path:
    """Out of the source archive, against the torch that is here."""
    folder = work / "wheel"
    pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(folder), str(sdist))
    (wheel,) = folder.glob("*.whl")
    return wheel


def isolated(work: Path, sdist: Path) -> None:
    """As a plain ``pip install`` of the source: no torch is fetched to build with, and the extension is left out."""
    folder = work / "isolated"
    built = pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(sdist), check=False)
    if built.returncode and "Could not find a version" in built.stderr:
        say("without a network setuptools cannot be fetched: no build in isolation was tried")
        return
    if built.returncode:
        raise SystemExit(f"a build in isolation fails:\n{built.stdout}{built.stderr}")
    (wheel,) = folder.glob("*.whl")
    accept(wheel, contents.inspect_wheel(wheel, extension=False))
    say(f"{wheel.name}, as built in isolation, has no extension and says why")


def check_elsewhere(folder: Path, wheel: Path, torch: str) -> None:
    """The wheel in an environment of its own, without a compiler."""
    environment = Environment(folder / "venv")
    obstacle = environment.install_torch(torch)
    obstacle = obstacle or environment.install_wheel(wheel, libraries=True)
    if obstacle:
        say(f"torch {torch}: {obstacle}; testing on torch {version('torch')}, with which the wheel was built")
        shutil.rmtree(folder)
        environment = Environment(folder / "venv")
        environment.share_builders_libraries()
        environment.install_wheel(wheel, libraries=False)
    doctor = environment.run("-m", "igan_fast", "doctor", "--json", "-")
    if doctor.returncode:
        raise SystemExit(f"igan-fast doctor fails there:\n{doctor.stderr}")
    found = json.loads(doctor.stdout)["sections"]
    say(f"installed without a compiler; torch {found['Python and PyTorch']['PyTorch']}")
    say(f"its kernels there: {found['Operators']['native-cpu']}; auto is {found['Operators']['auto on cpu']}")
    if found["Operators"]["native-cpu"] != "available":
        raise SystemExit("the extension does not load there")
    environment.test(folder / "tests", TESTS)
    shutil.rmtree(folder)


def accept(file: Path, wrong: list[str]) -> None:
    """End the program where anything is wrong with a file."""
    if wrong:
        raise SystemExit("\n".join([f"{file.name} is not as it should be:", *(f"  {line}" for line in wrong)]))


def tracked_files() -> list[str]:
    """The repository's; none where this is no repository."""
    if not (ROOT / ".git").exists():
        return []
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    return listed.stdout.split("\n")[:-1]


def pip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The builder's pip, with the extension not left out by the environment."""
    environment = {name: value for name, value in os.environ.items() if name != "NO_EXTENSION"}
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"pip {' '.join(arguments)} fails:\n{done.stdout}{done.stderr}")
    return done


def say(line: str) -> None:
    """One line of progress."""
    print(f"wheel: {line}", flush=True)


if __name__ == "__main__":
    main()

"""A virtual environment with another PyTorch and without a compiler, in which the wheel is installed and tested."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from release import cuda_stubs

__all__ = ["Environment", "oldest_torch"]

ROOT = Path(__file__).resolve().parents[2]
_TOOLS = ("pytest", "pytest-benchmark", "pytest-timeout", "pytest-xdist", "hypothesis")

#: Distributions that are not installed as requirements: PyTorch's GPU libraries, several GB, and PyTorch itself.
_LEFT_OUT = re.compile(r"(torch|triton|cuda|nvidia)(-.*)?$")
_REQUIRED_DISK_BYTES = 6 * 2**30


def oldest_torch(target: str) -> str:
    """Convert a macro definition to a version: ``TORCH_TARGET_VERSION=0x020a000000000000`` → "2.10.0"."""
    digits = target.partition("=0x")[2]
    return ".".join(str(int(digits[i : i + 2], 16)) for i in (0, 2, 4))


class Environment:
    """A virtual environment in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder, with_pip=True)
        self.python = folder / "bin" / "python"
        places = {"base": str(folder), "platbase": str(folder)}
        self.site = Path(sysconfig.get_path("purelib", "venv", places))
        # These environment variables hide every compiler, so an installation that compiles fails.
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CXX", "CC")}
        self.variables = kept | {"PATH": str(folder / "bin"), "CXX": "no-such-compiler", "CC": "no-such-compiler"}
        self.libraries = ""

    def install_torch(self, version: str) -> str:
        """Install a version of torch, with stubs of NVIDIA's libraries. Returns the problem, or an empty string."""
        if shutil.disk_usage(self.folder).free < _REQUIRED_DISK_BYTES:
            return f"less than {_REQUIRED_DISK_BYTES >> 30} GB of disk are free"
        installed = self._pip("--no-cache-dir", "--no-deps", f"torch=={version}")
        if installed.returncode:
            return f"it cannot be installed here: {_reason(installed.stderr)}"
        if sys.platform == "linux" and cuda_stubs.make(self.site / "torch" / "lib", self.folder / "cuda_stubs"):
            self.libraries = str(self.folder / "cuda_stubs")
        if lacking := self._install_libraries(self._requirements("torch")):
            return lacking
        imported = self.run("-c", "import torch")
        return f"it cannot be imported here: {_reason(imported.stderr)}" if imported.returncode else ""

    def share_builders_libraries(self) -> None:
        """Use the libraries of the environment that built the wheel, for an installation without a network."""
        paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
        (self.site / "_builder.pth").write_text("\n".join(paths) + "\n", encoding="utf-8")

    def install_wheel(self, wheel: Path, *, libraries: bool) -> str:
        """Install the wheel; with ``libraries``, also the requirements of the wheel and of the tests.

        Returns:
            The problem, or an empty string.
        """
        installed = self._pip("--no-deps", "--no-index", str(wheel))
        if installed.returncode:
            raise SystemExit(f"{wheel.name} cannot be installed:\n{installed.stderr}")
        wanted = [*self._requirements("igan-fast"), *_TOOLS]
        return self._install_libraries(wanted) if libraries else ""

    def test(self, folder: Path, tests: Iterable[str]) -> None:
        """Copy tests of the checkout to ``folder`` and run them with the installed wheel. Exits if any test fails.

        Tests that do not depend on the extension are skipped: they ran in the environment that built the wheel.
        """
        shared = (f"tests/{p.name}" for p in (ROOT / "tests").glob("*.py") if not p.name.startswith("test_"))
        for name in ("pyproject.toml", *shared, *tests):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        where = self.run("-c", "import igan_fast; print(igan_fast.__file__)", cwd=folder)
        if not where.stdout.startswith(str(self.folder)):
            raise SystemExit(f"the wheel's igan_fast was not found: {where.stdout or where.stderr}")
        # The tests of torch.compile need a compiler.
        path = os.pathsep.join([str(self.folder / "bin"), os.environ.get("PATH", os.defpath)])
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "PATH": path, **self._loader()}
        workers = ("-n", "auto", "--maxprocesses", "8", "--dist", "worksteal")
        options = ("-q", "-r", "fE", "-p", "no:cacheprovider", "-m", "not any_build and not above_operators")
        command = [str(self.python), "-m", "pytest", *workers, *options, *tests]
        if subprocess.run(command, cwd=folder, env=environment, check=False).returncode:
            raise SystemExit("tests failed against the wheel")

    def run(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run the environment's Python without a compiler."""
        command, environment = [str(self.python), *arguments], self.variables | self._loader()
        return subprocess.run(
            command, env=environment, cwd=cwd or self.folder, capture_output=True, text=True, check=False
        )

    def _loader(self) -> dict[str, str]:
        return {"LD_LIBRARY_PATH": self.libraries} if self.libraries else {}

    def _pip(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(
            "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", *arguments
        )

    def _install_libraries(self, wanted: Iterable[str]) -> str:
        """Install ``wanted`` and their requirements, without PyTorch and its libraries.

        pip gets every name and --no-deps, so that it does not install PyTorch as a requirement of another distribution.
        """
        names = [name for name in sorted(_closure(wanted)) if not _LEFT_OUT.match(name)]
        installed = self._pip("--no-deps", "-c", str(ROOT / "constraints.txt"), *names)
        return f"its libraries cannot be installed here: {_reason(installed.stderr)}" if installed.returncode else ""

    def _requirements(self, name: str) -> list[str]:
        """The requirements of a distribution that is installed in the environment."""
        found = importlib.metadata.distributions(name=name, path=[str(self.site)])
        return [line for distribution in found for line in distribution.requires or ()]


def _reason(stderr: str) -> str:
    """The first line that begins with "ERROR: ", as pip's errors do, else the last line, where Python's error is."""
    lines = stderr.strip().splitlines() or ["no reason was given"]
    return next((line for line in lines if line.startswith("ERROR: ")), lines[-1])


def _closure(wanted: Iterable[str]) -> set[str]:
    """The names of the distributions in ``wanted`` and of all their requirements, as installed here."""
    found: set[str] = set()
    waiting = [*wanted]
    while waiting:
        for name in _applicable(waiting.pop()):
            if name in found:
                continue
            found.add(name)
            try:
                waiting += importlib.metadata.requires(name) or ()
            except importlib.metadata.PackageNotFoundError:
                continue  # it is not installed here, because only the other version of torch requires it
    return found


def _applicable(line: str) -> Iterator[str]:
    requirement = Requirement(line)
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        yield canonicalize_name(requirement.name)

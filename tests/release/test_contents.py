"""Which wheels and source archives ``make wheel`` refuses."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from release import contents, elsewhere

RIGHT = {
    "igan_fast/__init__.py": b"",
    "igan_fast/py.typed": b"",
    "igan_fast/ops/linear_limits.json": b"{}",
    "igan_fast/ops/convolution/winograd_costs.json": b"{}",
    "igan_fast-0.1.0.dist-info/METADATA": b"",
    "igan_fast-0.1.0.dist-info/licenses/LICENSE": b"",
}
NOTE = {"igan_fast/_build_failure.txt": b"no compiler"}
needs_binutils = pytest.mark.skipif(
    any(shutil.which(program) is None for program in ("cc", "nm", "readelf", "c++filt")), reason="no compiler here"
)


def wheel(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "igan_fast-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def extension(folder: Path, code: str, *options: str) -> bytes:
    source, library = folder / "extension.c", folder / "extension.so"
    source.write_text(code, encoding="utf-8")
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(library), *options], check=True)
    return library.read_bytes()


def test_a_wheel_without_the_extension(tmp_path: Path) -> None:
    assert contents.inspect_wheel(wheel(tmp_path, RIGHT | NOTE), extension=False) == []
    assert contents.inspect_wheel(wheel(tmp_path, RIGHT), extension=False) == ["it lacks igan_fast/_build_failure.txt"]
    (wrong,) = contents.inspect_wheel(wheel(tmp_path, RIGHT | NOTE), extension=True)
    assert wrong == "it has 0 extensions instead of one: no compiler"


@pytest.mark.parametrize(
    "name",
    [
        "tests/test_x.py",
        "bench/core.py",
        "igan_fast/csrc/ops.cpp",
        "igan_fast/photos/a.jpg",
        "docs/mkdocs.yml",
        "setup.py",
    ],
)
def test_files_that_do_not_belong_in_a_wheel(tmp_path: Path, name: str) -> None:
    wrong = contents.inspect_wheel(wheel(tmp_path, RIGHT | NOTE | {name: b""}), extension=False)
    assert wrong
    assert all(name.partition("/")[0] in line for line in wrong)


@pytest.mark.parametrize("name", [*contents.FILES, "igan_fast-0.1.0.dist-info/licenses/LICENSE"])
def test_files_that_must_be_in_a_wheel(tmp_path: Path, name: str) -> None:
    files = {other: content for other, content in (RIGHT | NOTE).items() if other != name}
    assert len(contents.inspect_wheel(wheel(tmp_path, files), extension=False)) == 1


@needs_binutils
def test_an_extension_that_needs_stable_functions_only(tmp_path: Path) -> None:
    code = (
        "int torch_call_dispatcher(void); int aoti_torch_get_dim(void); int PyList_New(void); int puts(const char*);\n"
    )
    code += "int f(void) { return torch_call_dispatcher() + aoti_torch_get_dim() + PyList_New() + puts(0); }"
    built = extension(tmp_path, code)
    files = RIGHT | {"igan_fast/_C.cpython-311-x86_64-linux-gnu.so": built}
    assert contents.inspect_wheel(wheel(tmp_path, files), extension=True) == []
    assert "GLIBC 2." in contents.needs(wheel(tmp_path, files))
    assert "2 functions of libtorch's stable ABI" in contents.needs(wheel(tmp_path, files))
    with_note = contents.inspect_wheel(wheel(tmp_path, files | NOTE), extension=True)
    assert with_note == ["it holds igan_fast/_build_failure.txt"]


@needs_binutils
@pytest.mark.parametrize(
    ("code", "options", "message"),
    [
        ("int _ZN3c106detail3barEv(void); int f(void) { return _ZN3c106detail3barEv(); }", [], "c10::detail::bar()"),
        ("int _ZN2at5emptyEv(void); int f(void) { return _ZN2at5emptyEv(); }", [], "at::empty()"),
        ("int THPVariable_Wrap(void); int f(void) { return THPVariable_Wrap(); }", [], "THPVariable_Wrap"),
        ("int f;", ["-Wl,-rpath,/home/builder/torch/lib"], "/home/builder/torch/lib"),
    ],
)
def test_an_extension_that_needs_its_build_environment(
    tmp_path: Path, code: str, options: list[str], message: str
) -> None:
    files = RIGHT | {"igan_fast/_C.cpython-311-x86_64-linux-gnu.so": extension(tmp_path, code, *options)}
    (wrong,) = contents.inspect_wheel(wheel(tmp_path, files), extension=True)
    assert message in wrong


@needs_binutils
def test_an_extension_that_is_linked_with_more_than_torch(tmp_path: Path) -> None:
    extension(tmp_path, "int g;", "-Wl,-soname,libtorch_python.so")
    (tmp_path / "extension.so").rename(tmp_path / "libtorch_python.so")
    built = extension(tmp_path, "int f;", "-Wl,--no-as-needed", str(tmp_path / "libtorch_python.so"))
    files = RIGHT | {"igan_fast/_C.cpython-311-x86_64-linux-gnu.so": built}
    assert contents.inspect_wheel(wheel(tmp_path, files), extension=True) == ["it is linked with libtorch_python.so"]


def test_a_source_archive_holds_every_tracked_source_file(tmp_path: Path) -> None:
    tracked = ["csrc/ops.cpp", "igan_fast/x.py", "tests/test_x.py"]
    top = ["setup.py", "pyproject.toml", "CMakeLists.txt", "LICENSE", "README.md", "CHANGELOG.md", "constraints.txt"]

    def archive(names: list[str]) -> Path:
        with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as file:
            for name in names:
                file.addfile(tarfile.TarInfo(f"igan_fast-0.1.0/{name}"), io.BytesIO())
        return tmp_path / "x.tar.gz"

    assert contents.inspect_sdist(archive([*top, *tracked[:2]]), tracked) == []
    assert contents.inspect_sdist(archive([*top, "csrc/ops.cpp"]), tracked) == ["it lacks igan_fast/x.py"]
    assert contents.inspect_sdist(archive([*top[1:], *tracked[:2]]), tracked) == ["it lacks setup.py"]
    built = archive([*top, *tracked, "igan_fast/_C.cpython-311-x86_64-linux-gnu.so"])
    assert len(contents.inspect_sdist(built, tracked)) == 1


def test_the_oldest_torch_is_the_one_that_the_extension_is_built_for() -> None:
    assert elsewhere.oldest_torch("TORCH_TARGET_VERSION=0x020a000000000000") == "2.10.0"
    assert elsewhere.oldest_torch("TORCH_TARGET_VERSION=0x020d010000000000") == "2.13.1"

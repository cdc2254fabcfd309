"""``igan-fast doctor`` reports what there is, says how to fix what is missing, and never crashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from preloaded import run_preloaded

import igan_fast
from igan_fast.app import cli, doctor
from igan_fast.ops import backend, status

pytestmark = pytest.mark.every_build  # it asks which build this is

READ = ("IGAN_FAST_IMPL", "IGAN_FAST_CPU_ISA", "IGAN_FAST_CONVOLUTION", "TRITON_INTERPRET")


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``igan-fast doctor`` in a process of its own, after ``code``."""
    code = f"{code}\nimport sys\nfrom igan_fast.app import cli\nsys.exit(cli.main(['doctor', *sys.argv[1:]]))"
    env = {k: v for k, v in os.environ.items() if k not in READ} | environment
    return run_preloaded(code, *arguments, environment=env)


def line(name: str) -> status.Line:
    """What the doctor finds here and now."""
    return next(line for lines in doctor.examine().sections.values() for line in lines if line.name == name)


def test_tells_what_there_is() -> None:
    finished = run("")
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    for expected in (igan_fast.__version__, torch.__version__, sys.executable, "nvcc", "native-cpu", "auto on cpu"):
        assert expected in finished.stdout


def test_json_holds_the_same_and_goes_where_it_is_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found.json"
    assert cli.main(["doctor", "--json", str(file)]) == 0
    assert capsys.readouterr().out == f"wrote {file}\n"
    assert cli.main(["doctor", "--json", "-"]) == 0
    assert capsys.readouterr().out == file.read_text(encoding="utf-8")
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["version"] == igan_fast.__version__
    assert found["sections"]["Operators"]["reference"] == "available"
    assert found["problems"] == []
    assert cli.main(["doctor", "--json", str(file)]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("IGAN_FAST_IMPL", "nonsense", "'nonsense' is not one of auto, native, triton, reference"),
        ("IGAN_FAST_CPU_ISA", "AVX2", "'AVX2' is not one of baseline, avx2, avx512"),
        ("IGAN_FAST_CONVOLUTION", "cudnn", "'cudnn' is not one of auto, triton, measure, blocks"),
        pytest.param(
            "IGAN_FAST_IMPL",
            "triton",
            "auto on cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="Triton runs on this machine"),
        ),
    ],
)
def test_a_setting_that_cannot_work_is_said_after_the_report(name: str, value: str, message: str) -> None:
    finished = run("", **{name: value})
    assert finished.returncode == 2
    assert "native-cpu" in finished.stdout
    assert finished.stderr.startswith("igan-fast: error: ")
    assert message in finished.stderr
    assert "unset" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_settings_that_work_are_no_problem() -> None:
    finished = run("", "--json", "-", IGAN_FAST_IMPL="reference", IGAN_FAST_CPU_ISA="baseline")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["sections"]["Operators"]["auto on cpu"] == "reference"


BROKEN = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise {error}
sys.meta_path.insert(0, Broken())
"""


@pytest.mark.parametrize("error", ["ImportError('undefined symbol: _ZN5torch')", "RuntimeError('registered twice')"])
def test_a_broken_extension_is_a_line_of_the_report(error: str) -> None:
    finished = run(BROKEN.format(name="igan_fast._C", error=error), "--json", "-")
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    assert found["sections"]["Operators"]["native-cpu"] != "available"
    assert found["sections"]["Operators"]["auto on cpu"] == "reference"
    assert any(fix.startswith("native-cpu: ") and "pip install" in fix for fix in found["fixes"])


@pytest.mark.parametrize("error", ["ImportError('no triton')", "OSError('libcuda is broken')"])
def test_a_broken_triton_is_a_line_of_the_report(error: str) -> None:
    finished = run(BROKEN.format(name="triton", error=error), "--json", "-")
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    assert found["sections"]["Operators"]["triton"].startswith("Triton cannot be imported (")
    assert any(fix.startswith("triton: pip install") for fix in found["fixes"])


@pytest.mark.parametrize(
    ("reason", "fix"),
    [
        ("the extension was left out on request (NO_EXTENSION)", "without NO_EXTENSION"),
        ("the extension was not built: no C++ compiler was found (set CXX, or install g++)", "install g++"),
        ("the extension was not built: torch could not be imported (x)", "ninja pybind11"),
        ("the extension was not built: the disk was full", "--verbose"),
    ],
)
def test_each_reason_has_its_remedy(monkeypatch: pytest.MonkeyPatch, reason: str, fix: str) -> None:
    monkeypatch.setattr(backend, "_NATIVE_CPU", reason)
    assert fix in line("native-cpu").fix


#: What an extension says of itself, for where there is none.
BUILT = dict.fromkeys(
    ("compiler", "flags", "torch", "cpu_instruction_sets", "cpu_instruction_set_used", "cuda", "cuda_targets"), "some"
)


def test_remedies_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(backend, "_NATIVE_CPU", backend.AVAILABLE)
    monkeypatch.setattr(backend, "_BUILD_INFO", BUILT | backend.build_info())
    monkeypatch.setattr(backend, "_CUDA_TARGETS", ())
    assert "CUDA toolkit 13.0" in line("native-cuda").fix
    monkeypatch.setattr(backend, "_CUDA_TARGETS", ((8, 0, ""),))
    assert "nvidia-smi" in line("native-cuda").fix
    monkeypatch.setitem(backend._BUILD_INFO, "cuda_targets", "sm_80")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    assert 'TORCH_CUDA_ARCH_LIST="7.5" pip install' in line("native-cuda").fix


def test_what_cannot_be_found_out_is_said_to_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("the system says no")

    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr(torch, "get_num_threads", fail)
    monkeypatch.setattr(torch.cuda, "is_available", fail)
    report = doctor.examine()
    assert "unknown (OSError: the system says no)" in report.text()
    assert json.loads(report.to_json())["sections"]["Operators"]["operators"].startswith("unknown (OSError")


def test_what_finds_faces_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"mtcnn-runtime": "1.0.0"}
    monkeypatch.setattr(doctor, "_version", found.get)
    assert doctor._face_search().startswith("not installed; pip install onnxruntime; only needed for photos that")
    found["onnxruntime"] = "1.32.0"
    assert doctor._face_search() == "mtcnn-runtime 1.0.0, onnxruntime 1.32.0"
    assert doctor._export() == "not installed; pip install onnx onnxscript; only needed for igan-fast export"
    assert doctor._version("no-such-package") is None


def test_compilers_are_looked_for_where_the_build_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for program in ("my-c++", "nvcc"):
        path = tmp_path / "bin" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\necho\necho '{program} release 7.7'\n", encoding="utf-8")
        path.chmod(0o755)
    monkeypatch.setenv("CXX", f"{tmp_path}/bin/my-c++ -m64")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert line("C++").value == f"{tmp_path}/bin/my-c++: my-c++ release 7.7"
    assert line("nvcc").value == f"{tmp_path}/bin/nvcc: nvcc release 7.7"
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler was not found" in line("C++").value


def test_cpu_features_are_those_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {"flags": "fpu avx2 avx512f sse2", "Features": ""}
    monkeypatch.setattr(doctor, "_cpuinfo", lambda key: lines.get(key, ""))
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")
    assert line("CPU features").value == "avx2 avx512f; without avx512_bf16 amx_tile"
    monkeypatch.setattr(doctor.platform, "machine", lambda: "aarch64")
    lines |= {"flags": "", "Features": "fp asimd bf16"}
    assert line("CPU features").value == "asimd bf16"
    lines |= {"Features": ""}
    assert line("CPU features").value.startswith("unknown on ")


def test_a_limit_on_the_cpu_s_time_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "allowed_cores", lambda: 16)
    monkeypatch.setattr(doctor, "usable_cores", lambda: 16)
    assert line("CPU").value.endswith(", 16 cores usable")
    monkeypatch.setattr(doctor, "usable_cores", lambda: 3)
    assert line("CPU").value.endswith(", 16 cores usable, of whose time 3 are allowed")

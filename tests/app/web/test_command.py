"""The command ``igan-fast web``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from igan_fast.app.cli import main
from igan_fast.reference import IterativeGAN
from igan_fast.train.save import save_checkpoint

pytestmark = pytest.mark.every_build


@pytest.fixture
def run(model: IterativeGAN, tmp_path: Path) -> Path:
    described = {"arguments": model.arguments(), "attributes": ["Smiling", "Male", "Wearing_Hat", "Bangs"]}
    save_checkpoint(tmp_path, 1, {"model": model.state_dict()}, {"model": described, "config": {"data": "drawn"}})
    return tmp_path


def test_it_serves_until_ctrl_c(
    run: Path, two_faces: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gradio")
    seen: list[str] = []

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if timeout is not None:  # another thread's
                return super().wait(timeout)
            address = capsys.readouterr().out.split()[2].rstrip(";")
            seen.append(urllib.request.urlopen(address, timeout=60).read().decode())
            signal.raise_signal(signal.SIGINT)
            return super().wait(60)

    monkeypatch.setattr("igan_fast.app.web_command.Event", Interrupted)
    assert main(["web", "--model", str(run)]) == 0
    assert "igan_fast: edit faces" in seen[0]
    assert capsys.readouterr().out == "stopped\n"


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_its_files_are_deleted_however_it_is_stopped(run: Path, tmp_path: Path, sent: signal.Signals) -> None:
    pytest.importorskip("gradio")
    folder = tmp_path / "temporary"
    folder.mkdir()
    command = [sys.executable, "-m", "igan_fast", "web", "--model", str(run)]
    with subprocess.Popen(
        command, env={**os.environ, "TMPDIR": str(folder)}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("serving at http://127.0.0.1:"):
            assert process.poll() is None
        assert list(folder.glob("igan-fast-web-*"))
        process.send_signal(sent)
        assert process.stdout.read() == "stopped\n"
        assert process.wait(timeout=60) == 0
    assert not list(folder.glob("igan-fast-web-*"))


@pytest.mark.parametrize("port", ["0", "65536", "-1"])
def test_a_port_out_of_range(run: Path, port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["web", "--model", str(run), f"--port={port}"]) == 2
    assert capsys.readouterr().err == f"igan-fast: error: --port: found {port}, expected from 1 to 65535\n"


def test_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio")
    assert main(["web", "--model", str(tmp_path / "gone")]) == 2
    assert str(tmp_path / "gone") in capsys.readouterr().err


def test_without_gradio_it_says_what_to_install(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in list(sys.modules):
        if name.startswith("igan_fast.app.web."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["web", "--model", str(run)]) == 2
    assert capsys.readouterr().err == "igan-fast: error: web: the page needs Gradio: pip install gradio\n"

"""Ctrl-C while the command is still importing PyTorch, and where SIGINT is ignored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from igan_fast import _interrupt
from igan_fast._start import is_command

ROOT = Path(__file__).resolve().parents[1]

#: A fake ``torch`` module that is interrupted while it is imported.
SLOW = """
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
time.sleep(0.2)
raise SystemExit("was not stopped")
"""


def start(tmp_path: Path, *arguments: str, ignored: bool = False) -> subprocess.CompletedProcess[str]:
    (tmp_path / "torch.py").write_text(SLOW)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignored else None,
    )


@pytest.mark.parametrize("arguments", [("-m", "igan_fast", "doctor"), ("-m", "igan_fast.train"), ("igan-fast",)])
def test_ctrl_c_while_loading_prints_one_line_and_exits_with_130(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    if arguments[0] == "igan-fast":  # the script that pip installs
        script = tmp_path / "igan-fast"
        script.write_text("import sys\nfrom igan_fast.app.cli import main\nsys.exit(main())\n")
        arguments = (str(script), "doctor")
    done = start(tmp_path, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "igan-fast: interrupted\n")


def test_an_ignored_ctrl_c_stays_ignored_while_loading(tmp_path: Path) -> None:
    done = start(tmp_path, "-m", "igan_fast", "doctor", ignored=True)
    assert done.stderr == "was not stopped\n"


def test_a_program_that_imports_the_package_keeps_its_own_ctrl_c(tmp_path: Path) -> None:
    done = start(tmp_path, "-c", "import igan_fast")
    assert "KeyboardInterrupt" in done.stderr


def test_command_lines_are_recognised() -> None:
    python = "/usr/bin/python"
    for argv, original in [
        (["-m", "train"], [python, "-m", "igan_fast", "train"]),
        (["-m", "--run", "x"], [python, "-X", "dev", "-m", "igan_fast.train", "--run", "x"]),
        (["-m"], [python, "-migan_fast"]),
        (["/usr/local/bin/igan-fast", "train"], [python, "/usr/local/bin/igan-fast", "train"]),
    ]:
        assert is_command(argv, original), argv
    for argv, original in [
        ([], [python]),
        (["-c"], [python, "-c", "import igan_fast"]),
        (["-m", "igan_fast"], [python, "-m", "pytest", "igan_fast"]),
        (["train.py", "igan-fast"], [python, "train.py", "igan-fast"]),
    ]:
        assert not is_command(argv, original), argv


def test_the_handler_replaces_pythons_default_handler_only() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        for handler, expected in (
            (signal.SIG_IGN, signal.SIG_IGN),
            (signal.SIG_DFL, signal.SIG_DFL),
            (signal.default_int_handler, _interrupt._end),
        ):
            signal.signal(signal.SIGINT, handler)
            _interrupt.quiet()
            assert signal.getsignal(signal.SIGINT) is expected
            _interrupt.usual()
            assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)

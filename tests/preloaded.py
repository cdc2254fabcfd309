"""Python programs for which ``import torch`` is over when they begin: forks of one process that has imported it.

Otherwise that import is nearly all that a short program does. Nothing of this package is imported before the fork, so a
program finds it, and what its environment variables set, as in a new interpreter.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["run_preloaded"]

#: Reads programs as lines of JSON, and answers each with the exit status that it had.
_SERVER = r"""
import json, os, sys, traceback, torch

for line in sys.stdin:
    task = json.loads(line)
    child = os.fork()
    if not child:
        status = 1
        try:
            os.chdir(task["folder"])
            os.environ.clear()
            os.environ.update(task["environment"])
            for number, name in ((0, os.devnull), (1, task["stdout"]), (2, task["stderr"])):
                os.dup2(os.open(name, os.O_RDWR), number)
            sys.argv = ["-c", *task["arguments"]]
            exec(compile(task["code"], "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
            status = 0
        except SystemExit as exit:
            status = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def run_preloaded(code: str, *arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run ``python -c CODE ARGUMENTS``, with ``environment`` as its variables, and no input.

    Where processes cannot be forked, a new interpreter is started.
    """
    command = [sys.executable, "-c", code, *arguments]
    if not hasattr(os, "fork"):
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    sys.audit("subprocess.Popen", sys.executable, command, None, environment)  # as a new interpreter (tests/builds.py)
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        for output in outputs:
            output.touch()
        files = {output.name: str(output) for output in outputs}
        task = {"code": code, "arguments": arguments, "environment": environment, "folder": str(Path.cwd()), **files}
        server.stdin.write(json.dumps(task) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(command, status, *(file.read_text(encoding="utf-8") for file in outputs))


@functools.cache
def _server() -> subprocess.Popen[str]:
    settings = ("IGAN_FAST_", "TRITON_", "ATEN_")  # what a program's own variables are about
    environment = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(_stop, server)
    return server


def _stop(server: subprocess.Popen[str]) -> None:
    server.communicate()

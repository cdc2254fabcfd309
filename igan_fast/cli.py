"""The command line: ``igan-fast train | recognise | generate | rebuild | transform | evaluate | doctor``.

Bad input ends in one message and exit status 2, without a traceback.
"""

from __future__ import annotations

import dataclasses
import io
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import tyro
from tyro.conf import subcommand

from igan_fast import _interrupt
from igan_fast.commands import Command, Doctor, Evaluate, Generate, Rebuild, Recognise, Train, Transform
from igan_fast.errors import InputError
from igan_fast.train.config import PRESETS, TrainConfig

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what is typed after ``igan-fast``; what was typed where omitted.

    Returns:
        The exit status: 0, 2 for bad input, 130 after Ctrl-C, 141 where the reader of the output has gone.

    Raises:
        SystemExit: after ``--help`` (0), and for options that do not exist or cannot be read (2).
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # A file name that the terminal cannot show is no reason to stop.
        sys.stdout.reconfigure(errors="backslashreplace")
    command: Command | None = None
    try:
        _interrupt.usual()  # here, where it is caught
        command = _parse(arguments)
        with warnings.catch_warnings():
            warnings.showwarning = _tell
            command.run()
        sys.stdout.flush()  # here, where a reader that has gone is no surprise
    except InputError as error:
        print(f"igan-fast: error: {_as_typed(str(error), command)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("igan-fast: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone (`| head`)
        sys.stderr.close()
        return 141
    except OSError as error:  # from the system, where nothing more specific was to be said
        place = f"{error.filename}: " if error.filename else ""
        print(f"igan-fast: error: {place}{error.strerror or error}", file=sys.stderr)
        return 2
    return 0


def _as_typed(message: str, command: Command | None) -> str:
    """The message, with the option spelled as it is typed where it begins with the name that the Python API has."""
    options: Any = command.config if isinstance(command, Train) else command
    name, colon, _ = message.partition(": ")
    if options is None or not colon or name not in {field.name for field in dataclasses.fields(options)}:
        return message
    return f"--{name.replace('_', '-')}{message[len(name) :]}"


def _tell(message: Warning | str, *where: object, **more: object) -> None:
    """A warning in one line for the user, without the place in our code that Python would print."""
    print(f"igan-fast: warning: {message}", file=sys.stderr)


def _parse(arguments: list[str]) -> Command:
    """The command that the arguments spell. Exits by itself on ``--help`` (0) and on what tyro refuses (2)."""
    default = _train_default(arguments) if arguments[:1] == ["train"] else TrainConfig()
    commands: Any = (
        Annotated[TrainConfig, subcommand("train", default=default)]
        | Annotated[Recognise, subcommand("recognise")]
        | Annotated[Generate, subcommand("generate")]
        | Annotated[Rebuild, subcommand("rebuild")]
        | Annotated[Transform, subcommand("transform")]
        | Annotated[Evaluate, subcommand("evaluate")]
        | Annotated[Doctor, subcommand("doctor")]
    )
    parsed = tyro.cli(
        commands,
        prog="igan-fast",
        description="Iterative GAN: recognise, generate, rebuild and edit faces with one model.",
        args=arguments,
    )
    return Train(parsed) if isinstance(parsed, TrainConfig) else cast("Command", parsed)


def _train_default(arguments: list[str]) -> TrainConfig:
    """What the options of ``train`` default to: those of the run that is continued, else those of the preset."""
    given = dict(_options(arguments))
    run = given.get("run")
    if "resume" in given and run and (Path(run) / "config.json").exists():
        saved = TrainConfig.load(Path(run)).to_json()
        if given.keys() & {"epochs", "iterations"}:
            saved |= {"epochs": None, "iterations": None}
        return TrainConfig.from_json(saved)
    preset = given.get("preset")
    return TrainConfig(preset=cast("Any", preset)) if preset in PRESETS else TrainConfig()


def _options(arguments: Iterable[str]) -> Iterable[tuple[str, str]]:
    """(name, first value or "") of each ``--name value`` and ``--name=value``."""
    arguments = list(arguments)
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            yield name.replace("_", "-"), value if equals else following

"""The command line: ``igan-fast train | recognise | generate | rebuild | transform | evaluate | …``.

For bad input it prints one line and exits with status 2, without a traceback.
"""

from __future__ import annotations

import dataclasses
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import tyro
from tyro.conf import subcommand

from igan_fast import _interrupt
from igan_fast._version import __version__
from igan_fast.app.arguments import Arguments, nearest, parse_words
from igan_fast.app.commands import Command, Doctor, Evaluate, Generate, Paper, Rebuild, Recognise, Train, Transform
from igan_fast.app.export import Export
from igan_fast.app.interpolate import Interpolate
from igan_fast.app.results import SomePhotosFailed
from igan_fast.app.web_command import Web
from igan_fast.baselines.config import BaselineConfig
from igan_fast.distributed.process import ProcessLost, ToldElsewhere, first_tells, this_process
from igan_fast.errors import InputError, option, printable
from igan_fast.train.config import PRESETS, TrainConfig
from igan_fast.train.run_config import Config, RunConfig

__all__ = ["main"]

#: The commands by name; the fields of each class are the command's options.
COMMANDS: dict[str, type] = {
    "train": TrainConfig,
    "recognise": Recognise,
    "generate": Generate,
    "rebuild": Rebuild,
    "transform": Transform,
    "interpolate": Interpolate,
    "web": Web,
    "export": Export,
    "evaluate": Evaluate,
    "baseline": BaselineConfig,
    "paper": Paper,
    "doctor": Doctor,
}

DESCRIPTION = """Iterative GAN: recognise, generate, rebuild and edit faces with one model.

A list is given as --set A=1 B=0, as --set A=1,B=0 or as --set A=1 --set B=0.
The exit status is 1 where some photos could not be used and the others were, and 2 for bad input.
igan-fast --version says which version this is."""

#: Other spellings of commands.
ALIASES = {"recognize": "recognise"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after ``igan-fast``; by default those of ``sys.argv``.

    Returns:
        The exit status: 0 for success; 1 if some of the photos could not be used; 2 for bad input; 130 after Ctrl-C;
        141 if the reader of the output has exited (``| head``).

    Raises:
        SystemExit: after ``--help`` (0).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    command: Command | None = None
    with _output(), warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            _interrupt.usual()  # from here on KeyboardInterrupt is caught
            if words[:1] == ["--version"]:
                print(f"igan-fast {__version__}")
            else:
                with first_tells(this_process()):  # all processes of torchrun get the same words
                    command = _parse(words)
                command.run()
            sys.stdout.flush()  # inside of try, because the reader may have exited
        except ToldElsewhere:
            return 2
        except InputError as error:
            return _refuse(_as_typed(str(error), command), 2)
        except SomePhotosFailed as error:
            return _refuse(str(error), 1)
        except KeyboardInterrupt:
            if this_process().is_first:
                print("igan-fast: interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:  # the reader of the output has exited (`| head`)
            _drop_output()
            return 141
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, ProcessLost):
                return _refuse(str(error), 1)
            if not _out_of_memory(error):
                raise
            return _refuse(f"there is not enough memory for this: {_first_line(error)}", 2)
        except OSError as error:  # no command has turned it into an InputError
            _drop_output()
            place = f"{error.filename}: " if error.filename else ""
            return _refuse(f"{place}{error.strerror or error}", 2)
    return 0


def _refuse(message: str, status: int) -> int:
    print(f"igan-fast: error: {printable(message)}", file=sys.stderr)
    return status


def _as_typed(message: str, command: Command | None) -> str:
    """Return the message. If it begins with the name of a field, replace the name by the option, such as --run."""
    options: Any = command.config if isinstance(command, Train) else command
    name, colon, _ = message.partition(": ")
    if options is None or not colon or name not in {field.name for field in dataclasses.fields(options)}:
        return message
    return f"{option(name)}{message[len(name) :]}"


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    """Print a warning in one line, without the line of code that Python adds."""
    print(f"igan-fast: warning: {printable(message)}", file=sys.stderr)


@contextmanager
def _output() -> Iterator[None]:
    """Make printing to stdout and stderr safe while the block runs.

    A stream that was closed before the start is replaced by os.devnull. A character that the terminal cannot show is
    printed as an escape.
    """
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        missing = [name for name in ("stdout", "stderr") if getattr(sys, name) is None]
        for name in missing:
            setattr(sys, name, nowhere)
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            yield
        finally:
            for name in missing:
                setattr(sys, name, None)


def _drop_output() -> None:
    """Discard the output that could not be written. Otherwise Python tries again at its exit, and prints an error."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _out_of_memory(error: Exception) -> bool:
    """Whether the error says that memory ran out. On a CPU PyTorch raises a plain RuntimeError for it."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _parse(words: list[str]) -> Command:
    """Return the command that the words describe. ``--help`` prints and exits with status 0."""
    parsed: Arguments | None = None
    if not words:
        raise InputError(f"no command is given; expected {_listed(COMMANDS)}; igan-fast --help explains")
    name = ALIASES.get(words[0], words[0])
    words = [name, *words[1:]]
    if name in COMMANDS:
        options = words[1 : words.index("--")] if "--" in words else words[1:]
        if {"-h", "--help"} & set(options):
            words = [name, "--help"]
        elif not any(word.startswith("--tyro-") for word in options):  # tyro's own, for shell completions
            parsed = parse_words(words[1:], name, COMMANDS[name])
            words = parsed.words()
    elif name not in ("-h", "--help") and not name.startswith("--tyro-"):
        hint = nearest(name, [*COMMANDS, "--version", "--help"]) or f"; expected {_listed(COMMANDS)}"
        raise InputError(f"{name}: no such command{hint}")
    return _make_command(words, parsed)


def _make_command(words: list[str], parsed: Arguments | None) -> Command:
    commands: Any = (
        Annotated[TrainConfig, subcommand("train", default=_default(TrainConfig, words, parsed))]
        | Annotated[Recognise, subcommand("recognise")]
        | Annotated[Generate, subcommand("generate")]
        | Annotated[Rebuild, subcommand("rebuild")]
        | Annotated[Transform, subcommand("transform")]
        | Annotated[Interpolate, subcommand("interpolate")]
        | Annotated[Web, subcommand("web")]
        | Annotated[Export, subcommand("export")]
        | Annotated[Evaluate, subcommand("evaluate")]
        | Annotated[BaselineConfig, subcommand("baseline", default=_default(BaselineConfig, words, parsed))]
        | Annotated[Paper, subcommand("paper")]
        | Annotated[Doctor, subcommand("doctor")]
    )
    made = tyro.cli(
        commands,
        prog="igan-fast",
        description=DESCRIPTION,
        args=words,
    )
    return Train(made) if isinstance(made, RunConfig) else cast("Command", made)


def _default(kind: type[Config], words: list[str], parsed: Arguments | None) -> Config:
    """Return the defaults of a training command: the options of the resumed run, otherwise those of the preset and of
    the networks that a new run starts from."""
    if parsed is None or words[0] != kind.COMMAND:
        return kind()
    run = parsed.first("run")
    if parsed.first("resume") == "True" and run and (Path(run) / "config.json").exists():
        saved = kind.load(Path(run)).to_json()
        if parsed.values.keys() & {"epochs", "iterations"}:
            saved |= {"epochs": None, "iterations": None}
        return kind.from_json(saved)
    given = {}
    if "preset" in parsed.options and (preset := parsed.first("preset")) in PRESETS:
        given["preset"] = preset
    if (init := parsed.first("init")) not in (None, "None"):
        given["init"] = init
    return kind.from_json(given)


def _listed(names: dict[str, type]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"

"""Checks the options of a training run, each alone and all together, before anything starts."""

from __future__ import annotations

import dataclasses
import os
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from igan_fast.data.drawn_faces import MAX_DRAWN
from igan_fast.devices import operators_on, resolve_device
from igan_fast.errors import InputError, option
from igan_fast.train.config_values import option_types, wrong_type
from igan_fast.train.tuning import mode_of

if TYPE_CHECKING:
    from igan_fast.train.run_config import RunConfig

__all__ = ["check_config", "expect", "named_as_options"]

#: A larger number of iterations could not be counted in 64 bits.
MAX_EPOCHS = 1_000_000_000
#: More than the number of cores of any machine that this package is meant for.
MOST_THREADS = 1024


def check_config(config: RunConfig) -> None:
    """Check that the options can work.

    Raises:
        InputError: names the option, its value and what was expected.
    """
    _check_types(config)
    _check_ranges(config)
    if config.epochs is not None and config.iterations is not None:
        raise InputError(f"--epochs {config.epochs} and --iterations {config.iterations} contradict: give one of them")
    if config.data == "drawn" and config.split != "official":
        raise InputError(f"--split {config.split}: the built-in faces have one division only; leave it out")
    if config.data == "drawn" and config.align != "off":
        raise InputError(f"--align {config.align}: the built-in faces need no search; leave it out")
    if config.resume and config.run is None:
        raise InputError("--resume: say which run to continue with --run DIR")
    if config.init and config.run and os.path.realpath(config.init) == os.path.realpath(config.run):
        raise InputError(
            f"--init {config.init}: is also the folder of --run; leave out --init and give --resume to go on with this "
            "run, or name another folder as --run"
        )
    device = resolve_device(config.device)
    if config.precision == "tf32" and device.type != "cuda":
        raise InputError(f"--precision: found tf32, which {device.type} does not have; expected fp32 or bf16")
    if config.impl == "auto":
        operators_on(device)
    mode_of(config)
    config.check_own(device)


def _check_types(config: RunConfig) -> None:
    types = option_types(type(config))
    for name, kind in types.items():
        for each in (kind, *get_args(kind)):  # alone, or beside None
            if get_origin(each) is Literal and (value := getattr(config, name)) is not None:
                choices = get_args(each)
                expect(config, name, value in choices, "one of " + ", ".join(choices))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if reason := wrong_type(value, types[field.name]):
            raise InputError(f"{option(field.name)}: found {reprlib.repr(value)}: {reason}")


def _check_ranges(config: RunConfig) -> None:
    if config.data == "":  # such as an unset shell variable: as a path it would mean the current folder
        raise InputError("--data: is empty; expected a folder, or 'drawn' for the built-in faces")
    size, epochs, threads = config.image_size, config.epochs, config.threads
    expect(config, "image_size", size >= 32 and size % 16 == 0, "a multiple of 16 from 32 up")
    for name in ("width", "log_every", "sample_every", "checkpoint_every", "keep"):
        expect(config, name, getattr(config, name) >= 1, "at least 1")
    expect(config, "drawn_count", 1 <= config.drawn_count <= MAX_DRAWN, f"from 1 to {MAX_DRAWN:,}")
    expect(config, "epochs", epochs is None or 0 < epochs <= MAX_EPOCHS, f"above 0, at most {MAX_EPOCHS:,}")
    expect(config, "iterations", config.iterations is None or config.iterations >= 1, "at least 1")
    expect(config, "threads", threads is None or 1 <= threads <= MOST_THREADS, f"from 1 to {MOST_THREADS:,}")
    expect(config, "seed", 0 <= config.seed < 2**63, "from 0 to 2⁶³ − 1")


@contextmanager
def named_as_options() -> Iterator[None]:
    """Turn a ``ValueError`` that begins with the name of an argument into an ``InputError`` that names the option."""
    try:
        yield
    except ValueError as error:
        name, colon, found = str(error).partition(":")
        raise InputError(f"{option(name)}{colon}{found}") from None


def expect(config: RunConfig, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise InputError(f"{option(name)}: found {getattr(config, name)}, expected {expected}")

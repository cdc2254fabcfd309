"""``train``: opens a new or a resumed run, trains it and returns its results. The iterations are in ``trainer``."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import torch

from igan_fast.checkpoint.find import newest_checkpoint
from igan_fast.checkpoint.folder import Checkpoint
from igan_fast.distributed.group import joined
from igan_fast.distributed.process import Process, this_process
from igan_fast.errors import printable
from igan_fast.ops.convolution import asking_for
from igan_fast.train.config import MOST_SECONDS, TrainConfig
from igan_fast.train.resume import resumable_by
from igan_fast.train.retention import checkpoint_score, restore_best
from igan_fast.train.run import locked, open_data, open_run, start_run
from igan_fast.train.run_config import Config
from igan_fast.train.trainer import Trainer, TrainResult
from igan_fast.train.tuning import mode_of
from igan_fast.train.warm_start import Initial, load_initial

__all__ = ["TrainResult", "train"]

#: Options that may differ between the processes of a run: where things are on a machine, and how it computes.
OF_A_MACHINE = frozenset(("data", "cache", "run", "resume", "init", "threads"))


def train(config: Config, *, beside: Callable[..., Config] | None = None) -> TrainResult:
    """Train a model, or resume a run, as ``config`` says. A new run may start from the networks of another (``init``).

    After the first Ctrl-C (or SIGTERM) ``train`` finishes the iteration, saves it and returns. A second one stops it
    at once. ``train`` sets PyTorch's global seed and, if ``config.threads`` is given, its number of threads. On a CPU
    it makes glibc keep freed memory in this process.

    Where ``torchrun`` has started several processes, each calls ``train`` with the same options, and computes its part.
    The first one alone reads and writes the run's folder, and prints. A signal to one of them stops all.

    Args:
        config: what to train.
        beside: called after the options and the data have been checked, with the config and with ``continued=True`` for
            a resumed run. It returns the config to train, which may have other ``threads``. The command line uses it to
            choose the number of threads on a busy machine.

    Raises:
        InputError: an option, the data or the run folder cannot be used (checked before the training starts), or the
            disk is full. If it is found by several processes or by another one, the first one raises it, and the
            others raise ``ToldElsewhere``.
        TrainingDiverged: a loss became NaN or infinite. This ``InputError`` names the iteration, the loss term and the
            last good checkpoint.
        ProcessLost: another process has ended, or does not answer.
    """
    process = this_process()
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    with (
        _quiet_unless_first(process),
        joined(process, _timeout(config), on_gpu=on_gpu) as processes,
        ExitStack() as while_training,
    ):
        processes.together(config.validate)
        options = {name: value for name, value in config.to_json().items() if name not in OF_A_MACHINE}
        processes.expect_same_options(options | {"tune": mode_of(config)})
        start = processes.from_first(lambda: _find(config, while_training))
        store, config = processes.together(lambda: open_data(config, progress=process.is_first))
        start = processes.from_first(lambda: _claim(config, start, while_training))
        if beside is not None and process.local_world_size == 1:
            config = beside(config, continued=start.checkpoint is not None)
        while_training.enter_context(asking_for(mode_of(config)))
        trainer = Trainer(config, start.folder, store, processes)
        while_training.callback(trainer.method.close)
        if (checkpoint := start.checkpoint) is not None:
            processes.together(lambda: trainer.resume(checkpoint))
        elif start.initial is not None:
            trainer.start_from(start.initial)
        if trainer.iteration >= trainer.iterations:
            done = f"already at iteration {trainer.iteration} of {trainer.iterations}"
            _print(f"{start.folder}: {done}; nothing to train")
            return trainer.result()
        processes.from_first(lambda: _prepare(config, start))
        return trainer.run()


class _Start(NamedTuple):
    """What a run starts from. Only the first process reads it; the others may be on machines without its folder."""

    folder: Path
    """The folder of the run."""
    resumed: bool
    """Whether the folder was found to hold a run."""
    checkpoint: Checkpoint | None = None
    initial: Initial | None = None


def _find(config: Config, while_training: ExitStack) -> _Start:
    """Find the run's folder, and read what it starts from, before the images are decoded, which may take minutes."""
    folder, resumed = open_run(config)
    if resumed:
        while_training.enter_context(locked(folder))
        return _Start(folder, resumed, newest_checkpoint(folder, report=_print, fits=resumable_by(config)))
    return _Start(folder, resumed, initial=None if config.init is None else load_initial(config))


def _claim(config: Config, start: _Start, while_training: ExitStack) -> _Start:
    """Lock the folder of a new run. Another process may have trained there while the data was opened."""
    if start.resumed:
        return start
    while_training.enter_context(locked(start.folder))
    if not open_run(dataclasses.replace(config, run=start.folder)).resumed:
        return start
    return start._replace(checkpoint=newest_checkpoint(start.folder, report=_print, fits=resumable_by(config)))


def _prepare(config: Config, start: _Start) -> None:
    start_run(start.folder, config, start.checkpoint.folder if start.checkpoint else None)
    restore_best(start.folder, checkpoint_score, report=_print)


def _timeout(config: object) -> float:
    """The seconds after which a process counts as lost. They are needed before the options can be checked together."""
    found = getattr(config, "process_timeout", None)
    return found if isinstance(found, int | float) and 0 < found <= MOST_SECONDS else TrainConfig.process_timeout


@contextmanager
def _quiet_unless_first(process: Process) -> Iterator[None]:
    """Print and warn in the first process only."""
    if process.is_first:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _print(line: str) -> None:
    print(printable(line))

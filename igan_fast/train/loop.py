"""``train``: opens a new or a resumed run, trains it and returns its results. The iterations are in ``trainer``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack

from igan_fast.checkpoint.find import newest_checkpoint
from igan_fast.checkpoint.folder import Checkpoint
from igan_fast.errors import printable
from igan_fast.train.resume import resumable_by
from igan_fast.train.retention import checkpoint_score, restore_best
from igan_fast.train.run import locked, open_data, open_run, start_run
from igan_fast.train.run_config import Config
from igan_fast.train.trainer import Trainer, TrainResult
from igan_fast.train.warm_start import Initial, load_initial

__all__ = ["TrainResult", "train"]


def train(config: Config, *, beside: Callable[..., Config] | None = None) -> TrainResult:
    """Train a model, or resume a run, as ``config`` says. A new run may start from the networks of another (``init``).

    After the first Ctrl-C (or SIGTERM) ``train`` finishes the iteration, saves it and returns. A second one stops it
    at once. ``train`` sets PyTorch's global seed and, if ``config.threads`` is given, its number of threads. On a CPU
    it makes glibc keep freed memory in this process.

    Args:
        config: what to train.
        beside: called after the options and the data have been checked, with the config and with ``continued=True`` for
            a resumed run. It returns the config to train, which may have other ``threads``. The command line uses it to
            choose the number of threads on a busy machine.

    Raises:
        InputError: an option, the data or the run folder cannot be used (checked before the training starts), or the
            disk is full.
        TrainingDiverged: a loss became NaN or infinite. This ``InputError`` names the iteration, the loss term and the
            last good checkpoint.
    """
    config.validate()
    with ExitStack() as while_training:
        folder, resumed = open_run(config)
        checkpoint: Checkpoint | None = None
        initial: Initial | None = None
        # Both are checked before the images are decoded, which may take minutes.
        if resumed:
            while_training.enter_context(locked(folder))
            checkpoint = newest_checkpoint(folder, report=_print, fits=resumable_by(config))
        elif config.init is not None:
            initial = load_initial(config)
        store, config = open_data(config)
        if not resumed:
            while_training.enter_context(locked(folder))
            # Checked again, because another process may have trained here while the data was opened.
            if open_run(dataclasses.replace(config, run=folder)).resumed:
                checkpoint = newest_checkpoint(folder, report=_print, fits=resumable_by(config))
        if beside is not None:
            config = beside(config, continued=checkpoint is not None)
        trainer = Trainer(config, folder, store)
        if checkpoint is not None:
            trainer.resume(checkpoint)
        elif initial is not None:
            trainer.start_from(initial)
        if trainer.iteration >= trainer.iterations:
            _print(f"{folder}: already at iteration {trainer.iteration} of {trainer.iterations}; nothing to train")
            return trainer.result()
        start_run(folder, config, checkpoint.folder if checkpoint else None)
        restore_best(folder, checkpoint_score, report=_print)
        return trainer.run()


def _print(line: str) -> None:
    print(printable(line))

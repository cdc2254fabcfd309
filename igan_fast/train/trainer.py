"""A training run in memory: what is trained, and the loop that trains, saves and samples it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from igan_fast.checkpoint.find import best_checkpoint
from igan_fast.checkpoint.folder import Checkpoint
from igan_fast.data.store import FaceStore
from igan_fast.devices import has_bfloat16, keep_freed_memory, operators_on, resolve_device
from igan_fast.distributed.agreement import Processes, StopVote
from igan_fast.distributed.process import Process, ToldElsewhere
from igan_fast.errors import InputError, printable
from igan_fast.train.diverged import TrainingDiverged
from igan_fast.train.follower import Follower
from igan_fast.train.method import Method
from igan_fast.train.monitor import Monitor
from igan_fast.train.optimizer_state import optimizer_to_tensors
from igan_fast.train.resume import check_data, data_fingerprint
from igan_fast.train.retention import checkpoint_score, mark_best, prune_checkpoints
from igan_fast.train.run_config import RunConfig
from igan_fast.train.save import checkpoint_folder, save_checkpoint
from igan_fast.train.signals import graceful_stop
from igan_fast.train.tuning import RunChoices
from igan_fast.train.warm_start import Initial

__all__ = ["TrainResult", "Trainer", "make_method"]


@dataclass(frozen=True)
class TrainResult:
    """The state of a training run when ``train`` returns."""

    run: Path
    """The run folder."""
    iteration: int
    """The number of iterations done so far."""
    iterations: int
    """The number of iterations asked for."""
    checkpoint: Path
    """The newest checkpoint of the run."""
    samples: Path
    """The newest sample grid of the run."""
    metrics: Mapping[str, float]
    """Scores of the newest checkpoint on validation photos: ``hamming_loss``, ``rebuild_l1``; empty without photos."""

    @property
    def interrupted(self) -> bool:
        """Whether the run was stopped (Ctrl-C) before its end."""
        return self.iteration < self.iterations


def make_method(config: RunConfig, store: FaceStore, process: Process = Process()) -> Method[Any]:  # noqa: B008
    """Make what a run trains, in a process that is prepared for training.

    The number of threads and PyTorch's global seed are those of ``config``. On a CPU glibc keeps freed memory: without
    this, an iteration with large tensors can take half as long again.

    Args:
        config: the checked config of the run.
        store: the images to train on.
        process: this process. The process group was made before if there are others.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = resolve_device(config.device)
    if device.type == "cpu" and config.impl == "auto":
        keep_freed_memory()
    torch.manual_seed(config.seed)
    method: Method[Any] = config.method_class()(config, store, device, process)
    return method


class Trainer:
    """Holds everything that a checkpoint must contain, and runs the iterations that change it.

    Args:
        config: the checked config of the run.
        folder: the run's folder.
        store: the images to train on.
        processes: all processes of the run.

    Raises:
        InputError: the processes have different images.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        store: FaceStore,
        processes: Processes = Processes(Process(), None),  # noqa: B008
    ) -> None:
        self.config, self.folder, self.store, self.processes = config, folder, store, processes
        self.device = resolve_device(config.device)
        self.method = make_method(config, store, processes.process)
        self.choices = RunChoices(self.device, processes)
        self.iteration, self.iterations = 0, self.method.iterations
        self.metrics: dict[str, float] = {}
        named = config.data if config.data == "drawn" else str(Path(config.data).expanduser().resolve())
        self.data = data_fingerprint(store, named)
        processes.expect_alike(
            {name: value for name, value in self.data.items() if name != "named"},
            lambda name, own, first: (
                f"--data {named}: its {name} are others than those of the first process: {str(own)[:12]}, "
                f"expected {str(first)[:12]}"
            ),
        )
        self._checkpoint: Path | None = None
        self._samples: Path | None = None
        self._origin: dict[str, Any] = {}

    def _described(self) -> str:
        """Describe in one line the device, the precision and the implementation of an iteration."""
        device = str(self.device)
        if self.device.type == "cuda":
            device = torch.cuda.get_device_name(self.device)
        elif self.device.type == "cpu":
            device = f"{torch.get_num_threads()} CPU threads"
        if (count := self.processes.process.world_size) > 1:
            device = f"{count} processes, each on {device}"
        if self.config.impl == "reference":
            return f"{device} in {self.config.precision}: plain PyTorch"
        operators = f"fused operators, {operators_on(self.device)}, channels last in memory"
        graphs = ", CUDA graphs" if self.method.graphed else ""
        measured = ", convolutions chosen by measurement" if self.choices.measuring else ""
        return f"{device} in {self.config.precision}: {operators}{graphs}{measured}"

    def run(self) -> TrainResult:
        """Train to the last iteration, or until Ctrl-C, and save."""
        config = self.config
        monitor = (Monitor if self.processes.is_first else Follower)(
            self.folder,
            total=self.iterations,
            start=self.iteration,
            batch_size=self.method.batch_size,
            log_every=config.log_every,
            shown=self.method.shown,
        )
        with graceful_stop() as stop, self._adding_the_last_checkpoint(), monitor:
            monitor.message(f"computing on {self._described()}")
            if config.precision == "bf16" and self.device.type == "cpu" and not has_bfloat16():
                monitor.message("this CPU has no bfloat16 instructions: --precision fp32 is faster here")
            if config.tune == "measure" and not self.choices.measuring:
                monitor.message(f"--tune measure: on a {self.device.type.upper()} there is nothing to choose from")
            monitor.event("start", computing_on=self._described(), **self._origin)
            last, vote = False, StopVote(self.processes, stop)
            while not last:
                vote.ask()
                losses, counts = self.method.iterate()
                self.iteration += 1
                monitor.record(self.iteration, losses, counts)
                # Read once per iteration. If a signal comes later, the next iteration is the last one.
                last = vote.answer() or self.iteration == self.iterations
                if self.processes.is_first and (last or self.iteration % config.sample_every == 0):
                    self._samples = monitor.image("samples", self.method.samples())
                if last or self.iteration % config.checkpoint_every == 0:
                    self._save(monitor)
        result = self.result()
        if result.interrupted:
            stopped = f"stopped at iteration {self.iteration} of {self.iterations}, saved in {result.checkpoint}"
            print(printable(stopped))
            print(
                printable(f"continue with: igan-fast {config.COMMAND} --run {shlex.quote(str(self.folder))} --resume")
            )
        return result

    def result(self) -> TrainResult:
        """Return the state of the run."""
        assert self._checkpoint is not None, "there is no checkpoint before the first iteration"
        samples = self._samples or max((self.folder / "samples").glob("samples-*.png"), default=self.folder)
        return TrainResult(self.folder, self.iteration, self.iterations, self._checkpoint, samples, self.metrics)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Restore the state in ``checkpoint``, so that the run continues exactly where it was saved.

        Args:
            checkpoint: a checkpoint that ``resumable_by`` has accepted.

        Raises:
            InputError: its run was trained on other photos or labels, or a number in it is impossible.
        """
        folder, state = checkpoint.folder, checkpoint.state
        if (trained := state["model"]["attributes"]) != list(self.store.attributes):
            raise InputError(
                f"--data {self.config.data}: its attributes are {', '.join(self.store.attributes)}, "
                f"but this run learns {', '.join(trained)}"
            )
        check_data(state.get("data"), self.data, folder)
        self.method.load(checkpoint)
        self.iteration, self.metrics = checkpoint.iteration, state["metrics"]
        self._checkpoint = folder
        told = self.choices.load(state.get("tuning", {}))  # older versions, and runs that do not measure, have none
        print(printable(f"continuing {self.folder} at iteration {self.iteration} of {self.iterations}"))
        if told:
            print(printable(told))
        if missing := self.config.added_since(state["config"]):
            print(f"an older version started this run: it goes on without {', '.join(missing)}")

    def start_from(self, initial: Initial) -> None:
        """Replace the initial weights of a new run by those of another run, and say so."""
        self.method.start_from(initial.fitted(self.method.networks.state_dict(), self.store.attributes))
        self._origin = {"starts_from": str(initial.folder)}
        print(printable(initial.told(self.store.attributes)))

    def _save(self, monitor: Monitor) -> None:
        """Score the model, save a checkpoint, rank it and remove old ones. The losses so far are checked first, so that
        no checkpoint is saved after a NaN."""
        monitor.flush()
        self.metrics = self._validate()
        choices = self.choices.state()
        self.processes.from_first(lambda: self._write(monitor, choices))
        self._checkpoint = checkpoint_folder(self.folder, self.iteration)

    def _write(self, monitor: Monitor, choices: Mapping[str, Mapping[str, str]]) -> None:
        method = self.method
        named = list(method.networks.named_parameters())
        tensors: dict[str, Mapping[str, Tensor]] = {
            "model": method.networks.state_dict(),
            **{name: optimizer_to_tensors(each, named) for name, each in method.optimizers.items()},
            **method.tensors(),
        }
        state = {**method.state(), "config": self.config.to_json(), "data": self.data, "metrics": self.metrics}
        if choices:
            state["tuning"] = choices
        save_checkpoint(self.folder, self.iteration, tensors, state)
        monitor.event("checkpoint", iteration=self.iteration, **self.metrics)
        if self.metrics:
            score = checkpoint_score(self.metrics)
            best = best_checkpoint(self.folder)
            if best is None or score < best.score:
                mark_best(self.folder, self.iteration, score)
            scores = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
            monitor.message(f"iteration {self.iteration}: validation {scores}")
        prune_checkpoints(self.folder, self.config.keep)

    def _validate(self) -> dict[str, float]:
        """Score the networks on validation photos. Without validation photos there are no scores."""
        scores = self.method.scores()
        # The losses were finite, but the weights may not be after the last update.
        if broken := {f"validation/{name}": value for name, value in scores.items() if not math.isfinite(value)}:
            raise TrainingDiverged(self.iteration, broken)
        return scores

    @contextmanager
    def _adding_the_last_checkpoint(self) -> Iterator[None]:
        """Add the last good checkpoint to the message of a ``TrainingDiverged``, which all processes raise alike."""
        try:
            yield
        except TrainingDiverged as error:
            if not self.processes.is_first:
                raise ToldElsewhere(str(error)) from None
            raise TrainingDiverged(error.iteration, error.values, self._checkpoint) from None

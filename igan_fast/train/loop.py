"""The training loop: batches, iterations, balance, average, and at set intervals samples, scores and checkpoints."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from igan_fast import models, reference, step
from igan_fast.checkpoint.find import best_checkpoint, newest_checkpoint
from igan_fast.checkpoint.folder import Checkpoint
from igan_fast.data.loader import BatchLoader
from igan_fast.data.store import FaceStore, spread
from igan_fast.devices import has_bfloat16, keep_freed_memory, operators_on, resolve_device
from igan_fast.errors import InputError, printable
from igan_fast.graphs import GraphedStep
from igan_fast.metrics import quick_validation
from igan_fast.train.config import TrainConfig
from igan_fast.train.diverged import TrainingDiverged
from igan_fast.train.ema import EMA
from igan_fast.train.monitor import Monitor
from igan_fast.train.optimizer_state import optimizer_to_tensors
from igan_fast.train.resume import check_data, data_fingerprint, in_file, load_networks, resumable_by
from igan_fast.train.retention import mark_best, prune_checkpoints, restore_best
from igan_fast.train.run import locked, open_data, open_run, start_run
from igan_fast.train.samples import draw_samples
from igan_fast.train.save import save_checkpoint
from igan_fast.train.signals import graceful_stop

__all__ = ["TrainResult", "train"]

#: Label rows kept in a checkpoint, so that faces can be generated with attributes that go together.
LABEL_SAMPLES = 256


@dataclass(frozen=True)
class TrainResult:
    """Where a training run stands when ``train`` returns."""

    run: Path
    """The run folder."""
    iteration: int
    """How many iterations it has behind it."""
    iterations: int
    """How many it was to have."""
    checkpoint: Path
    """Its newest checkpoint."""
    samples: Path
    """Its newest sample grid."""
    metrics: Mapping[str, float]
    """Scores of the newest checkpoint on validation photos: ``hamming_loss``, ``rebuild_l1``; empty without photos."""

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped (Ctrl-C) before its end."""
        return self.iteration < self.iterations


def train(config: TrainConfig, *, beside: Callable[..., TrainConfig] | None = None) -> TrainResult:
    """Train a model, or continue a run, as ``config`` says.

    The first Ctrl-C (or SIGTERM) finishes the iteration, saves and returns; a second one stops at once. It sets
    PyTorch's global seed, and its number of threads where ``config.threads`` says so; on a CPU it has this process keep
    the memory that it frees.

    Args:
        config: what to train.
        beside: called with the config, and ``continued=`` whether a run goes on, when nothing is left to refuse; what
            it returns, which may differ in ``threads``, is trained. The command line looks at the machine here.

    Raises:
        InputError: an option, the data or the run folder cannot be used (before anything starts), a full disk, or a
            loss that became NaN or Inf (``TrainingDiverged``, which names the iteration, the term and the last good
            checkpoint).
    """
    config.validate()
    with ExitStack() as while_training:
        folder, held = open_run(config)
        checkpoint: Checkpoint | None = None
        if held:  # what it is of is known before pictures are prepared, which may take minutes
            while_training.enter_context(locked(folder))
            checkpoint = newest_checkpoint(folder, report=_say, fits=resumable_by(config))
        store, config = open_data(config)
        if not held:
            while_training.enter_context(locked(folder))
            # Once more: while the data were opened, another process may have trained here.
            if open_run(dataclasses.replace(config, run=folder)).held:
                checkpoint = newest_checkpoint(folder, report=_say, fits=resumable_by(config))
        if beside is not None:
            config = beside(config, continued=checkpoint is not None)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        trainer = _Trainer(config, folder, store)
        if checkpoint is not None:
            trainer.resume(checkpoint)
        if trainer.iteration >= trainer.iterations:
            already = f"{folder}: already at iteration {trainer.iteration} of {trainer.iterations}; nothing to train"
            _say(already)
            return trainer.result()
        start_run(folder, config, checkpoint.folder if checkpoint else None)
        restore_best(folder, _score, report=_say)
        return trainer.run()


class _Trainer:
    """A run in memory: everything that a checkpoint must hold, and what is done with it."""

    def __init__(self, config: TrainConfig, folder: Path, store: FaceStore) -> None:
        self.config, self.folder, self.store = config, folder, store
        self.device = resolve_device(config.device)
        if self.device.type == "cpu" and config.impl == "auto":
            keep_freed_memory()
        torch.manual_seed(config.seed)
        wing: Any = reference if config.impl == "reference" else models
        self.model: reference.IterativeGAN = wing.IterativeGAN(
            image_size=config.image_size,
            attributes=len(store.attributes),
            latent=config.latent,
            width=config.width,
            signed_labels=bool(config.signed_labels),
        ).to(self.device)
        self.step = self._make_step()
        self.ema = EMA(self.model, config.ema_decay) if config.ema_decay else None
        self.balance = config.balance_rule()
        self.loader = BatchLoader(store, store.splits["train"], config.batch_size, seed=config.seed, device=self.device)
        # Noise is drawn on the CPU, so that a run can be resumed on another device and draws the same.
        self.rng = torch.Generator().manual_seed(config.seed)
        self.iteration = 0
        self.iterations = config.iterations or math.ceil(
            (config.epochs or 50) * self.loader.examples_per_epoch / config.batch_size
        )
        self.metrics: dict[str, float] = {}
        named = config.data if config.data == "drawn" else str(Path(config.data).expanduser().resolve())
        self.data = data_fingerprint(store, named)
        self._checkpoint: Path | None = None
        self._samples: Path | None = None

    def _make_step(self) -> reference.TrainStep | step.TrainStep | GraphedStep:
        if not isinstance(self.model, models.IterativeGAN):
            return reference.TrainStep(self.model, self.config.step_config())
        plain = step.TrainStep(self.model, self.config.step_config())
        return GraphedStep(plain) if plain.recordable else plain

    def _described(self) -> str:
        """What an iteration is computed with, in a line."""
        device = str(self.device)
        if self.device.type == "cuda":
            device = torch.cuda.get_device_name(self.device)
        elif self.device.type == "cpu":
            device = f"{torch.get_num_threads()} CPU threads"
        if self.config.impl == "reference":
            return f"{device} in {self.config.precision}: plain PyTorch"
        graphs = ", CUDA graphs" if isinstance(self.step, GraphedStep) else ""
        operators = operators_on(self.device)
        return f"{device} in {self.config.precision}: fused operators, {operators}, channels last in memory{graphs}"

    @property
    def shown(self) -> reference.IterativeGAN:
        """The model to show and to score: the average where there is one."""
        return self.model if self.ema is None else self.ema.model

    def run(self) -> TrainResult:
        """Train to the last iteration, or until interrupted."""
        config = self.config
        monitor = Monitor(
            self.folder,
            total=self.iterations,
            start=self.iteration,
            batch_size=config.batch_size,
            log_every=config.log_every,
        )
        with graceful_stop() as stop, self._naming_the_last_checkpoint(), monitor:
            monitor.message(f"computing on {self._described()}")
            if config.precision == "bf16" and self.device.type == "cpu" and not has_bfloat16():
                monitor.message("this CPU has no bfloat16 instructions: --precision fp32 is faster here")
            monitor.event("start", computing_on=self._described())
            last = False
            while not last:
                self._iterate(monitor)
                # Asked once an iteration: a signal that comes after this lets the next one be the last, and be saved.
                last = self.iteration == self.iterations or stop.is_set()
                if last or self.iteration % config.sample_every == 0:
                    self._samples = monitor.picture("samples", self._draw_samples())
                if last or self.iteration % config.checkpoint_every == 0:
                    self._save(monitor)
        result = self.result()
        if result.interrupted:
            stopped = f"stopped at iteration {self.iteration} of {self.iterations}, saved in {result.checkpoint}"
            _say(stopped)
            _say(f"continue with: igan-fast train --run {shlex.quote(str(self.folder))} --resume")
        return result

    def result(self) -> TrainResult:
        assert self._checkpoint is not None, "a result is asked for before anything was trained"
        samples = self._samples or max((self.folder / "samples").glob("samples-*.png"), default=self.folder)
        return TrainResult(self.folder, self.iteration, self.iterations, self._checkpoint, samples, self.metrics)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on exactly where ``checkpoint`` was saved, which ``resumable_by`` has let pass.

        Raises:
            InputError: it is of other photos or labels, or a number in it cannot be right.
        """
        folder, state, tensors = checkpoint.folder, checkpoint.state, checkpoint.tensors
        if (trained := state["model"]["attributes"]) != list(self.store.attributes):
            raise InputError(
                f"--data {self.config.data}: its attributes are {', '.join(self.store.attributes)}, "
                f"but this run learns {', '.join(trained)}"
            )
        check_data(state.get("data"), self.data, folder)
        load_networks(checkpoint, self.model, self.step.optimizer_d, self.step.optimizer_g)
        with in_file(folder / "state.json"):
            if self.ema is not None:
                self.ema.load_state_dict({"count": state["ema_count"], "model": tensors["ema"]})
            self.balance.load_state_dict(state["balance"])
            self.loader.load_state_dict(state["loader"])
        with in_file(folder / "rng.safetensors"):
            self.rng.set_state(tensors["rng"]["noise"])
        self.iteration, self.metrics = checkpoint.iteration, state["metrics"]
        self._checkpoint = folder
        _say(f"continuing {self.folder} at iteration {self.iteration} of {self.iterations}")

    def _iterate(self, monitor: Monitor) -> None:
        images, labels = self.loader.next_images()
        if self.config.impl == "reference":
            images = images.contiguous()
        losses = self.step(images, labels, self._noise())
        self.balance.update(losses.d_adversarial, losses.g_adversarial)
        extra = self.balance.extra_updates()  # from the iterations before this one: nothing here waits for the device
        for _ in range(extra.discriminator):
            self.step.extra_discriminator(images, labels, self._noise())
        for _ in range(extra.generator):
            self.step.extra_generator(labels, self._noise())
        if self.ema is not None:
            self.ema.update()
        self.iteration += 1
        counts = {"extra_d_updates": extra.discriminator, "extra_g_updates": extra.generator}
        monitor.record(self.iteration, losses, counts)

    def _noise(self) -> Tensor:
        """z ~ U(−1, 1), (batch, latent)."""
        shape = (self.config.batch_size, self.config.latent)
        # In pinned memory, and changed in place there: the host would wait for a copy out of any other.
        drawn = torch.rand(shape, generator=self.rng, pin_memory=self.device.type == "cuda")
        return drawn.mul_(2).sub_(1).to(self.device, non_blocking=True)

    def _save(self, monitor: Monitor) -> None:
        """Score, write, rank and prune. The losses so far are checked first: no checkpoint follows a NaN."""
        monitor.flush()
        self.metrics = self._validate()
        named = self._named_parameters()
        tensors: dict[str, Mapping[str, Tensor]] = {
            "model": self.model.state_dict(),
            "optimizer_d": optimizer_to_tensors(self.step.optimizer_d, named),
            "optimizer_g": optimizer_to_tensors(self.step.optimizer_g, named),
            "rng": {"noise": self.rng.get_state()},
        }
        if self.ema is not None:
            tensors["ema"] = self.ema.model.state_dict()
        self._checkpoint = save_checkpoint(self.folder, self.iteration, tensors, self._state())
        monitor.event("checkpoint", iteration=self.iteration, **self.metrics)
        if self.metrics:
            score = _score(self.metrics)
            best = best_checkpoint(self.folder)
            if best is None or score < best.score:
                mark_best(self.folder, self.iteration, score)
            told = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
            monitor.message(f"iteration {self.iteration}: validation {told}")
        prune_checkpoints(self.folder, self.config.keep)

    def _state(self) -> dict[str, Any]:
        some = self.store.labels[spread(self.store.splits["train"], LABEL_SAMPLES)]
        return {
            "model": {
                "arguments": self.model.arguments(),
                "attributes": list(self.store.attributes),
                "label_samples": ["".join(map(str, row)) for row in some.tolist()],
            },
            "config": self.config.to_json(),
            "data": self.data,
            "loader": self.loader.state_dict(),
            "balance": self.balance.state_dict(),
            "ema_count": 0 if self.ema is None else self.ema.count,
            "metrics": self.metrics,
        }

    def _validate(self) -> dict[str, float]:
        rows = spread(self.store.splits["val"], self.config.validation_images)
        if not len(rows):
            return {}
        images = torch.from_numpy(self.store.images[rows]).to(self.device)
        labels = torch.from_numpy(self.store.labels[rows]).to(self.device)
        scores = quick_validation(self.shown, images, labels)
        # The losses were finite, but the last update may not have been.
        if broken := {f"validation/{name}": value for name, value in scores.items() if not math.isfinite(value)}:
            raise TrainingDiverged(self.iteration, broken)
        return scores

    def _draw_samples(self) -> Image.Image:
        return draw_samples(
            self.shown,
            self.store,
            flipped=self.config.sample_attributes or (),
            seed=self.config.seed,  # the same noise in every grid of a run
            device=self.device,
        )

    def _named_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        return list(self.model.named_parameters())

    @contextmanager
    def _naming_the_last_checkpoint(self) -> Iterator[None]:
        """Add to the report of a divergence what only the loop knows: where the last good state lies."""
        try:
            yield
        except TrainingDiverged as error:
            raise TrainingDiverged(error.iteration, error.values, self._checkpoint) from None


def _score(metrics: Mapping[str, float]) -> float:
    """Lower is better. Both are mean absolute errors of comparable size; the sum wants a model that does both jobs."""
    return metrics["rebuild_l1"] + metrics["hamming_loss"]


def _say(line: str) -> None:
    print(printable(line))

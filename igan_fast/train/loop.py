"""The training loop: batches, iterations, balance, average, and at set intervals samples, scores and checkpoints."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from igan_fast.data.loader import BatchLoader, to_float, to_uint8
from igan_fast.data.store import FaceStore
from igan_fast.metrics import quick_validation
from igan_fast.reference import IterativeGAN, TrainStep
from igan_fast.train.balance import Balance
from igan_fast.train.checkpoint import (
    Checkpoint,
    best_checkpoint,
    load_optimizer_tensors,
    mark_best,
    optimizer_to_tensors,
    prune_checkpoints,
    save_checkpoint,
)
from igan_fast.train.config import TrainConfig
from igan_fast.train.diverged import TrainingDiverged
from igan_fast.train.ema import EMA
from igan_fast.train.grids import sample_grid
from igan_fast.train.monitor import Monitor
from igan_fast.train.run import open_data, open_run, start_run

__all__ = ["TrainResult", "train"]

#: Faces in a row of the sample grid.
SAMPLE_COLUMNS = 10
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


def train(config: TrainConfig) -> TrainResult:
    """Train a model, or continue a run, as ``config`` says.

    The first Ctrl-C (or SIGTERM) finishes the iteration, saves and returns; a second one stops at once.

    Raises:
        InputError: an option, the data or the run folder cannot be used (before anything starts), a full disk, or a
            loss that became NaN or Inf (``TrainingDiverged``, which names the iteration, the term and the last good
            checkpoint).
    """
    config.validate()
    run = open_run(config, report=lambda line: print(line))
    store, config = open_data(config, run.saved)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    trainer = _Trainer(config, run.folder, store)
    if run.checkpoint is not None:
        trainer.resume(run.checkpoint)
    if trainer.iteration >= trainer.iterations:
        print(f"{run.folder}: already at iteration {trainer.iteration} of {trainer.iterations}; nothing to train")
        return trainer.result()
    start_run(run.folder, config)
    return trainer.run()


class _Trainer:
    """A run in memory: everything that a checkpoint must hold, and what is done with it."""

    def __init__(self, config: TrainConfig, folder: Path, store: FaceStore) -> None:
        self.config, self.folder, self.store = config, folder, store
        self.device = torch.device(_device(config))
        torch.manual_seed(config.seed)
        self.model = IterativeGAN(
            image_size=config.image_size,
            attributes=len(store.attributes),
            latent=config.latent,
            width=config.width,
            signed_labels=bool(config.signed_labels),
        ).to(self.device)
        self.step = TrainStep(self.model, config.step_config())
        self.ema = EMA(self.model, config.ema_decay) if config.ema_decay else None
        self.balance = Balance(config.balance_ratio, config.max_extra_updates if config.balance else 0)
        self.loader = BatchLoader(store, store.splits["train"], config.batch_size, seed=config.seed, device=self.device)
        # Noise is drawn on the CPU, so that a run can be resumed on another device and draws the same.
        self.rng = torch.Generator().manual_seed(config.seed)
        self.iteration = 0
        self.iterations = config.iterations or math.ceil(
            (config.epochs or 50) * self.loader.examples_per_epoch / config.batch_size
        )
        self.metrics: dict[str, float] = {}
        self._checkpoint: Path | None = None
        self._samples: Path | None = None

    @property
    def shown(self) -> IterativeGAN:
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
        with _graceful_stop() as stop, self._naming_the_last_checkpoint(), monitor:
            while self.iteration < self.iterations and not stop.is_set():
                self._iterate(monitor)
                last = self.iteration == self.iterations or stop.is_set()
                if last or self.iteration % config.sample_every == 0:
                    self._samples = monitor.picture("samples", self._grid())
                if last or self.iteration % config.checkpoint_every == 0:
                    self._save(monitor)
        result = self.result()
        if result.interrupted:
            print(f"stopped at iteration {self.iteration} of {self.iterations}, saved in {result.checkpoint}")
            print(f"continue with: igan-fast train --run {self.folder} --resume")
        return result

    def result(self) -> TrainResult:
        assert self._checkpoint is not None, "a result is asked for before anything was trained"
        samples = self._samples or max((self.folder / "samples").glob("samples-*.png"), default=self.folder)
        return TrainResult(self.folder, self.iteration, self.iterations, self._checkpoint, samples, self.metrics)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on exactly where ``checkpoint`` was saved."""
        state, tensors = checkpoint.state, checkpoint.tensors
        self.model.load_state_dict(tensors["model"])
        load_optimizer_tensors(self.step.optimizer_d, self._named_parameters(), tensors["optimizer_d"])
        load_optimizer_tensors(self.step.optimizer_g, self._named_parameters(), tensors["optimizer_g"])
        if self.ema is not None:
            self.ema.load_state_dict({"count": state["ema_count"], "model": tensors["ema"]})
        self.balance.load_state_dict(state["balance"])
        self.loader.load_state_dict(state["loader"])
        self.rng.set_state(tensors["rng"]["noise"])
        self.iteration, self.metrics = checkpoint.iteration, state["metrics"]
        self._checkpoint = checkpoint.folder
        print(f"continuing {self.folder} at iteration {self.iteration} of {self.iterations}")

    def _iterate(self, monitor: Monitor) -> None:
        batch = self.loader.next()
        images, labels = to_float(batch.images).contiguous(), batch.labels
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
        return (torch.rand(shape, generator=self.rng) * 2 - 1).to(self.device, non_blocking=True)

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
            # Both are mean absolute errors of comparable size; the sum wants a model that does both jobs.
            score = self.metrics["rebuild_l1"] + self.metrics["hamming_loss"]
            best = best_checkpoint(self.folder)
            if best is None or score < best.score:
                mark_best(self.folder, self.iteration, score)
            told = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
            monitor.message(f"iteration {self.iteration}: validation {told}")
        prune_checkpoints(self.folder, self.config.keep)

    def _state(self) -> dict[str, Any]:
        labels = self.store.labels[self.store.splits["train"]]
        some = labels[np.linspace(0, len(labels) - 1, min(LABEL_SAMPLES, len(labels))).astype(np.int64)]
        return {
            "model": {
                "arguments": self.model.arguments(),
                "attributes": list(self.store.attributes),
                "label_samples": ["".join(map(str, row)) for row in some.tolist()],
            },
            "config": self.config.to_json(),
            "loader": self.loader.state_dict(),
            "balance": self.balance.state_dict(),
            "ema_count": 0 if self.ema is None else self.ema.count,
            "metrics": self.metrics,
        }

    def _validate(self) -> dict[str, float]:
        rows = self._held_out(self.config.validation_images)
        if not len(rows):
            return {}
        images = torch.from_numpy(self.store.images[rows]).to(self.device)
        labels = torch.from_numpy(self.store.labels[rows]).to(self.device)
        return quick_validation(self.shown, images, labels)

    @torch.no_grad()
    def _grid(self) -> Any:
        """Faces, their rebuilds, four attributes reversed, and faces from noise (the paper's Fig. 7 and 8)."""
        config, names = self.config, self.store.attributes
        reversed_names = config.sample_attributes or ()
        rows = self._held_out(SAMPLE_COLUMNS)
        if not len(rows):
            rows = self.store.splits["train"][:SAMPLE_COLUMNS]
        pictures = self.store.images[rows]
        labels = torch.from_numpy(self.store.labels[rows]).to(self.device, torch.float32)
        images = to_float(torch.from_numpy(pictures).to(self.device)).contiguous()
        fixed = torch.Generator().manual_seed(config.seed)  # the same faces in every grid of a run
        noise = (torch.rand(len(rows), config.latent, generator=fixed) * 2 - 1).to(self.device)
        model = self.shown
        was_training = model.training
        model.eval()
        try:
            flipped = {name: model.transform(images, {names.index(name): "flip"}) for name in reversed_names}
            generated = {"labels of the column": model.generate(noise, labels)}
            for name in reversed_names[:1]:
                for value in (0, 1):
                    asked = labels.clone()
                    asked[:, names.index(name)] = value
                    generated[f"{name}={value}"] = model.generate(noise, asked)
            rebuilt = model.rebuild(images)
        finally:
            model.train(was_training)

        def shown(images: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
            array: np.ndarray[Any, np.dtype[np.uint8]] = to_uint8(images).cpu().numpy()
            return array

        return sample_grid(
            pictures,
            shown(rebuilt),
            {name: shown(images) for name, images in flipped.items()},
            {name: shown(images) for name, images in generated.items()},
        )

    def _held_out(self, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Up to ``count`` validation rows, spread evenly over the split, the same at every call."""
        rows = self.store.splits["val"]
        if len(rows) <= count:
            return rows
        return rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]

    def _named_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        return list(self.model.named_parameters())

    @contextmanager
    def _naming_the_last_checkpoint(self) -> Iterator[None]:
        """Add to the report of a divergence what only the loop knows: where the last good state lies."""
        try:
            yield
        except TrainingDiverged as error:
            raise TrainingDiverged(error.iteration, error.values, self._checkpoint) from None


def _device(config: TrainConfig) -> str:
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.device


@contextmanager
def _graceful_stop() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; a second one acts as it usually does."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread only
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, frame: object) -> None:
        stop.set()
        for known, handler in before.items():
            signal.signal(known, handler)

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

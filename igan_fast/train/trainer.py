"""A training run in memory: the networks, their optimisers and averages, the data and the random numbers."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from igan_fast import models, reference, step
from igan_fast.checkpoint.additions import options_missing
from igan_fast.checkpoint.find import best_checkpoint
from igan_fast.checkpoint.folder import Checkpoint
from igan_fast.checkpoint.labels import LABELS, companions_of_counts, counted_labels
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
from igan_fast.train.random_inputs import RandomInputs
from igan_fast.train.resume import check_data, data_fingerprint, in_file, load_networks
from igan_fast.train.retention import checkpoint_score, mark_best, prune_checkpoints
from igan_fast.train.samples import draw_samples
from igan_fast.train.save import save_checkpoint
from igan_fast.train.signals import graceful_stop

__all__ = ["TrainResult", "Trainer"]

#: Number of label rows in a checkpoint. With them, faces are generated with attributes that fit together.
LABEL_SAMPLES = 256


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


class Trainer:
    """Holds everything that a checkpoint must contain, and runs the iterations that change it.

    Args:
        config: the checked config of the run.
        folder: the run's folder.
        store: the images to train on.
    """

    def __init__(self, config: TrainConfig, folder: Path, store: FaceStore) -> None:
        self.config, self.folder, self.store = config, folder, store
        self.device = resolve_device(config.device)
        if self.device.type == "cpu" and config.impl == "auto":
            keep_freed_memory()
        torch.manual_seed(config.seed)
        networks: Any = reference if config.impl == "reference" else models
        self.model: reference.IterativeGAN = networks.IterativeGAN(
            image_size=config.image_size,
            attributes=len(store.attributes),
            latent=config.latent,
            width=config.width,
            signed_labels=bool(config.signed_labels),
            film=bool(config.film),
        ).to(self.device)
        self.step = self._make_step()
        self.ema = EMA(self.model, config.ema_decay) if config.ema_decay else None
        self.balance = config.balance_rule()
        self.loader = BatchLoader(store, store.splits["train"], config.batch_size, seed=config.seed, device=self.device)
        self.random = RandomInputs(config, len(store.attributes), self.device)
        self.iteration = 0
        self.iterations = config.iterations or math.ceil(
            (config.epochs or 50) * self.loader.examples_per_epoch / config.batch_size
        )
        self.metrics: dict[str, float] = {}
        named = config.data if config.data == "drawn" else str(Path(config.data).expanduser().resolve())
        self.data = data_fingerprint(store, named)
        self.label_counts = counted_labels(torch.from_numpy(store.labels[store.splits["train"]]))
        self._checkpoint: Path | None = None
        self._samples: Path | None = None

    def _make_step(self) -> reference.TrainStep | step.TrainStep | GraphedStep:
        if not isinstance(self.model, models.IterativeGAN):
            return reference.TrainStep(self.model, self.config.step_config())
        plain = step.TrainStep(self.model, self.config.step_config())
        return GraphedStep(plain) if plain.recordable else plain

    def _described(self) -> str:
        """Describe in one line the device, the precision and the implementation of an iteration."""
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
    def evaluated_model(self) -> reference.IterativeGAN:
        """The model that is sampled and scored: the average if there is one, otherwise the trained model."""
        return self.model if self.ema is None else self.ema.model

    def run(self) -> TrainResult:
        """Train to the last iteration, or until Ctrl-C, and save."""
        config = self.config
        monitor = Monitor(
            self.folder,
            total=self.iterations,
            start=self.iteration,
            batch_size=config.batch_size,
            log_every=config.log_every,
        )
        with graceful_stop() as stop, self._adding_the_last_checkpoint(), monitor:
            monitor.message(f"computing on {self._described()}")
            if config.precision == "bf16" and self.device.type == "cpu" and not has_bfloat16():
                monitor.message("this CPU has no bfloat16 instructions: --precision fp32 is faster here")
            monitor.event("start", computing_on=self._described())
            last = False
            while not last:
                self._iterate(monitor)
                # Read once per iteration. If a signal comes later, the next iteration is the last one.
                last = self.iteration == self.iterations or stop.is_set()
                if last or self.iteration % config.sample_every == 0:
                    self._samples = monitor.image("samples", self._draw_samples())
                if last or self.iteration % config.checkpoint_every == 0:
                    self._save(monitor)
        result = self.result()
        if result.interrupted:
            stopped = f"stopped at iteration {self.iteration} of {self.iterations}, saved in {result.checkpoint}"
            print(printable(stopped))
            print(printable(f"continue with: igan-fast train --run {shlex.quote(str(self.folder))} --resume"))
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
        folder, state, tensors = checkpoint.folder, checkpoint.state, checkpoint.tensors
        if (trained := state["model"]["attributes"]) != list(self.store.attributes):
            raise InputError(
                f"--data {self.config.data}: its attributes are {', '.join(self.store.attributes)}, "
                f"but this run learns {', '.join(trained)}"
            )
        check_data(state.get("data"), self.data, folder)
        load_networks(checkpoint, self.model, self.step)
        with in_file(folder / "state.json"):
            if self.ema is not None:
                self.ema.load_state_dict({"count": state["ema_count"], "model": tensors["ema"]})
            self.balance.load_state_dict(state["balance"])
            self.loader.load_state_dict(state["loader"])
        with in_file(folder / "rng.safetensors"):
            self.random.generator.set_state(tensors["rng"]["noise"])
        self.iteration, self.metrics = checkpoint.iteration, state["metrics"]
        self.step.iteration = self.iteration
        self._checkpoint = folder
        print(printable(f"continuing {self.folder} at iteration {self.iteration} of {self.iterations}"))
        if missing := options_missing(state["config"]):
            print(f"an older version started this run: it goes on without {', '.join(missing)}")

    def _iterate(self, monitor: Monitor) -> None:
        """Train one iteration, with its extra updates, and record its losses."""
        images, labels = self.loader.next_images()
        if self.config.impl == "reference":
            images = images.contiguous()
        losses = self.step(images, labels, self.random.noise(), self.random.flips())
        self.balance.update(losses.d_adversarial, losses.g_adversarial)
        extra = self.balance.extra_updates()  # depends on earlier iterations only, so nothing waits for the device
        for _ in range(extra.discriminator):
            self.step.extra_discriminator(images, labels, self.random.noise(), self.random.flips())
        for _ in range(extra.generator):
            self.step.extra_generator(labels, self.random.noise(), self.random.flips())
        if self.ema is not None:
            self.ema.update()
        self.iteration += 1
        counts = {"extra_d_updates": extra.discriminator, "extra_g_updates": extra.generator}
        monitor.record(self.iteration, losses, counts)

    def _save(self, monitor: Monitor) -> None:
        """Score the model, save a checkpoint, rank it and remove old ones. The losses so far are checked first, so that
        no checkpoint is saved after a NaN."""
        monitor.flush()
        self.metrics = self._validate()
        named = self._named_parameters()
        tensors: dict[str, Mapping[str, Tensor]] = {
            "model": self.model.state_dict(),
            **{name: optimizer_to_tensors(each, named) for name, each in self.step.optimizers.items()},
            "rng": {"noise": self.random.generator.get_state()},
            LABELS: self.label_counts,
        }
        if (edited := self.step.edited).z is not None and edited.labels is not None:
            tensors["edited"] = {"z": edited.z, "labels": edited.labels}
        if self.ema is not None:
            tensors["ema"] = self.ema.model.state_dict()
        self._checkpoint = save_checkpoint(self.folder, self.iteration, tensors, self._state())
        monitor.event("checkpoint", iteration=self.iteration, **self.metrics)
        if self.metrics:
            score = checkpoint_score(self.metrics)
            best = best_checkpoint(self.folder)
            if best is None or score < best.score:
                mark_best(self.folder, self.iteration, score)
            scores = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
            monitor.message(f"iteration {self.iteration}: validation {scores}")
        prune_checkpoints(self.folder, self.config.keep)

    def _state(self) -> dict[str, Any]:
        """Return the part of a checkpoint's state that is not tensors."""
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
        """Score the model on validation photos. Without validation photos there are no scores."""
        rows = spread(self.store.splits["val"], self.config.validation_images)
        if not len(rows):
            return {}
        images = torch.from_numpy(self.store.images[rows]).to(self.device)
        labels = torch.from_numpy(self.store.labels[rows]).to(self.device)
        scores = quick_validation(self.evaluated_model, images, labels)
        # The losses were finite, but the weights may not be after the last update.
        if broken := {f"validation/{name}": value for name, value in scores.items() if not math.isfinite(value)}:
            raise TrainingDiverged(self.iteration, broken)
        return scores

    def _draw_samples(self) -> Image.Image:
        return draw_samples(
            self.evaluated_model,
            self.store,
            flipped=self.config.sample_attributes or (),
            companions=companions_of_counts(self.label_counts),
            seed=self.config.seed,  # the same noise in every grid of a run
            device=self.device,
        )

    def _named_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        return list(self.model.named_parameters())

    @contextmanager
    def _adding_the_last_checkpoint(self) -> Iterator[None]:
        """Add the last good checkpoint to the message of a ``TrainingDiverged``."""
        try:
            yield
        except TrainingDiverged as error:
            raise TrainingDiverged(error.iteration, error.values, self._checkpoint) from None

"""The Iterative GAN as the training loop sees it: model, step, average, balance rule, data and random numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from igan_fast import models, reference, step
from igan_fast.checkpoint.description import ModelDescription, check_statistics, described_model
from igan_fast.checkpoint.folder import Checkpoint
from igan_fast.checkpoint.labels import LABELS, companions_of_counts, counted_labels, counts_specs
from igan_fast.checkpoint.tensor_specs import Spec, Specs, check_specs, specs_of
from igan_fast.data.loader import BatchLoader
from igan_fast.data.store import FaceStore, spread
from igan_fast.distributed.agreement import copy_to_all
from igan_fast.distributed.gradients import gathered
from igan_fast.distributed.process import Process
from igan_fast.distributed.step import PartedStep
from igan_fast.distributed.watch import ReplayWatch
from igan_fast.errors import InputError
from igan_fast.files import FileDamaged
from igan_fast.graphs import GraphedStep
from igan_fast.json_files import Natural, check_json
from igan_fast.metrics import validation_sums
from igan_fast.train.config import TrainConfig
from igan_fast.train.ema import EMA
from igan_fast.train.method import Losses, Method, adam_specs
from igan_fast.train.random_inputs import RandomInputs
from igan_fast.train.resume import check_groups, in_file, load_networks
from igan_fast.train.samples import draw_samples

__all__ = ["IterativeGANMethod"]

#: Number of label rows in a checkpoint. With them, faces are generated with attributes that fit together.
LABEL_SAMPLES = 256

_STATE = {
    "loader": {"seed": Natural, "position": Natural, "count": Natural},
    "balance": {"d_sum": float, "g_sum": float, "weight": float, "pending": ([float], None)},
    "ema_count": Natural,
}


class IterativeGANMethod(Method[TrainConfig]):
    """The paper's model with its step. See ``Method``.

    Attributes:
        model: the networks that are trained.
        step: the training step, on the fused operators or of the reference; on a GPU it replays CUDA graphs, unless the
            batch is computed in parts.
        ema: the average of the weights; None without one.
    """

    def __init__(
        self,
        config: TrainConfig,
        store: FaceStore,
        device: torch.device,
        process: Process = Process(),  # noqa: B008
    ) -> None:
        self.config, self.store, self.device, self.process = config, store, device, process
        self.plan = config.batch_plan(process)
        self._watch: ReplayWatch | None = None
        networks: Any = reference if config.impl == "reference" else models
        self.model: reference.IterativeGAN = networks.IterativeGAN(
            image_size=config.image_size,
            attributes=len(store.attributes),
            latent=config.latent,
            width=config.width,
            signed_labels=bool(config.signed_labels),
            film=bool(config.film),
        ).to(device)
        copy_to_all(self.model, process)  # the random numbers of two kinds of machines may differ
        self.networks = self.model
        self.step = self._make_step()
        self.ema = EMA(self.model, config.ema_decay) if config.ema_decay else None
        self.balance = config.balance_rule()
        self.loader = BatchLoader(
            store, store.splits["train"], config.batch_size, seed=config.seed, device=device, part=self.plan.rows
        )
        self.random = RandomInputs(config, len(store.attributes), device)
        self.batch_size = config.batch_size
        self.iterations = config.iterations or math.ceil(
            (config.epochs or 50) * self.loader.examples_per_epoch / config.batch_size
        )
        self.label_counts = counted_labels(torch.from_numpy(store.labels[store.splits["train"]]))

    def _make_step(self) -> reference.TrainStep | step.TrainStep | GraphedStep:
        if not isinstance(self.model, models.IterativeGAN):
            return reference.TrainStep(self.model, self.config.step_config())
        step_config = self.config.step_config()
        plain = (
            step.TrainStep(self.model, step_config)
            if self.plan.is_whole
            else PartedStep(self.model, step_config, self.plan)
        )
        if not plain.recordable:
            return plain
        if not self.process.is_alone:
            self._watch = ReplayWatch(self.process, self.config.process_timeout)
        return GraphedStep(plain, self._watch)

    def close(self) -> None:
        if isinstance(self.step, GraphedStep):
            self.step.close()
        if self._watch is not None:
            self._watch.close()

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        return self.step.optimizers

    @property
    def evaluated_model(self) -> reference.IterativeGAN:
        """The model that is sampled and scored: the average if there is one, otherwise the trained model."""
        return self.model if self.ema is None else self.ema.model

    @property
    def shown(self) -> Sequence[str]:
        return ("d_adversarial", "g_adversarial", "d_label_real", "g_label", "g_perceptual", "g_pixel")

    @property
    def period(self) -> int:
        return self.config.r1_every if self.config.r1 else 1

    @property
    def graphed(self) -> bool:
        return isinstance(self.step, GraphedStep)

    def iterate(self) -> Losses:
        """Train one iteration, with its extra updates."""
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
        return Losses(losses._asdict(), {"extra_d_updates": extra.discriminator, "extra_g_updates": extra.generator})

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """The random numbers, the counts of the labels, the codes of the last batch, and the average."""
        tensors: dict[str, Mapping[str, Tensor]] = {
            "rng": {"noise": self.random.generator.get_state()},
            LABELS: self.label_counts,
        }
        if (edited := self.step.edited).z is not None and edited.labels is not None:
            tensors["edited"] = {"z": edited.z, "labels": edited.labels}
        if self.ema is not None:
            tensors["ema"] = self.ema.model.state_dict()
        return tensors

    def state(self) -> dict[str, Any]:
        some = self.store.labels[spread(self.store.splits["train"], LABEL_SAMPLES)]
        return {
            "model": {
                "arguments": self.model.arguments(),
                "attributes": list(self.store.attributes),
                "label_samples": ["".join(map(str, row)) for row in some.tolist()],
            },
            "loader": self.loader.state_dict(),
            "balance": self.balance.state_dict(),
            "ema_count": 0 if self.ema is None else self.ema.count,
        }

    @classmethod
    def described(cls, folder: Path, state: dict[str, Any]) -> ModelDescription:
        return described_model(folder, state)

    def start_from(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Start the trained model from the other run's model, and the average from its average.

        Training goes on from weights that were trained together; averages of G, D and C were not. The average shows at
        first what the other run's samples showed. Its count starts at 0, so that it soon follows the new run: the
        random weights of new attributes are not worth keeping.
        """
        super().start_from(groups)
        if self.ema is not None:
            self.ema.model.load_state_dict(groups.get("ema", groups["model"]))

    @classmethod
    def check_checkpoint(
        cls, config: TrainConfig, folder: Path, state: dict[str, Any], groups: Mapping[str, Specs]
    ) -> None:
        where = folder / "state.json"
        check_json(state, _STATE, where)
        described = described_model(folder, state)
        for name, value in described.arguments.items():
            if name != "attributes" and value != getattr(config, name):
                raise FileDamaged(f"{where}: its model has {name} {value}, its config {getattr(config, name)}")
        check_groups(groups, _expected_groups(described.on_meta(), config), folder)
        if LABELS in groups:  # older versions did not save it; it is counted anew at each start
            check_specs(groups[LABELS], counts_specs(len(described.attributes)), folder / f"{LABELS}.safetensors")

    def load(self, checkpoint: Checkpoint) -> None:
        folder, state, tensors = checkpoint.folder, checkpoint.state, checkpoint.tensors
        for group in {"model", "ema"} & tensors.keys():
            check_statistics(tensors[group], folder / f"{group}.safetensors")
        load_networks(checkpoint, self.model, self.step.optimizers)
        self._load_codes(checkpoint)
        with in_file(folder / "state.json"):
            if self.ema is not None:
                self.ema.load_state_dict({"count": state["ema_count"], "model": tensors["ema"]})
            self.balance.load_state_dict(state["balance"])
            self.loader.load_state_dict(state["loader"])
        with in_file(folder / "rng.safetensors"):
            self.random.generator.set_state(tensors["rng"]["noise"])
        self.step.iteration = checkpoint.iteration

    def _load_codes(self, checkpoint: Checkpoint) -> None:
        """Load the codes of the last batch, from which edited rebuilds are made."""
        if not self.step.edited.share:
            return
        z, labels = (checkpoint.tensors["edited"][name] for name in ("z", "labels"))
        if bool((z.abs() > 1).any()) or bool(((labels != 0) & (labels != 1)).any()):
            raise InputError(
                f"{checkpoint.folder / 'edited.safetensors'}: holds codes beyond −1 and 1, or labels other than 0 and 1"
            )
        self.step.edited.keep(z.to(self.device), labels.to(self.device))

    def scores(self) -> dict[str, float]:
        rows = spread(self.store.splits["val"], self.config.validation_images)
        if not len(rows):
            return {}
        rank, world = self.process.rank, self.process.world_size
        own = rows[rank * len(rows) // world : (rank + 1) * len(rows) // world]
        images = torch.from_numpy(self.store.images[own]).to(self.device)
        labels = torch.from_numpy(self.store.labels[own]).to(self.device)
        sums = gathered(validation_sums(self.evaluated_model, images, labels).unsqueeze(0), self.process).sum(0)
        wrong, distance = sums.tolist()
        count = len(rows)
        return {
            "hamming_loss": wrong / (count * len(self.store.attributes)),
            "rebuild_l1": distance / (count * self.store.images[0].size),
        }

    def samples(self) -> Image.Image:
        return draw_samples(
            self.evaluated_model,
            self.store,
            flipped=self.config.sample_attributes or (),
            companions=companions_of_counts(self.label_counts),
            seed=self.config.seed,  # the same noise in every grid of a run
            device=self.device,
        )


def _expected_groups(model: models.IterativeGAN, config: TrainConfig) -> dict[str, Specs]:
    """The types and shapes of all tensors of a checkpoint, by group."""
    weights = specs_of(model.state_dict())
    d_and_c = {"discriminator": model.discriminator, "classifier": model.classifier}
    trained = {
        "optimizer_d": {
            name: parameter for part, module in d_and_c.items() for name, parameter in module.named_parameters(part)
        },
        "optimizer_g": dict(model.generator.named_parameters("generator")),
    }
    if config.latent_lr_scale:
        trained["optimizer_z"] = dict(model.classifier.latent.named_parameters("classifier.latent"))
    groups = {
        "model": weights,
        "rng": specs_of({"noise": torch.Generator().get_state()}),
        **{name: adam_specs(parameters) for name, parameters in trained.items()},
    }
    if config.ema_decay:
        groups["ema"] = weights
    if config.edited_share:
        arguments, rows = model.arguments(), config.batch_size
        sizes = {"z": arguments["latent"], "labels": arguments["attributes"]}
        groups["edited"] = {name: Spec(torch.float32, (rows, size)) for name, size in sizes.items()}
    return groups

"""A baseline as the training loop sees it: networks, step, streams of batches and random numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from igan_fast import fuse, losses
from igan_fast.baselines.config import BaselineConfig
from igan_fast.baselines.interface import BaselineNetworks, LabelledImages
from igan_fast.baselines.load import BaselineDescription, described_baseline
from igan_fast.baselines.registry import baseline
from igan_fast.baselines.samples import draw_samples
from igan_fast.checkpoint.folder import Checkpoint
from igan_fast.checkpoint.tensor_specs import Specs, specs_of
from igan_fast.data.loader import BatchLoader
from igan_fast.data.store import FaceStore
from igan_fast.distributed.process import Process
from igan_fast.errors import InputError
from igan_fast.files import FileDamaged
from igan_fast.json_files import Natural, check_json
from igan_fast.reference import losses as plain_losses
from igan_fast.reference.precision import tf32_mode
from igan_fast.train.method import Described, Losses, Method, adam_specs
from igan_fast.train.resume import check_groups, in_file, load_networks

__all__ = ["BaselineMethod"]

_STATE = {"loaders": [{"seed": Natural, "position": Natural, "count": Natural}]}


class BaselineMethod(Method[BaselineConfig]):
    """The networks of a baseline, with the step of its authors. See ``Method``.

    With ``impl="auto"`` the networks run on the fused operators: ``fuse`` is called on them, and the losses are those
    of ``igan_fast.losses``.
    """

    networks: BaselineNetworks

    def __init__(
        self,
        config: BaselineConfig,
        store: FaceStore,
        device: torch.device,
        process: Process = Process(),  # noqa: B008
    ) -> None:
        self.config, self.store, self.device = config, store, device
        parts = baseline(config.method)
        self.batch_size = config.photos_per_iteration
        rows = store.splits["train"]
        self.loaders = [
            BatchLoader(store, rows[domain], self.batch_size, seed=config.seed, device=device)
            for domain in parts.step.domains(store.labels[rows])
        ]
        per_epoch = max(loader.examples_per_epoch for loader in self.loaders)
        self.iterations = config.iterations or math.ceil((config.epochs or 50) * per_epoch / self.batch_size)
        self.arguments = {
            "image_size": config.image_size,
            "attributes": len(store.attributes),
            "width": config.width,
        }
        self.networks = parts.networks(**self.arguments).to(device)
        fused = config.impl == "auto"
        if fused:
            fuse(self.networks)
        self.step = parts.step(self.networks, iterations=self.iterations, losses=losses if fused else plain_losses)
        self.random = torch.Generator().manual_seed(config.seed)

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        return self.step.optimizers

    @property
    def shown(self) -> Sequence[str]:
        return self.step.SHOWN

    @property
    def period(self) -> int:
        return self.step.PERIOD

    def iterate(self) -> Losses:
        batches = [LabelledImages(*loader.next_images()) for loader in self.loaders]
        if self.config.impl == "reference":
            batches = [LabelledImages(images.contiguous(), labels) for images, labels in batches]
        with tf32_mode(self.config.precision, self.device):
            return Losses(self.step(batches, self.random), {})

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        tensors: dict[str, Mapping[str, Tensor]] = {"rng": {"step": self.random.get_state()}}
        if more := self.step.tensors():
            tensors["step"] = more
        return tensors

    def state(self) -> dict[str, Any]:
        return {
            "model": {
                "method": self.config.method,
                "arguments": self.arguments,
                "attributes": list(self.store.attributes),
            },
            "loaders": [loader.state_dict() for loader in self.loaders],
        }

    @classmethod
    def described(cls, folder: Path, state: dict[str, Any]) -> BaselineDescription:
        return described_baseline(folder, state)

    @classmethod
    def check_initial(cls, config: BaselineConfig, found: Described, folder: Path) -> None:
        if isinstance(found, BaselineDescription) and found.method != config.method:
            raise InputError(f"{folder}: holds the networks of {found.method}, expected those of {config.method}")
        if config.method == "cyclegan" and found.attributes != config.attributes:
            raise InputError(
                f"{folder}: its networks edit {', '.join(found.attributes)}, expected {', '.join(config.attributes)}: "
                "all weights of a CycleGAN belong to its attribute"
            )

    @classmethod
    def check_checkpoint(
        cls, config: BaselineConfig, folder: Path, state: dict[str, Any], groups: Mapping[str, Specs]
    ) -> None:
        where = folder / "state.json"
        check_json(state, _STATE, where)
        described = described_baseline(folder, state)
        if described.method != config.method:
            raise FileDamaged(f"{where}: its networks are those of {described.method}, its config's {config.method}")
        for name in ("image_size", "width"):
            if described.arguments[name] != getattr(config, name):
                found = described.arguments[name]
                raise FileDamaged(f"{where}: its networks have {name} {found}, its config {getattr(config, name)}")
        networks = described.on_meta()
        step = baseline(config.method).step(networks, iterations=1)
        names = {id(parameter): name for name, parameter in networks.named_parameters()}
        expected = {
            "model": specs_of(networks.state_dict()),
            "rng": specs_of({"step": torch.Generator().get_state()}),
            **{
                name: adam_specs({names[id(each)]: each for group in adam.param_groups for each in group["params"]})
                for name, adam in step.optimizers.items()
            },
        }
        if more := step.tensors():
            expected["step"] = specs_of(more)
        check_groups(groups, expected, folder)

    def load(self, checkpoint: Checkpoint) -> None:
        folder, tensors = checkpoint.folder, checkpoint.tensors
        load_networks(checkpoint, self.networks, self.optimizers)
        saved = checkpoint.state["loaders"]
        if len(saved) != len(self.loaders):
            raise InputError(
                f"{folder / 'state.json'}: damaged: found {len(saved)} loaders, expected {len(self.loaders)}"
            )
        with in_file(folder / "state.json"):
            for loader, position in zip(self.loaders, saved, strict=True):
                loader.load_state_dict(position)
        with in_file(folder / "rng.safetensors"):
            self.random.set_state(tensors["rng"]["step"])
        try:
            self.step.load_tensors(tensors.get("step", {}))
        except ValueError as error:
            raise InputError(f"{folder / 'step.safetensors'}: damaged: {error}") from error
        self.step.iteration = checkpoint.iteration

    def scores(self) -> dict[str, float]:
        """None: nothing is the same for all baselines, so the newest checkpoint counts and none is the best."""
        return {}

    def samples(self) -> Image.Image:
        return draw_samples(
            self.networks,
            self.store,
            flipped=self.config.sample_attributes or (),
            seed=self.config.seed,  # the same noise in every grid of a run
            device=self.device,
        )

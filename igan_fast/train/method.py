"""What a training run trains: networks, an iteration that changes them, and their state in a checkpoint.

The loop (``igan_fast.train.trainer``) does everything else: checkpoints, log, samples, Ctrl-C, resuming. The Iterative
GAN is one method (``igan_fast.train.iterative_gan``), each baseline is another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from igan_fast.checkpoint.folder import Checkpoint
from igan_fast.checkpoint.tensor_specs import Spec, Specs
from igan_fast.data.store import FaceStore
from igan_fast.distributed.process import Process
from igan_fast.train.run_config import Config

__all__ = ["Described", "Losses", "Method", "adam_specs"]


class Losses(NamedTuple):
    """What an iteration reports to the log."""

    losses: Mapping[str, Tensor]
    """Scalars on the device, under the same names at each iteration."""
    counts: Mapping[str, int]
    """Numbers that the log adds up, such as extra updates."""


class Described(Protocol):
    """Networks as a checkpoint describes them, without their weights."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The arguments with which they are made: ``attributes``, and options of the run's config."""

    @property
    def attributes(self) -> tuple[str, ...]:
        """The names of the attributes."""

    def on_meta(self, attributes: int | None = None) -> nn.Module:
        """The networks on the ``meta`` device, where ``attributes`` is given with this number of attributes."""


class Method(ABC, Generic[Config]):
    """The networks of a run and all that changes them.

    Args:
        config: the checked config of the run.
        store: the images to train on.
        device: where the networks compute. PyTorch's global random numbers were seeded with ``config.seed`` before.
        process: this process. The process group was made before if there are others. They make the same method, and
            call ``iterate``, ``load`` and ``scores`` alike; the first one calls the rest.

    Attributes:
        networks: all networks; a checkpoint holds their ``state_dict`` as the group ``"model"``.
        batch_size: the number of photos per iteration.
        iterations: the length of the run.
    """

    networks: nn.Module
    batch_size: int
    iterations: int

    @abstractmethod
    def __init__(
        self,
        config: Config,
        store: FaceStore,
        device: torch.device,
        process: Process = Process(),  # noqa: B008
    ) -> None: ...

    @classmethod
    @abstractmethod
    def described(cls, folder: Path, state: dict[str, Any]) -> Described:
        """The description of the networks in the state of the checkpoint in ``folder``.

        Raises:
            InputError: the checkpoint is of another kind of run.
            FileDamaged: the description is incomplete, or contradicts itself.
        """

    @classmethod
    def check_initial(cls, config: Config, found: Described, folder: Path) -> None:
        """Check that a new run may start from networks of the same sizes, beyond what holds for all methods.

        Args:
            config: of the new run.
            found: the networks in the checkpoint in ``folder``.

        Raises:
            InputError: says what is found and what is expected.
        """

    def start_from(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Replace the initial weights.

        Args:
            groups: tensors with the names and shapes of the networks: ``"model"``, and ``"ema"`` where the other run
                kept an average.
        """
        self.networks.load_state_dict(groups["model"])

    @classmethod
    @abstractmethod
    def check_checkpoint(cls, config: Config, folder: Path, state: dict[str, Any], groups: Mapping[str, Specs]) -> None:
        """Check that a run under ``config`` can be resumed from the checkpoint in ``folder``.

        Args:
            state, groups: as for ``igan_fast.checkpoint.folder.Fits``. The options in ``state`` were checked before.

        Raises:
            FileDamaged: it contradicts itself or the config.
        """

    @property
    @abstractmethod
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """The optimisers, by the names of their groups in a checkpoint."""

    @abstractmethod
    def iterate(self) -> Losses:
        """Train one iteration."""

    @abstractmethod
    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """The groups of tensors that a checkpoint holds beside networks and optimisers."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """The rest of the state, as JSON values. ``state()["model"]`` describes the networks."""

    @abstractmethod
    def load(self, checkpoint: Checkpoint) -> None:
        """Restore what ``tensors`` and ``state`` returned, and the number of iterations done.

        Raises:
            InputError: a value is impossible. The message names the file.
        """

    @abstractmethod
    def scores(self) -> dict[str, float]:
        """Score the networks on validation photos; empty where there are no scores."""

    @abstractmethod
    def samples(self) -> Image.Image:
        """Draw the sample grid."""

    def close(self) -> None:
        """Free what must not outlive the process group. Called once, at the end of the run or after an error."""

    @property
    def shown(self) -> Sequence[str]:
        """The loss terms in the progress line."""
        return ()

    @property
    def period(self) -> int:
        """The number of iterations after which their costs repeat."""
        return 1

    @property
    def graphed(self) -> bool:
        """Whether iterations are replayed as CUDA graphs."""
        return False


def adam_specs(parameters: Mapping[str, Tensor]) -> Specs:
    """The types and shapes of the tensors of Adam's state for parameters, by the names of the parameters."""
    specs: Specs = {}
    for name, parameter in parameters.items():
        specs[f"{name}/step"] = Spec(torch.float32, ())
        for moment in ("exp_avg", "exp_avg_sq"):
            specs[f"{name}/{moment}"] = Spec(parameter.dtype, tuple(parameter.shape))
    return specs

"""The settings of a training run of a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from igan_fast.baselines.registry import BaselineName, baseline
from igan_fast.distributed.process import this_process
from igan_fast.errors import InputError
from igan_fast.train.config_checks import expect
from igan_fast.train.run_config import RunConfig

if TYPE_CHECKING:
    import torch

    from igan_fast.baselines.method import BaselineMethod

__all__ = ["BaselineConfig"]


@dataclass(frozen=True, kw_only=True)
class BaselineConfig(RunConfig):
    """Train one of the methods that the paper compares itself with, with the settings of its authors."""

    COMMAND: ClassVar[str] = "baseline"
    #: The learning rate of some depends on the length of the run.
    MAY_CHANGE: ClassVar[frozenset[str]] = RunConfig.MAY_CHANGE - {"epochs", "iterations"}

    method: BaselineName = "dcgan"
    """DCGAN, CGAN and AC-GAN generate faces. StarGAN edits photos, CycleGAN too: one attribute, named by
    --attributes."""
    batch_size: int | None = None
    """Photos per iteration. By default the authors' number."""

    def method_class(self) -> type[BaselineMethod]:
        from igan_fast.baselines.method import BaselineMethod

        return BaselineMethod

    def check_own(self, device: torch.device) -> None:
        if not (process := this_process()).is_alone:
            raise InputError(
                f"igan-fast baseline: found {process.world_size} processes, expected one: the authors' steps take the "
                "whole batch; start it without torchrun"
            )
        if self.precision == "bf16":
            raise InputError("--precision: found bf16, baselines train in fp32 or tf32")
        if self.method == "cyclegan" and len(self.attributes) != 1:
            found = f"{len(self.attributes)} names" if self.attributes else "none"
            raise InputError(f"--attributes: found {found}, expected one: CycleGAN learns one attribute")
        expect(self, "batch_size", self.photos_per_iteration >= 1, "at least 1")

    @property
    def photos_per_iteration(self) -> int:
        """The batch size, or the authors' where none is given. StarGAN and CycleGAN take as many of each domain."""
        return baseline(self.method).step.BATCH_SIZE if self.batch_size is None else self.batch_size

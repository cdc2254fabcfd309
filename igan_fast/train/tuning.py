"""How a run chooses between Triton's convolutions and blocks and the others (``--tune``), and the choices it keeps.

A run that measures keeps its choices in its checkpoints. Resumed, also on another machine with GPUs of the same name,
it takes them before those in the cache folder, so that it goes on with the same implementations.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from igan_fast.distributed.agreement import Processes
from igan_fast.errors import InputError
from igan_fast.json_files import check_json
from igan_fast.ops import tuning
from igan_fast.ops.convolution import asked_for
from igan_fast.ops.convolution.choice import start_measuring

if TYPE_CHECKING:
    from igan_fast.train.run_config import RunConfig

__all__ = ["RunChoices", "check_choices", "mode_of"]


def mode_of(config: RunConfig) -> str:
    """What the convolutions of a run are chosen by, as ``igan_fast.ops.convolution.asking_for`` takes it.

    Raises:
        InputError: ``--tune`` contradicts the environment variable IGAN_FAST_CONVOLUTION or ``--impl``, or the
            variable's value is unknown.
    """
    try:
        asked = asked_for()
    except ValueError as error:
        raise InputError(str(error)) from None
    tune = config.tune
    if tune == "measure" and config.impl == "reference":
        raise InputError("--tune measure and --impl reference contradict: plain PyTorch has nothing to choose from")
    if (tune == "measure" and asked not in ("auto", "measure")) or (tune == "off" and asked == "measure"):
        raise InputError(
            f"--tune {tune} and the variable IGAN_FAST_CONVOLUTION={asked} contradict: leave one of them out"
        )
    return asked if tune != "measure" else "measure"


def check_choices(saved: Any, where: Path) -> None:
    """Check what a checkpoint holds of ``RunChoices.state``.

    Raises:
        FileDamaged: it is something else.
    """
    check_json(saved, {str: {str: str}}, where, "tuning")


class RunChoices:
    """The choices by measurement of a run, by the names of devices and of computations.

    All processes choose alike: the first that has measured a computation decides for all whose GPUs have that name.

    Args:
        device: on which this process computes.
        processes: all processes of the run.
    """

    def __init__(self, device: torch.device, processes: Processes) -> None:
        self._processes = processes
        self.measuring = asked_for() == "measure" and tuning.has_choices(device.type)
        self._saved: Mapping[str, Mapping[str, str]] = {}
        self._start()

    def _start(self) -> None:
        if self.measuring:
            start_measuring(self._saved, None if self._processes.process.is_alone else self._processes.settle)

    def load(self, saved: Mapping[str, Mapping[str, str]]) -> str | None:
        """Take the choices of a checkpoint first. Returns what there is to say about them."""
        self._saved = saved
        self._start()
        if not self.measuring or not saved or (name := tuning.device_name()) in saved:
            return None
        return f"its convolutions were chosen on {', '.join(saved)}; on this {name} they are measured anew"

    def state(self) -> dict[str, dict[str, str]]:
        """All choices, as a checkpoint holds them; those of devices that are not used now stay in it. All processes
        must call it together."""
        found = {device: dict(choices) for device, choices in self._saved.items()}
        for taken in self._processes.collect(tuning.taken() if self.measuring else {}):
            for device, choices in taken.items():
                found.setdefault(device, {}).update(choices)
        return found

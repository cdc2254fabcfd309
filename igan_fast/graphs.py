"""The iteration as CUDA graphs: recorded once, then replayed with one launch instead of hundreds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from igan_fast.step import StepLosses, TrainStep

__all__ = ["GraphedStep", "built_in", "state_preserved"]

#: Runs of an iteration before it is recorded: libraries choose their algorithms and Triton compiles in the first.
WARM_UPS = 3


@dataclass
class _Recording:
    """A graph, the tensors that it reads, the numbers that it writes, and what it has built in."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    losses: Tensor | None
    built_in: tuple[object, ...]


class GraphedStep:
    """A ``TrainStep`` on a CUDA device whose iterations are replayed: the plain one, and each kind of extra update.

    An iteration is recorded when its first batch of that shape arrives; the warm-up before leaves weights, statistics
    and the optimisers' state bit for bit as they were, and draws no random numbers. Results are those of the step.
    It is recorded anew when an optimiser's setting has changed, its learning rate say, which takes as long as several
    iterations: a rate that is to change in each iteration belongs into a tensor on the device, changed in place.

    Args:
        step: its model on a CUDA device.

    Raises:
        ValueError: the model is elsewhere.
    """

    def __init__(self, step: TrainStep) -> None:
        device = next(step.model.parameters()).device
        if device.type != "cuda":
            raise ValueError(f"step: its model is on {device}; expected a CUDA device")
        self._step = step
        self._recordings: dict[tuple[object, ...], _Recording] = {}
        self._pool = torch.cuda.graph_pool_handle()  # one for all: they never run at once
        self.model, self.config = step.model, step.config
        self.optimizer_d, self.optimizer_g = step.optimizer_d, step.optimizer_g

    def __call__(self, images: Tensor, labels: Tensor, noise: Tensor) -> StepLosses:
        """As ``TrainStep``."""
        losses = self._run("iteration", lambda *batch: torch.stack(self._step(*batch)), (images, labels, noise))
        assert losses is not None
        return StepLosses(*losses.clone().unbind())  # the next replay writes over them

    def extra_discriminator(self, images: Tensor, labels: Tensor, noise: Tensor) -> None:
        """As ``TrainStep``."""
        self._run("extra D", self._step.extra_discriminator, (images, labels, noise))

    def extra_generator(self, labels: Tensor, noise: Tensor) -> None:
        """As ``TrainStep``."""
        self._run("extra G", self._step.extra_generator, (labels, noise))

    def _run(self, kind: str, function: Callable[..., Tensor | None], batch: Sequence[Tensor]) -> Tensor | None:
        key = (kind, *((t.shape, t.dtype, t.stride()) for t in batch))
        present = built_in(self._step)
        recording = self._recordings.get(key)
        # A state that was loaded may have brought tensors of its own.
        if recording is None or recording.built_in != present:
            recording = self._recordings[key] = self._record(function, batch)
        for static, given in zip(recording.inputs, batch, strict=True):
            static.copy_(given)
        recording.graph.replay()
        return recording.losses

    def _record(self, function: Callable[..., Tensor | None], batch: Sequence[Tensor]) -> _Recording:
        inputs = [t.clone() for t in batch]
        device = inputs[0].device
        with torch.cuda.device(device):
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside), state_preserved(self._step):
                for _ in range(WARM_UPS):
                    function(*inputs)
            torch.cuda.current_stream().wait_stream(aside)
            for optimizer in (self.optimizer_d, self.optimizer_g):
                optimizer.zero_grad(set_to_none=True)  # so that gradients live in the graph's own memory
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                losses = function(*inputs)
        return _Recording(graph, inputs, losses, built_in(self._step))


@contextmanager
def state_preserved(step: TrainStep) -> Iterator[None]:
    """Whatever iterations run inside the block, weights, statistics and optimisers end as they began, in place.

    An optimiser without a state yet ends with one of zeros, which is what it would start from.
    """
    before = [(tensor, tensor.detach().clone()) for tensor in _state(step)]
    try:
        yield
    finally:
        kept = {id(tensor) for tensor, _ in before}
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)
            for tensor in _state(step):
                if id(tensor) not in kept:
                    tensor.zero_()


def _state(step: TrainStep) -> list[Tensor]:
    """Every tensor that an iteration changes."""
    moments = [
        value
        for optimizer in (step.optimizer_d, step.optimizer_g)
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    return [*step.model.parameters(), *step.model.buffers(), *moments]


def built_in(step: TrainStep) -> tuple[object, ...]:
    """What a graph of the step holds for good, whatever becomes of it outside: where the state lies on which the step
    works, and the optimisers' settings, of a tensor among them (as a learning rate can be) its place."""
    settings = [
        value.data_ptr() if isinstance(value, Tensor) else value
        for optimizer in (step.optimizer_d, step.optimizer_g)
        for group in optimizer.param_groups
        for name, value in group.items()
        if name != "params"
    ]
    return (*(tensor.data_ptr() for tensor in _state(step)), *settings)

"""The training iteration as a CUDA graph: captured once, then replayed by one launch instead of hundreds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from igan_fast.distributed.watch import ReplayWatch
from igan_fast.reference.losses.labels import check_labels
from igan_fast.step import StepLosses, TrainStep

__all__ = ["GraphedStep", "captured_constants", "state_preserved"]

#: Iterations before the capture. In the first iterations, libraries choose their algorithms and Triton compiles.
WARM_UPS = 3


@dataclass
class _Capture:
    """A captured graph.

    inputs: the tensors from which it reads its arguments; None for an argument that is None.
    results: the tensors to which it writes its results.
    constants: the values that it cannot change, see ``captured_constants``.
    storages: the memory at the addresses among them. While it is held, no new tensor gets such an address. So several
        processes, whose tensors are replaced alike, capture again alike.
    """

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor | None]
    results: tuple[Tensor, ...]
    constants: tuple[object, ...]
    storages: list[torch.UntypedStorage]


class GraphedStep:
    """A ``TrainStep`` on a CUDA device that replays its iterations, and its extra updates, as CUDA graphs.

    A graph is captured at the first batch of each shape, dtype and strides. Before the capture, warm-up iterations run.
    They leave weights, statistics and the optimisers' state unchanged, bit for bit, and draw no random numbers. The
    results are those of the step.

    A graph is captured again if a setting of an optimiser has changed, such as its learning rate. A capture takes as
    long as several iterations. If the learning rate changes at each iteration, use a tensor on the device, and change
    it in place.

    If the step exchanges tensors with other processes, the graphs hold these operations (NCCL). All processes capture
    and replay alike. Call ``close`` before the process group is destroyed: NCCL waits for the end of such graphs.

    Args:
        step: a ``recordable`` step: its model is on a CUDA device, and the fused operators are not switched off.
        watch: ends the process if another one is lost; None for the only process.

    Raises:
        ValueError: the step is not recordable.
    """

    def __init__(self, step: TrainStep, watch: ReplayWatch | None = None) -> None:
        if not step.recordable:
            device = next(step.model.parameters()).device
            on_gpu = "with IGAN_FAST_IMPL=reference its iterations cannot be captured"
            reason = on_gpu if device.type == "cuda" else f"its model is on {device}; expected a CUDA device"
            raise ValueError(f"step: {reason}")
        self._step, self._watch = step, watch
        self._captures: dict[tuple[object, ...], _Capture] = {}
        self._pool = torch.cuda.graph_pool_handle()  # shared by all graphs, of which only one runs at a time
        self.model, self.config, self.edited = step.model, step.config, step.edited
        self.optimizer_d, self.optimizer_g, self.optimizer_z = step.optimizer_d, step.optimizer_g, step.optimizer_z

    @property
    def optimizers(self) -> dict[str, torch.optim.Adam]:
        """As ``TrainStep.optimizers``."""
        return self._step.optimizers

    @property
    def iteration(self) -> int:
        """As ``TrainStep.iteration``."""
        return self._step.iteration

    @iteration.setter
    def iteration(self, done: int) -> None:
        self._step.iteration = done

    def close(self) -> None:
        """Free the graphs and their memory. The step stays usable: it captures again at the next iteration."""
        for capture in self._captures.values():
            capture.graph.reset()
        self._captures.clear()

    def __call__(self, images: Tensor, labels: Tensor, noise: Tensor, flips: Tensor | None = None) -> StepLosses:
        """One iteration. Arguments and results are those of ``TrainStep``.

        Iterations with and without the gradient penalty are two graphs.
        """
        check_labels(labels)
        penalise = self._step.penalises_now()

        def iterate(*arguments: Any) -> tuple[Tensor, ...]:
            losses, z = self._step.iterate(*arguments, penalise=penalise)
            return torch.stack(losses), z

        kind = "iteration with penalty" if penalise else "iteration"
        losses, z = self._run(kind, iterate, (images, labels, *self.edited.compose(labels, noise, flips)))
        self.edited.keep(z, labels)
        self._step.iteration += 1
        return StepLosses(*losses.clone().unbind())  # clone: the next replay overwrites them

    def extra_discriminator(self, images: Tensor, labels: Tensor, noise: Tensor, flips: Tensor | None = None) -> None:
        """One more update of D and C, as ``TrainStep.extra_discriminator``."""

        def update(*arguments: Any) -> tuple[Tensor, ...]:
            self._step.update_d(*arguments)
            return ()

        check_labels(labels)
        self._run("extra D", update, (images, labels, *self.edited.compose(labels, noise, flips)))

    def extra_generator(self, labels: Tensor, noise: Tensor, flips: Tensor | None = None) -> None:
        """One more update of G, as ``TrainStep.extra_generator``."""

        def update(*arguments: Any) -> tuple[Tensor, ...]:
            self._step.update_g(*arguments)
            return ()

        check_labels(labels)
        self._run("extra G", update, self.edited.compose(labels, noise, flips))

    def _run(
        self, kind: str, function: Callable[..., tuple[Tensor, ...]], arguments: Sequence[Tensor | None]
    ) -> tuple[Tensor, ...]:
        """Run a function as a graph. Each argument is a tensor or None."""
        key = (kind, *(None if t is None else (t.shape, t.dtype, t.stride()) for t in arguments))
        constants = captured_constants(self._step)
        capture = self._captures.get(key)
        # Constants may differ, for example because load_state_dict has replaced the optimisers' tensors.
        if capture is None or capture.constants != constants:
            capture = self._captures[key] = self._capture(function, arguments)
        for static, given in zip(capture.inputs, arguments, strict=True):
            if static is not None and given is not None:
                static.copy_(given)
        capture.graph.replay()
        if self._watch is not None:
            self._watch.launched()
        return capture.results

    def _capture(self, function: Callable[..., tuple[Tensor, ...]], arguments: Sequence[Tensor | None]) -> _Capture:
        inputs = [None if t is None else t.clone() for t in arguments]
        graph, results = self._recorded(function, inputs)
        storages = [tensor.untyped_storage() for tensor in _state(self._step)]
        return _Capture(graph, inputs, results, captured_constants(self._step), storages)

    def _recorded(
        self, function: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor | None]
    ) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]:
        """A graph of the function, and the tensors to which it writes the results."""
        with torch.cuda.device(next(self.model.parameters()).device):
            side_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side_stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side_stream):
                self._warm_up(function, inputs)
            torch.cuda.current_stream().wait_stream(side_stream)
            graph = torch.cuda.CUDAGraph()
            unwatched = nullcontext() if self._watch is None else self._watch.capturing()
            with unwatched, torch.cuda.graph(graph, pool=self._pool):
                results = function(*inputs)
        return graph, results

    def _warm_up(self, function: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor | None]) -> None:
        with state_preserved(self._step):
            for _ in range(WARM_UPS):
                function(*inputs)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)  # so that gradients are allocated in the graph's memory pool


@contextmanager
def state_preserved(step: TrainStep) -> Iterator[None]:
    """Restore weights, statistics and optimiser states at the end of the block.

    The values are restored in place. The state that an optimiser creates inside the block is set to zeros, its initial
    values.
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
    """Every tensor that an iteration changes, except for gradients."""
    moments = [
        value
        for optimizer in step.optimizers.values()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    return [*step.model.parameters(), *step.model.buffers(), *moments]


def captured_constants(step: TrainStep) -> tuple[object, ...]:
    """The values that a graph of the step holds as constants: the addresses of all tensors that the step changes, and
    the optimisers' settings. A setting that is a tensor (a learning rate can be one) is represented by its address."""
    settings = [
        value.data_ptr() if isinstance(value, Tensor) else value
        for optimizer in step.optimizers.values()
        for group in optimizer.param_groups
        for name, value in group.items()
        if name != "params"
    ]
    return (*(tensor.data_ptr() for tensor in _state(step)), *settings)

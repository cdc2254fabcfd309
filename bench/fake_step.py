"""Counts the calls of one training iteration as a GPU makes them, on a machine without one, in seconds.

The tensors are fake: they have shapes and dtypes, but no data and no kernels. Their device is the CPU, because a
PyTorch without CUDA cannot differentiate fake CUDA tensors. ``choices_of_a_gpu`` therefore replaces each place at which
this package chooses by the device.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses import FakeTensorMode

import igan_fast
from bench.counting import Call, Counter
from igan_fast import reference
from igan_fast.distributed.plan import BatchPlan
from igan_fast.distributed.step import PartedStep
from igan_fast.ops import backend, layout, norm_act_processes
from igan_fast.ops.blocks import network
from igan_fast.ops.convolution import dispatch, triton
from igan_fast.ops.convolution.plan import Problem
from igan_fast.reference.losses import paper
from igan_fast.train import TrainConfig

__all__ = ["calls_of_an_iteration", "choices_of_a_gpu", "fake_iteration"]


def calls_of_an_iteration(
    image_size: int,
    width: int,
    batch: int,
    precision: str,
    *,
    preset: str = "paper",
    lines: bool = False,
    convolution: str = "auto",
    fused: bool = True,
) -> list[Call]:
    """The calls of one iteration of ``igan_fast.TrainStep``, without gradient penalty.

    The iteration before it is not counted, so the optimisers have their moments.

    Args:
        image_size, width, batch: S, w and N.
        precision: "bf16", "tf32" or "fp32". The calls of the last two are the same.
        preset: of ``TrainConfig``.
        lines: as of ``Counter``.
        convolution: the value of IGAN_FAST_CONVOLUTION.
        fused: False for ``igan_fast.reference.TrainStep``, which is plain PyTorch.

    Raises:
        RuntimeError: there is no implementation of the fused operators, or they are switched off.
    """
    options: dict[str, Any] = {"preset": preset, "lines": lines, "convolution": convolution, "fused": fused}
    with fake_iteration(image_size, width, batch, precision, **options) as iterate:
        counter = Counter(lines=lines)
        with counter:
            iterate()
    return counter.calls


@contextlib.contextmanager
def fake_iteration(
    image_size: int,
    width: int,
    batch: int,
    precision: str,
    *,
    preset: str = "paper",
    lines: bool = False,
    plan: BatchPlan | None = None,
    convolution: str = "auto",
    fused: bool = True,
) -> Iterator[Callable[[], None]]:
    """Inside the block, a function that computes an iteration as ``calls_of_an_iteration`` counts it.

    Args:
        image_size, width, batch, precision, preset, lines, convolution, fused: as of ``calls_of_an_iteration``.
        plan: computes the parts of one process in it, with ``PartedStep``; ``batch`` is the whole batch.

    Raises:
        RuntimeError: as ``calls_of_an_iteration``.
    """
    wing: Any = igan_fast if fused else reference
    with FakeTensorMode(), choices_of_a_gpu(convolution), contextlib.ExitStack() as stack:
        config = TrainConfig(preset=preset, precision="bf16" if precision == "bf16" else "fp32")
        model = wing.IterativeGAN(image_size=image_size, width=width, film=config.film)
        _to_channels_last(model)
        settings = config.step_config()
        if plan is None:
            step, own = wing.TrainStep(model, settings), batch
        else:
            step = PartedStep(model, dataclasses.replace(settings, norm_groups=plan.norm_groups), plan)
            own = plan.rows.stop - plan.rows.start
        images = torch.empty(own, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
        labels, z = torch.empty(batch, 40), torch.empty(batch, 100)

        def iterate() -> None:
            step.iterate(images, labels, z, labels, None, penalise=False)

        if lines:
            stack.enter_context(torch.autograd.set_detect_anomaly(True, check_nan=False))
        iterate()
        yield iterate


@contextlib.contextmanager
def choices_of_a_gpu(convolution: str = "auto") -> Iterator[None]:
    """Inside the block this package chooses for tensors on the CPU, fake ones too, what it would choose on a GPU.

    Args:
        convolution: the value of IGAN_FAST_CONVOLUTION.

    Raises:
        RuntimeError: there is no implementation of the fused operators, or they are switched off.
    """
    if backend.switched_off():
        raise RuntimeError("IGAN_FAST_IMPL is reference, so that there is nothing fused to count; unset it")
    # The operators of both namespaces have the same shapes, and which of them is called does not matter here.
    namespace = backend.TRITON if backend._triton_can_load() else backend.NATIVE
    if namespace == backend.NATIVE and not backend.has_native_cpu():
        raise RuntimeError("there is neither the native extension nor Triton, of whose operators the calls are counted")

    def on_gpu(*arguments: Any, **fields: Any) -> Problem:
        return Problem(*arguments, **fields)._replace(device="cuda", native=False)

    with contextlib.ExitStack() as stack:
        for owner, name, replacement in (
            (backend, "transformed", lambda *_: False),  # a fake tensor is no transform
            (backend, "_best", lambda *_: namespace),
            (triton, "_CHOICE", convolution),
            (dispatch, "Problem", on_gpu),
            (network, "Problem", on_gpu),
            (layout, "_can_transpose", lambda *_: False),
            (paper, "check_labels", lambda _: None),  # it reads the values of labels on the CPU
            (norm_act_processes, "check_count", lambda *_: None),  # and this one a number
        ):
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield


def _to_channels_last(model: nn.Module) -> None:
    """Convert the weights of the convolutions, as ``TrainStep`` does on a GPU; ``to`` does not take fake tensors."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() == 4:
                converted = parameter.detach().contiguous(memory_format=torch.channels_last)
                module.register_parameter(name, nn.Parameter(converted))

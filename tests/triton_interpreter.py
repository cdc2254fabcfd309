"""Triton's interpreter in tests: about twice as fast, counting what it is asked for, and rounding as a GPU does."""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

__all__ = ["count_calls", "few_programs", "round_to_nearest", "speed_up"]


def count_calls(
    patch: pytest.MonkeyPatch, found: Counter[str], name: str, count: Callable[..., Mapping[str, int]]
) -> None:
    """Add to ``found`` what ``count`` makes of the arguments of each call of a function of the interpreter's builder,
    such as "create_masked_load"."""
    from triton.runtime.interpreter import interpreter_builder

    before = getattr(interpreter_builder, name)

    def wrapper(*arguments: Any) -> Any:
        found.update(count(*arguments))
        return before(*arguments)

    patch.setattr(interpreter_builder, name, wrapper)


def few_programs(patch: pytest.MonkeyPatch) -> None:
    """Divide convolutions into few programs and steps, each of which takes the interpreter long."""
    from igan_fast.ops.triton import convolution_image_weight, convolution_launch, convolution_weight

    for module, name, value in (
        (convolution_launch, "_SIDE", 1024),
        (convolution_launch, "_WIDE_SIDE", 1024),
        (convolution_launch, "_LEAST", 64),
        (convolution_weight, "_PROGRAMS", 2),
        (convolution_image_weight, "_PROGRAMS", 2),
    ):
        patch.setattr(module, name, value)


def round_to_nearest(patch: pytest.MonkeyPatch) -> None:
    """Round float32 numbers to the nearest bfloat16 numbers, as a GPU does. The interpreter cuts off their last bits,
    so that the errors of several kernels in a row add up."""
    from triton.runtime import interpreter

    builder, language = type(interpreter.interpreter_builder), interpreter.tl
    cast = builder.cast_impl

    def rounding(self: Any, source: Any, kind: Any) -> Any:
        if (source.dtype.scalar, kind.scalar) != (language.float32, language.bfloat16):
            return cast(self, source, kind)
        values = torch.from_numpy(np.array(source.data)).bfloat16().view(torch.int16).numpy()
        return interpreter.TensorHandle(values.view(np.uint16), kind.scalar)

    patch.setattr(builder, "cast_impl", rounding)


@functools.cache
def speed_up() -> None:
    """While a kernel is interpreted, the functions of ``triton.language`` are replaced by NumPy's. The interpreter does
    that before the kernel and again before each function that the kernel calls, which takes half of its time. From now
    on it does that once for each kernel and each of the language's modules. Another version of Triton, without the
    functions that are changed here, stays as it is.
    """
    from triton.runtime import interpreter

    if not hasattr(interpreter, "_patch_lang") or not hasattr(interpreter, "GridExecutor"):
        return
    language = interpreter.tl
    replace, run = interpreter._patch_lang, interpreter.GridExecutor.__call__
    replaced: set[Any] = set()  # the modules, while a kernel runs

    @functools.cache
    def modules_of(function: Any) -> frozenset[Any]:
        modules = (value for value in function.__globals__.values() if inspect.ismodule(value))
        return frozenset(module for module in modules if module in (language, language.core))

    def replace_once(function: Any) -> Any:
        modules = modules_of(function)
        if modules and modules <= replaced:
            return None
        replaced.update(modules)
        return replace(function)

    def run_kernel(executor: Any, *arguments: Any, **options: Any) -> Any:
        replaced.clear()
        try:
            return run(executor, *arguments, **options)
        finally:
            replaced.clear()

    interpreter._patch_lang = replace_once
    interpreter.GridExecutor.__call__ = run_kernel

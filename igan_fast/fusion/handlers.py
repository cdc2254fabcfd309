"""Handlers for functions that can use a Deferred tensor without computing its data. ``HANDLERS`` holds them.

There are three kinds: functions that return metadata; functions that use the autograd node, such as ``register_hook``;
and functions that compute gradients. A gradient *with respect to* a Deferred is computed at the autograd node of the
Deferred, because an activation may already be recorded after that node. The plain result would have a new node, on
which the activation does not depend.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from igan_fast.fusion.deferred import HANDLERS, Deferred, Intercepted, Wrapper, ordinary_list, to_ordinary

__all__: list[str] = []


def _answer_metadata(func: Any, args: Any, kwargs: Any) -> Any:
    if not args:
        return NotImplemented
    if isinstance(args[0], Wrapper) and args[0].replacement is not None:
        args = (args[0].replacement, *args[1:])
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


def _use_node(func: Any, args: Any, kwargs: Any) -> Any:
    for t in tree_leaves((args, kwargs)):
        if isinstance(t, Deferred):
            t.node_in_use = True
    with torch._C.DisableTorchFunctionSubclass():
        result = func(*args, **kwargs)
    return tree_map_only(Wrapper, to_ordinary, result)


def _differentiate(func: Any, args: Any, kwargs: Any) -> Any:
    """Call ``func`` with its ``inputs`` as autograd nodes, and its other arguments as ordinary tensors."""
    args, kwargs = tree_map_only((list, tuple), ordinary_list, (args, kwargs))
    bound = inspect.signature(func).bind(*args, **kwargs)
    inputs = bound.arguments.pop("inputs", None)
    bound.arguments.update(tree_map_only(Intercepted, to_ordinary, dict(bound.arguments)))
    if inputs is not None:
        node = _node if func is torch.autograd.grad else _accumulating_node
        bound.arguments["inputs"] = tree_map_only(Deferred, node, inputs)
    return tree_map_only(Wrapper, to_ordinary, func(*bound.args, **bound.kwargs))


def _node(x: Deferred) -> Any:
    """x as an input of ``torch.autograd.grad``: the gradient edge of its node; an ordinary tensor if it has no node."""
    with torch._C.DisableTorchFunctionSubclass():
        if not x.requires_grad:
            return to_ordinary(x)
        if x.was_written():  # it was changed in place through a view
            return x.replacement
        x.node_in_use = True
        return torch.autograd.graph.get_gradient_edge(x)


def _accumulating_node(x: Deferred) -> Any:
    """As ``_node``, but also accumulate the gradient in ``x.grad``, as ``backward(inputs=[x])`` does."""
    if x.requires_grad and not x.was_written():
        x.retain_grad()
    return _node(x)


def _getters(*names: str) -> list[Any]:
    return [getattr(Tensor, name).__get__ for name in names]


_METADATA = [
    *_getters("shape", "ndim", "dtype", "device", "layout", "is_cuda", "is_cpu", "is_meta", "itemsize", "nbytes"),
    *_getters("is_sparse", "is_quantized", "is_nested", "requires_grad", "is_mps"),
    *(Tensor.size, Tensor.dim, Tensor.ndimension, Tensor.numel, Tensor.nelement, Tensor.stride, Tensor.is_contiguous),
    *(Tensor.is_floating_point, Tensor.is_complex, Tensor.get_device, Tensor.__len__, Tensor.element_size),
    *(torch.is_floating_point, torch.is_complex, torch.numel),
]
_NODE = [
    *_getters("grad", "grad_fn", "is_leaf", "output_nr", "retains_grad"),
    *(Tensor.register_hook, Tensor.retain_grad),
]
_DERIVATIVES = [torch.autograd.grad, torch.autograd.backward, Tensor.backward]

HANDLERS.update(dict.fromkeys(_METADATA, _answer_metadata))
HANDLERS.update(dict.fromkeys(_NODE, _use_node))
HANDLERS.update(dict.fromkeys(_DERIVATIVES, _differentiate))

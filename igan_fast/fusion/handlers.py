"""What a tensor without data answers without computing them: its metadata, and questions about its node in the graph.

A gradient is asked for by the node, which an activation may hang on already; not by data, which hang on it later.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from igan_fast.fusion.deferred import HANDLERS, Deferred, Pending, Wrapper, ordinary_list, settle

__all__: list[str] = []


def _metadata(func: Any, args: Any, kwargs: Any) -> Any:
    if not args:
        return NotImplemented
    if isinstance(args[0], Wrapper) and args[0].instead is not None:
        args = (args[0].instead, *args[1:])
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


def _of_its_node(func: Any, args: Any, kwargs: Any) -> Any:
    for t in tree_leaves((args, kwargs)):
        if isinstance(t, Deferred):
            t.pinned = True
    with torch._C.DisableTorchFunctionSubclass():
        result = func(*args, **kwargs)
    return tree_map_only(Wrapper, settle, result)


def _differentiate(func: Any, args: Any, kwargs: Any) -> Any:
    """What is differentiated is settled; by what it is differentiated is a node."""
    args, kwargs = tree_map_only((list, tuple), ordinary_list, (args, kwargs))
    bound = inspect.signature(func).bind(*args, **kwargs)
    inputs = bound.arguments.pop("inputs", None)
    bound.arguments.update(tree_map_only(Pending, settle, dict(bound.arguments)))
    if inputs is not None:
        node = _node if func is torch.autograd.grad else _gathering_node
        bound.arguments["inputs"] = tree_map_only(Deferred, node, inputs)
    return tree_map_only(Wrapper, settle, func(*bound.args, **bound.kwargs))


def _node(x: Deferred) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        if not x.requires_grad:
            return settle(x)
        if x.was_written_into():  # through a view
            return x.instead
        x.pinned = True
        return torch.autograd.graph.get_gradient_edge(x)


def _gathering_node(x: Deferred) -> Any:
    """One whose gradient is to be found at x afterwards, which is what PyTorch does where it is given x itself."""
    if x.requires_grad and not x.was_written_into():
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

HANDLERS.update(dict.fromkeys(_METADATA, _metadata))
HANDLERS.update(dict.fromkeys(_NODE, _of_its_node))
HANDLERS.update(dict.fromkeys(_DERIVATIVES, _differentiate))

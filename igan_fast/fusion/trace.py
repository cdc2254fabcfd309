"""The calls that a module's ``forward`` makes, by symbolic execution along every way that it can take.

``torch.fx`` runs ``forward`` on stand-ins. Where a decision depends on one, both ways are gone; training and eval mode
are gone apart, and so is every argument that has a default, given and not given.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

__all__ = ["Call", "Trace", "trace"]

#: Ways through a forward that are followed; one with more is not understood.
_MOST_PATHS = 64


@dataclass(frozen=True)
class Call:
    """A call of one module along one path.

    source: the module whose result it was called on, where that is all it was given.
    user: the module that was called on its result, where nothing else has seen that.
    """

    module: nn.Module
    source: nn.Module | None
    user: nn.Module | None


@dataclass(frozen=True)
class Trace:
    """The calls of all paths; ``failure`` says why a path was not understood, and is empty where all were."""

    calls: tuple[Call, ...]
    failure: str


def trace(module: nn.Module) -> Trace:
    """What ``module.forward`` calls. The modules below it are not entered, nor run."""
    if "forward" in vars(module):
        return Trace((), "its forward was replaced")
    calls: list[Call] = []
    failure = ""
    for training, optional in itertools.product((True, False), (False, True)):
        if optional and not _has_optional(module):
            continue
        with _left_as_it_is(module, training):
            found, failed = _all_paths(module, optional)
        calls += found
        failure = failure or failed
    return Trace(tuple(calls), failure)


def _all_paths(module: nn.Module, optional: bool) -> tuple[list[Call], str]:
    calls: list[Call] = []
    failure, succeeded = "", False
    left: list[tuple[bool, ...]] = [()]
    for _ in range(_MOST_PATHS):
        if not left:
            break
        path = left.pop()
        tracer = _Tracer(path, optional)
        before = _shallow(module)
        try:
            graph = tracer.trace(module)
        except Exception as error:  # whatever a forward may do with a stand-in
            own = isinstance(error, AssertionError | NotImplementedError) or type(error) is ValueError
            if not (own and tracer.decisions):  # a check of its arguments, which real ones pass
                first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
                failure = failure or first_line[:120]
        else:
            succeeded = True
            calls += _calls(graph)
        finally:
            _restore(module, before)
        decided = tracer.decisions
        left += [(*decided[:i], not decided[i]) for i in range(len(path), len(decided))]
    if left:
        failure = failure or f"more than {_MOST_PATHS} ways through it"
    return calls, failure or ("" if succeeded else "no way through it")


class _Tracer(fx.Tracer):
    """Follows the given decisions, then always True; every module is called without being entered."""

    proxy_buffer_attributes = True

    def __init__(self, path: tuple[bool, ...], optional: bool) -> None:
        super().__init__()
        self._path, self._optional = path, optional
        self.decisions: tuple[bool, ...] = ()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = self.create_proxy("call_module", "module", args, kwargs)
        result.node.meta["module"] = m
        return result

    def to_bool(self, obj: fx.Proxy) -> bool:
        index = len(self.decisions)
        if index > _MOST_PATHS:
            raise fx.proxy.TraceError("a loop that depends on its data")
        decision = self._path[index] if index < len(self._path) else True
        self.decisions = (*self.decisions, decision)
        return decision

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        _self, *rest = inspect.signature(root_fn).parameters.values()
        positional: list[Any] = [self.root]
        named: dict[str, Any] = {}
        for parameter in rest:
            if parameter.kind is parameter.VAR_POSITIONAL or parameter.kind is parameter.VAR_KEYWORD:
                continue
            if parameter.default is parameter.empty or self._optional:
                proxy = self.create_proxy("placeholder", parameter.name, (), {})
                if parameter.kind is parameter.KEYWORD_ONLY:
                    named[parameter.name] = proxy
                else:
                    positional.append(proxy)
        if named:
            return (lambda *arguments: root_fn(*arguments, **named)), positional
        return root_fn, positional


def _calls(graph: fx.Graph) -> Iterator[Call]:
    for node in graph.nodes:
        if node.op != "call_module":
            continue
        alone = len(node.args) == 1 and not node.kwargs
        argument = node.args[0] if alone and isinstance(node.args[0], fx.Node) else None
        source = argument.meta.get("module") if argument is not None and argument.op == "call_module" else None
        user = None
        if len(node.users) == 1:
            (following,) = node.users
            if following.op == "call_module" and following.args == (node,) and not following.kwargs:
                user = following.meta["module"]
        yield Call(node.meta["module"], source, user)


def _has_optional(module: nn.Module) -> bool:
    parameters = inspect.signature(type(module).forward).parameters.values()
    return any(parameter.default is not parameter.empty for parameter in parameters)


@contextmanager
def _left_as_it_is(module: nn.Module, training: bool) -> Iterator[None]:
    """Modes and random numbers are afterwards as they were."""
    modes = [(part, part.training) for part in module.modules()]
    for part, _ in modes:
        part.training = training
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def _shallow(module: nn.Module) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The attributes of all parts, and copies of what containers these are."""
    return [
        (vars(part), {name: copy.copy(v) if type(v) in (list, dict, set) else v for name, v in vars(part).items()})
        for part in module.modules()
    ]


def _restore(module: nn.Module, before: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    for attributes, old in before:
        for name in attributes.keys() - old.keys():
            del attributes[name]
        for name, value in old.items():
            now: Any = attributes.get(name)
            if type(value) is list and type(now) is list:
                now[:] = value
            elif type(value) in (dict, set) and type(now) is type(value):
                now.clear(), now.update(value)
            else:
                attributes[name] = value

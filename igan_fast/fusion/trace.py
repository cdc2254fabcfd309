"""The calls that a module's ``forward`` makes, by symbolic execution along every way that it can take.

``torch.fx`` runs ``forward`` on stand-ins. Where a decision depends on one, both ways are gone; training and eval mode
are gone apart, and so are all choices of the arguments that have a default. What else decides is either an attribute
of the module, which is told, or cannot be followed.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import random
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from igan_fast.fusion.conditions import Condition, conditions
from igan_fast.fusion.decisions import Watch

__all__ = ["Call", "Trace", "trace"]

#: Ways through a forward that are followed; one with more is not understood.
_MOST_PATHS = 64
#: Arguments with a default that are followed in all choices of them.
_MOST_OPTIONAL = 4


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
    """The calls of all paths; ``failure`` says why a path was not understood, and is empty where all were.

    conditions: what has to hold of the module for these to be all paths.
    """

    calls: tuple[Call, ...]
    failure: str
    conditions: tuple[Condition, ...] = ()


def trace(module: nn.Module) -> Trace:
    """What ``module.forward`` calls. The modules below it are not entered, nor run."""
    if "forward" in vars(module):
        return Trace((), "its forward was replaced")
    optional = _optional(module)
    calls: list[Call] = []
    failure = "" if len(optional) <= _MOST_OPTIONAL else f"more than {_MOST_OPTIONAL} optional arguments"
    choices = itertools.product((False, True), repeat=len(optional)) if not failure else [(False,), (True,)]
    watch = Watch(module)
    for training, choice in itertools.product((True, False), choices):
        given = frozenset(itertools.compress(optional, choice if not failure else choice * len(optional)))
        with _left_as_it_is(module, training):
            found, failed = _all_paths(module, given, watch)
        calls += found
        failure = failure or failed
    needed, doubt = conditions(watch)
    return Trace(tuple(calls), failure or doubt, needed)


def _all_paths(module: nn.Module, given: frozenset[str], watch: Watch) -> tuple[list[Call], str]:
    calls: list[Call] = []
    failure, succeeded = "", False
    left: list[tuple[bool, ...]] = [()]
    for _ in range(_MOST_PATHS):
        if not left:
            break
        path = left.pop()
        tracer = _Tracer(path, given, watch)
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
            calls += _calls(graph, tracer.kept())
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

    def __init__(self, path: tuple[bool, ...], given: frozenset[str], watch: Watch) -> None:
        super().__init__()
        self._path, self._given, self._watch = path, given, watch
        self._results: list[tuple[fx.Node, weakref.ref[fx.Proxy]]] = []
        self.decisions: tuple[bool, ...] = ()

    def kept(self) -> set[fx.Node]:
        """Modules' results that something holds after the forward: an attribute, a list, a global."""
        return {node for node, result in self._results if result() is not None}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = self.create_proxy("call_module", "module", args, kwargs)
        result.node.meta["module"] = m
        self._results.append((result.node, weakref.ref(result)))
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
        gap = False
        for parameter in rest:
            if parameter.kind is parameter.VAR_POSITIONAL or parameter.kind is parameter.VAR_KEYWORD:
                continue
            if parameter.default is parameter.empty or parameter.name in self._given:
                proxy = self.create_proxy("placeholder", parameter.name, (), {})
                if gap or parameter.kind is parameter.KEYWORD_ONLY:
                    named[parameter.name] = proxy
                else:
                    positional.append(proxy)
            else:
                gap = True

        def watched(*arguments: Any) -> Any:
            with self._watch.watching(lambda: len(self.decisions)):
                return root_fn(*arguments, **named)

        return watched, positional


def _calls(graph: fx.Graph, kept: set[fx.Node]) -> Iterator[Call]:
    for node in graph.nodes:
        if node.op != "call_module":
            continue
        alone = len(node.args) == 1 and not node.kwargs
        argument = node.args[0] if alone and isinstance(node.args[0], fx.Node) else None
        source = argument.meta.get("module") if argument is not None and argument.op == "call_module" else None
        user = None
        if len(node.users) == 1 and node not in kept:
            (following,) = node.users
            if following.op == "call_module" and following.args == (node,) and not following.kwargs:
                user = following.meta["module"]
        yield Call(node.meta["module"], source, user)


def _optional(module: nn.Module) -> list[str]:
    parameters = inspect.signature(type(module).forward).parameters.values()
    return [parameter.name for parameter in parameters if parameter.default is not parameter.empty]


@contextmanager
def _left_as_it_is(module: nn.Module, training: bool) -> Iterator[None]:
    """Modes and random numbers (torch's, Python's and NumPy's) are afterwards as they were."""
    modes = [(part, part.training) for part in module.modules()]
    for part, _ in modes:
        part.training = training
    pythons, numpy = random.getstate(), sys.modules.get("numpy.random")
    numpys = numpy.get_state() if numpy is not None else None
    running = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if running else ()
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        random.setstate(pythons)
        if numpy is not None:
            numpy.set_state(numpys)
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

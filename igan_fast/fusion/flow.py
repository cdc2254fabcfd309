"""Which module's result goes to which module, and nowhere else, wherever in a model that is certain.

Two ways lead to certainty: a ``forward`` that ``torch.fx`` can follow along all its paths (``trace``), and what the
source of a class says about the modules it holds (``source``). An ``nn.Sequential`` calls its modules in turn, as long
as nobody else reaches into it; both ways tell whether somebody does.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator

from torch import nn

from igan_fast.fusion.conditions import Condition
from igan_fast.fusion.modules import ACTIVATIONS
from igan_fast.fusion.run import Place
from igan_fast.fusion.source import Source, source_of
from igan_fast.fusion.trace import Trace, trace

__all__ = ["Flow", "Tree", "is_sequential"]


def is_sequential(module: nn.Module) -> bool:
    """Whether it calls its children in turn, as ``nn.Sequential`` does."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _is_container(module: nn.Module) -> bool:
    return is_sequential(module) or isinstance(module, nn.ModuleList | nn.ModuleDict)


def _is_custom(module: nn.Module) -> bool:
    return not _is_container(module) and type(module).__module__.split(".")[0] not in ("torch", "igan_fast")


class Tree:
    """A model's modules, each once, and where they are.

    names: of each module by its id, the first as in ``named_modules``.
    places: of each module by its id; one that is in two places is shared.
    owners: the custom modules, with the attribute, that hold a container, by the container's id.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = list(model.modules())
        self.names = {id(module): name for name, module in model.named_modules()}
        self.places: dict[int, list[Place]] = defaultdict(list)
        self.owners: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
        for parent in self.modules:
            for name, child in parent._modules.items():
                if child is not None:
                    self.places[id(child)].append(Place(parent, name))
        for module in self.modules:
            if not _is_container(module):
                for name, child in module._modules.items():
                    for held in _held(child):
                        self.owners[id(held)].append((module, name))

    def name(self, place: Place) -> str:
        """Qualified."""
        return ".".join(filter(None, (self.names[id(place.parent)], place.name)))

    def place(self, module: nn.Module) -> Place | None:
        """Where a module is, unless it is shared or the model itself."""
        places = self.places[id(module)]
        return places[0] if len(places) == 1 else None


def _held(module: nn.Module | None) -> Iterator[nn.Module]:
    """A module, and all that it contains as a container."""
    if module is None:
        return
    yield module
    if _is_container(module):
        for child in module._modules.values():
            yield from _held(child)


class Flow:
    """Neighbours: ``after(place)`` is always called on the result of ``place``, which nothing else sees.

    ``before`` is its inverse; an activation that is called on other results too has nothing before it.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._custom = [module for module in tree.modules if _is_custom(module)]
        self._traces: dict[int, Trace] = {id(module): trace(module) for module in self._custom}
        self._sources: dict[int, Source | None] = {id(module): source_of(type(module)) for module in self._custom}
        # What is reached through another module: ``self.block.conv``.
        self._inner = {name for source in self._sources.values() if source for name in source.inner}
        self._sources_of_calls: dict[int, set[int]] = defaultdict(set)
        self._users_of_calls: dict[int, set[int]] = defaultdict(set)
        self._called: dict[int, nn.Module] = {}
        for made in self._traces.values():
            for call in made.calls:
                self._called[id(call.module)] = call.module
                self._sources_of_calls[id(call.module)].add(id(call.source))
                self._users_of_calls[id(call.module)].add(id(call.user))
        self._after: dict[tuple[int, str], Place] = {}
        self._before: dict[tuple[int, str], Place] = {}
        self._doubts: dict[int, str] = {}
        self._conditions: dict[tuple[int, str], tuple[Condition, ...]] = {}  # for what follows a place
        for module in tree.modules:
            if is_sequential(module):
                self._connect_sequential(module)
        self._connect_traced()
        for module in self._custom:
            self._connect_written(module)

    def after(self, place: Place) -> Place | None:
        """Where the result goes."""
        return self._after.get(place.key)

    def before(self, place: Place) -> Place | None:
        """Where the input comes from."""
        return self._before.get(place.key)

    def conditions(self, place: Place) -> tuple[Condition, ...]:
        """What has to hold for that which follows a place to do so."""
        return self._conditions.get(place.key, ())

    def doubt(self, place: Place) -> str:
        """Why nothing is certain about the neighbours of a place; empty where it is known that there are none."""
        return self._doubts.get(id(place.parent), "")

    def _connect(self, first: Place, second: Place) -> None:
        self._after[first.key] = second
        self._before[second.key] = first

    def _connect_sequential(self, module: nn.Module) -> None:
        doubt = self._doubt_of_container(module)
        if doubt:
            self._doubts[id(module)] = doubt
            return
        # Whose modules are found at run time, or whose source is not to be had, is known by its trace alone.
        owners = (owner for owner, _ in self._tree.owners[id(module)] if id(owner) in self._traces)
        held = self._conditions_of(o for o in owners if (source := self._sources[id(o)]) is None or source.dynamic)
        names = list(module._modules)
        for first, second in itertools.pairwise(names):
            self._connect(Place(module, first), Place(module, second))
            self._conditions[Place(module, first).key] = held

    def _conditions_of(self, owners: Iterable[nn.Module]) -> tuple[Condition, ...]:
        return tuple(condition for owner in owners for condition in self._traces[id(owner)].conditions)

    def _doubt_of_container(self, module: nn.Module) -> str:
        """Why somebody may reach into a container; empty where nobody does."""
        if any(id(child) in self._called for child in module._modules.values()):
            return "its modules are called one by one"
        for owner, name in self._tree.owners[id(module)]:
            if not _is_custom(owner):
                return f"{type(owner).__name__} holds it"
            made, source, kind = self._traces[id(owner)], self._sources[id(owner)], type(owner).__name__
            if "forward" in vars(owner):
                return f"the forward of a {kind} was replaced"
            if source is None:
                if made.failure:
                    return f"{kind}.forward cannot be followed ({made.failure}), and its source not be read"
            elif name in self._inner:
                return f"another module reaches for .{name}"
            elif source.exposed_outside(name, None, iterating=owner._modules.get(name) is not module):
                return f"{kind} reaches into self.{name}"
            elif made.failure and source.dynamic:
                return f"{kind}.forward cannot be followed ({made.failure}), and finds its modules at run time"
        return ""

    def _connect_traced(self) -> None:
        """Modules that follow each other in every call that any path of any forward makes."""
        for key, users in self._users_of_calls.items():
            if len(users) != 1:
                continue
            (user,) = users
            if user not in self._called:
                continue
            first, seconds = self._tree.place(self._called[key]), self._tree.places[user]
            alone = self._sources_of_calls[user] == {key} and len(self._tree.places[user]) == 1
            if first is None or not seconds or not (alone or type(self._called[user]) in ACTIVATIONS):
                continue
            second = next((place for place in seconds if place.parent is first.parent), seconds[0])
            doubt = self._doubt_of_call(first) or (self._doubt_of_call(second) if alone else "")
            if doubt:
                self._doubts.setdefault(id(first.parent), doubt)
                continue
            if alone:
                self._connect(first, second)
            else:
                self._after[first.key] = second
            owners = {id(owner): owner for place in (first, second) for owner, _ in self._tree.owners[id(place.module)]}
            self._conditions[first.key] = self._conditions_of(o for key, o in owners.items() if key in self._traces)

    def _doubt_of_call(self, place: Place) -> str:
        """Why a module may be called where no trace has seen it; empty where it is not."""
        owners = self._tree.owners[id(place.module)]
        for owner, name in owners:
            if not _is_custom(owner):
                return f"{type(owner).__name__} holds it"
            made, source, kind = self._traces[id(owner)], self._sources[id(owner)], type(owner).__name__
            if made.failure:
                return f"{kind}.forward cannot be followed ({made.failure})"
            if name in self._inner:
                return f"another module reaches for .{name}"
            if source is None or source.mentions(name) <= 1:  # what the trace has seen is all there is
                continue
            if source.exposed_outside(name, "forward", iterating=True):
                return f"{kind} uses self.{name} in other ways than by calling it"
            if source.call_count(name) > 1 and source.calls_outside(name, "forward"):
                return f"{kind} calls self.{name} in more than one method"
        return ""

    def _connect_written(self, owner: nn.Module) -> None:
        """Attributes that the source calls one on the other, once, where forward cannot be followed."""
        made, source = self._traces[id(owner)], self._sources[id(owner)]
        if not made.failure or "forward" in vars(owner):
            return
        doubt = f"{type(owner).__name__}.forward cannot be followed ({made.failure})"
        if source is None or source.dynamic:
            self._doubts.setdefault(id(owner), doubt)
            return

        def certain(place: Place) -> bool:
            return (
                len(self._tree.places[id(place.module)]) == 1
                and source.call_count(place.name) == 1
                and not source.exposed_outside(place.name, None, iterating=False)
                and place.name not in self._inner
            )

        for a, b in source.pairs:
            first, second = Place(owner, a), Place(owner, b)
            if first.module is None or second.module is None or not certain(first):
                continue
            if certain(second):
                self._connect(first, second)
            elif type(second.module) in ACTIVATIONS:  # which is told what it is called on
                self._after[first.key] = second
        self._doubts.setdefault(id(owner), doubt)

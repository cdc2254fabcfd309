"""What a class's own source says about the modules that its instances hold: who uses them, and how."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from torch import nn

__all__ = ["Source", "source_of"]

#: Attributes of a module that may be read or called without looking at the modules inside.
_HARMLESS = frozenset(
    """
    parameters named_parameters buffers named_buffers state_dict load_state_dict modules named_modules apply train eval
    to cuda cpu half float double bfloat16 type requires_grad_ zero_grad share_memory training weight bias
    in_channels out_channels in_features out_features num_features kernel_size stride padding dilation groups eps
    momentum running_mean running_var num_batches_tracked negative_slope inplace register_forward_hook
    register_forward_pre_hook register_full_backward_hook __class__ device dtype extra_repr
    """.split()  # noqa: SIM905
)
#: Functions that call a module they are given, or only look at the object.
_HARMLESS_FUNCTIONS = frozenset(
    ("data_parallel", "checkpoint", "isinstance", "hasattr", "type", "id", "print", "len", "bool")
)


@dataclass
class Source:
    """The methods of a class and its bases (but for ``__init__`` and torch's own), read for uses of ``self.NAME``.

    calls: how often ``self.NAME(…)`` is written, by name and method.
    iterated: names that are looped over or indexed, and each of what that gives is called, by method.
    exposed: names that are reached in other ways (handed on, kept, …), by method.
    dynamic: methods that reach modules by names made at run time, or walk over all children.
    pairs: (a, b) where ``self.b`` is called on what ``self.a`` returned, and nothing else can see that.
    inner: names of attributes of *other* modules that are reached through self (``self.x.NAME``) or in a loop.
    """

    calls: dict[str, dict[str, int]] = field(default_factory=dict)
    iterated: dict[str, list[str]] = field(default_factory=dict)
    exposed: dict[str, list[str]] = field(default_factory=dict)
    dynamic: set[str] = field(default_factory=set)
    pairs: set[tuple[str, str]] = field(default_factory=set)
    inner: set[str] = field(default_factory=set)

    def call_count(self, name: str) -> int:
        """How often a call of it is written."""
        return sum(self.calls.get(name, {}).values())

    def calls_outside(self, name: str, method: str) -> bool:
        """Whether another method than this calls it."""
        return any(where != method for where in self.calls.get(name, {}))

    def mentions(self, name: str) -> int:
        """In how many places it is called, iterated or reached otherwise."""
        return self.call_count(name) + len(self.iterated.get(name, ())) + len(self.exposed.get(name, ()))

    def exposed_outside(self, name: str, method: str | None, *, iterating: bool) -> bool:
        """Whether a method, other than this, reaches it in another way than by calling it; with ``iterating``, than by
        calling it or what it contains."""
        where = self.exposed.get(name, []) + ([] if iterating else self.iterated.get(name, []))
        return any(method_name != method for method_name in where)


def source_of(kind: type[nn.Module]) -> Source | None:
    """The source of a class as far as it is a user's, or None where some of it cannot be read."""
    if kind not in _sources:
        _sources[kind] = _source_of(kind)
    return _sources[kind]


_sources: WeakKeyDictionary[type[nn.Module], Source | None] = WeakKeyDictionary()


def _source_of(kind: type[nn.Module]) -> Source | None:
    source = Source()
    for cls in kind.__mro__:
        if cls.__module__.split(".")[0] == "torch" or cls is object:
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        except (OSError, TypeError, SyntaxError):
            return None
        for method in ast.walk(tree):
            if isinstance(method, ast.FunctionDef) and method.name != "__init__":
                _read(method, source)
    return source


def _read(method: ast.FunctionDef, source: Source) -> None:
    if not method.args.args:
        return
    this = method.args.args[0].arg
    loops = (n.target for n in ast.walk(method) if isinstance(n, ast.For | ast.comprehension))
    looped = {n.id for target in loops for n in ast.walk(target) if isinstance(n, ast.Name)}
    parents = {child: parent for parent in ast.walk(method) for child in ast.iter_child_nodes(parent)}
    for node in ast.walk(method):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            if _is_name(node.value, this):
                _read_use(node, method, parents, source)
            elif (
                _root(node) in {this, *looped} and node.attr not in _HARMLESS and not _harmless(node, parents.get(node))
            ):
                source.inner.add(node.attr)
        elif isinstance(node, ast.Call) and _called_name(node) == "getattr" and node.args:
            constant = len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
            if _is_name(node.args[0], this) and not constant:
                source.dynamic.add(method.name)
            elif constant and _is_name(node.args[0], this):
                source.exposed.setdefault(str(node.args[1].value), []).append(method.name)  # type: ignore[attr-defined]
    source.pairs.update(_pairs(method, this))


def _read_use(node: ast.Attribute, method: ast.FunctionDef, parents: dict[ast.AST, ast.AST], source: Source) -> None:
    name, parent = node.attr, parents.get(node)
    if name in ("children", "named_children", "_modules", "__dict__"):
        source.dynamic.add(method.name)
    elif isinstance(parent, ast.Call) and parent.func is node:
        counts = source.calls.setdefault(name, {})
        counts[method.name] = counts.get(method.name, 0) + 1
    elif _iterates(node, parent, method, parents):
        source.iterated.setdefault(name, []).append(method.name)
    elif not _harmless(node, parent):
        source.exposed.setdefault(name, []).append(method.name)


def _iterates(
    node: ast.Attribute, parent: ast.AST | None, method: ast.FunctionDef, parents: dict[ast.AST, ast.AST]
) -> bool:
    if isinstance(parent, ast.Subscript) and parent.value is node:  # self.blocks[i](x)
        above = parents.get(parent)
        return isinstance(above, ast.Call) and above.func is parent
    if isinstance(parent, ast.Call) and _called_name(parent) in ("enumerate", "zip", "reversed"):
        return _loop_only_calls(parent, parents.get(parent), method)
    return _loop_only_calls(node, parent, method)


def _harmless(node: ast.Attribute, parent: ast.AST | None) -> bool:
    if isinstance(parent, ast.Attribute):
        return parent.attr in _HARMLESS
    if isinstance(parent, ast.Call):
        return _called_name(parent) in _HARMLESS_FUNCTIONS
    if isinstance(parent, ast.IfExp):
        return parent.test is node
    return isinstance(parent, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.If)


def _loop_only_calls(iterated: ast.AST, loop: ast.AST | None, method: ast.FunctionDef) -> bool:
    """Whether a loop over modules only calls them: ``for block in self.blocks: x = block(x)``."""
    if not (isinstance(loop, ast.For | ast.comprehension) and loop.iter is iterated):
        return False
    counted = isinstance(iterated, ast.Call) and _called_name(iterated) == "enumerate"
    targets = loop.target.elts if isinstance(loop.target, ast.Tuple) else [loop.target]
    names = {t.id for t in targets[1 if counted else 0 :] if isinstance(t, ast.Name)}
    if len(names) != len(targets) - counted:
        return False
    called = {id(n.func) for n in ast.walk(method) if isinstance(n, ast.Call)}
    return all(
        id(n) in called
        for n in ast.walk(method)
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and n.id in names
    )


def _pairs(method: ast.FunctionDef, this: str) -> Iterator[tuple[str, str]]:
    """``self.b(self.a(x))``, and ``x = self.a(x)`` with the next statement ``x = self.b(x)``."""
    for node in ast.walk(method):
        outer = _module_call(node, this)
        if outer is not None and isinstance(node, ast.Call):
            inner = _module_call(node.args[0], this)
            if inner is not None:
                yield inner, outer
        for block in (getattr(node, part, None) for part in ("body", "orelse", "finalbody")):
            if isinstance(block, list):
                for first, second in itertools.pairwise(block):
                    yield from _pair_of_statements(first, second, this)


def _pair_of_statements(first: ast.AST, second: ast.AST, this: str) -> Iterator[tuple[str, str]]:
    if not (isinstance(first, ast.Assign) and len(first.targets) == 1 and isinstance(first.targets[0], ast.Name)):
        return
    variable, a = first.targets[0].id, _module_call(first.value, this)
    overwrites = (
        isinstance(second, ast.Assign)
        and len(second.targets) == 1
        and isinstance(second.targets[0], ast.Name)
        and second.targets[0].id == variable
    )
    if a is None or not (overwrites or isinstance(second, ast.Return)):
        return
    uses = [n for n in ast.walk(second) if isinstance(n, ast.Name) and n.id == variable and isinstance(n.ctx, ast.Load)]
    for node in ast.walk(second):
        b = _module_call(node, this)
        if b is not None and isinstance(node, ast.Call) and [node.args[0]] == uses:
            yield a, b


def _module_call(node: ast.AST, this: str) -> str | None:
    """NAME where node is ``self.NAME(argument)``."""
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and _is_name(node.func.value, this)
        and len(node.args) == 1
        and not node.keywords
        and not isinstance(node.args[0], ast.Starred)
    ):
        return node.func.attr
    return None


def _called_name(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _root(node: ast.AST) -> str:
    """The name that a chain of attributes, indices and calls begins with."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""

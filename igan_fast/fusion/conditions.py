"""What a decision depends on, read from its source: on attributes of the module that can be looked at again whenever it
is called, or on what nobody can know beforehand."""

from __future__ import annotations

import ast
import builtins
import dis
import linecache
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, ModuleType
from typing import Any

from torch import Tensor, nn

from igan_fast.fusion.decisions import Decision, Watch

__all__ = ["Condition", "conditions"]

_FUNCTIONS = frozenset(
    """
    abs all any bool dict enumerate float int isinstance issubclass len list max min range reversed round set sorted str
    sum tuple type zip
    """.split()  # noqa: SIM905
)
#: Methods of modules and their containers that tell what these are made of, and of plain values.
_METHODS = frozenset("children named_children items values keys modules startswith endswith lower upper".split())  # noqa: SIM905
#: Never true where a fused network may run.
_NEVER = frozenset(("is_scripting", "is_tracing"))
_PARTS = ast.BinOp | ast.UnaryOp | ast.BoolOp | ast.Compare | ast.IfExp | ast.Subscript | ast.Slice | ast.JoinedStr
_WHOLES = ast.Tuple | ast.List | ast.Dict | ast.FormattedValue | ast.Starred | ast.comprehension | ast.keyword
_COMPREHENSIONS = ast.GeneratorExp | ast.ListComp | ast.SetComp | ast.DictComp


@dataclass(frozen=True)
class Condition:
    """What an attribute of a module was when its forward was followed: of a module or a tensor that it was one, and
    Ellipsis where there was none."""

    owner: nn.Module
    name: str
    value: Any

    def holds(self) -> bool:
        """Whether it is so now."""
        now = getattr(self.owner, self.name, ...)
        if self.value is nn.Module or self.value is Tensor:
            return isinstance(now, self.value)
        return now is self.value or (type(now) is type(self.value) and bool(now == self.value))


def conditions(watch: Watch) -> tuple[tuple[Condition, ...], str]:
    """What has to hold for a trace to tell all that can happen; and why it does not tell that anyhow, or nothing."""
    found: dict[str, Any] = {}
    for code in watch.executed:
        if _handles_errors(code):
            return (), f"{_where(code, code.co_firstlineno)} handles errors"
    for decision in watch.decisions.values():
        one_way = watch.one_way(decision)
        if not decision.pythons or (len(decision.ways) == 1 and not one_way):
            continue
        line, nodes, function = _condition_of(decision)
        reading = _Reading(watch, decision.code, function)
        if not (nodes and all(reading.certain(node) for node in nodes)) or (reading.given and one_way):
            written = f": {ast.unparse(nodes[0])[:80]}" if len(nodes) == 1 else ""
            return (), f"{_where(decision.code, line)} may go another way{written}"
        found |= reading.read
    return tuple(Condition(watch.module, name, value) for name, value in found.items()), ""


def _where(code: CodeType, line: int) -> str:
    return f"{code.co_name}, line {line}"


class _Reading:
    """Reads an expression in a function. ``read``: the module's attributes that it depends on, as they are; ``given``:
    whether it depends on what the function was given."""

    def __init__(self, watch: Watch, code: CodeType, function: ast.AST | None) -> None:
        self.read: dict[str, Any] = {}
        self.given = False
        self._watch, self._code, self._function = watch, code, function
        arguments = getattr(function, "args", None)
        named = [*arguments.posonlyargs, *arguments.args] if arguments is not None else []
        self._this = named[0].arg if named and code not in watch.foreign else ""
        self._arguments = {n.arg for n in ast.walk(function) if isinstance(n, ast.arg)} if function else set()
        self._values = _bindings(function) if function is not None else {}
        self._open: set[str] = set()

    def certain(self, node: ast.AST) -> bool:
        """Whether its value follows from ``read`` and what was given."""
        if isinstance(node, ast.Constant):
            return True
        if isinstance(node, ast.Name):
            return self._name(node.id)
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == self._this:
                return self._attribute(node.attr)
            return self._is_fixed(self._global(node))
        if isinstance(node, ast.NamedExpr):
            return self.certain(node.value)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, _COMPREHENSIONS):
            parts = [getattr(node, part) for part in ("elt", "key", "value") if hasattr(node, part)]
            return all(self.certain(part) for part in (*node.generators, *parts))
        if isinstance(node, _PARTS | _WHOLES):
            parts = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.expr | ast.comprehension | ast.keyword)]
            return all(self.certain(part) for part in parts)
        return False

    def _call(self, node: ast.Call) -> bool:
        function, arguments = node.func, [*node.args, *node.keywords]
        if isinstance(function, ast.Name) and function.id in ("hasattr", "getattr") and len(arguments) >= 2:
            subject, name, *rest = arguments
            on_this = isinstance(subject, ast.Name) and subject.id == self._this
            if not (on_this and all(self.certain(part) for part in rest)):
                return False
            if isinstance(name, ast.Constant):
                return self._attribute(str(name.value))
            return function.id == "getattr" and self.certain(name)  # a module by its number, as setattr made it
        if isinstance(function, ast.Name):
            known = function.id in _FUNCTIONS and function.id not in self._values
            return known and all(self.certain(part) for part in arguments)
        if isinstance(function, ast.Attribute):
            if function.attr in _NEVER:
                return True
            return function.attr in _METHODS and all(self.certain(part) for part in (function.value, *arguments))
        return False

    def _name(self, name: str) -> bool:
        if name == self._this or name in self._open:
            return True
        if name in self._arguments:
            self.given = True
        elif name not in self._values:
            return self._is_fixed(self._global(ast.Name(name)))
        self._open.add(name)
        return all(self.certain(value) for value in self._values.get(name, ()))

    def _attribute(self, name: str) -> bool:
        if name == "training":  # both modes were followed
            return True
        if any(name in stored for stored in map(_stored, self._watch.executed)):
            return False
        if isinstance(getattr(type(self._watch.module), name, None), property):
            return False
        value = getattr(self._watch.module, name, ...)
        plain = value is None or value is ... or callable(value) or _is_plain(value)
        for kind in (nn.Module, Tensor):
            if isinstance(value, kind):
                value, plain = kind, True
        if plain:
            self.read[name] = value
        return plain

    def _global(self, node: ast.AST) -> Any:
        """What a global name, or an attribute of a Python module, is now."""
        if isinstance(node, ast.Name):
            names = self._watch.globals.get(self._code, {})
            return names.get(node.id, getattr(builtins, node.id, None))
        if isinstance(node, ast.Attribute):
            base = self._global(node.value)
            return getattr(base, node.attr, None) if isinstance(base, ModuleType) else None
        return None

    @staticmethod
    def _is_fixed(value: Any) -> bool:
        """Whether a global is one that nobody assigns to."""
        return isinstance(value, type)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, bool | int | float | str)


@lru_cache(maxsize=256)
def _stored(code: CodeType) -> frozenset[str]:
    """Attributes that a function assigns to, of whatever."""
    return frozenset(str(o.argval) for o in dis.get_instructions(code) if o.opname in ("STORE_ATTR", "DELETE_ATTR"))


@lru_cache(maxsize=64)
def _file(name: str) -> ast.Module | None:
    try:
        return ast.parse("".join(linecache.getlines(name)))
    except (SyntaxError, ValueError):
        return None


@lru_cache(maxsize=256)
def _nodes(file: str, line: int) -> tuple[ast.AST, ...]:
    """What is written over a line, from the outside to the inside."""
    found: list[ast.AST] = []
    left: list[ast.AST] = [tree] if (tree := _file(file)) is not None else []
    while left:
        for child in ast.iter_child_nodes(left.pop(0)):
            first, last = getattr(child, "lineno", line), getattr(child, "end_lineno", line) or line
            decorated = min((d.lineno for d in getattr(child, "decorator_list", ())), default=first)
            if min(first, decorated) <= line <= last:
                found.append(child)
                left.append(child)
    return tuple(found)


def _condition_of(decision: Decision) -> tuple[int, list[ast.AST], ast.AST | None]:
    """The line of a decision, what is decided there, and the outermost function that it is in."""
    one = decision.instruction
    positions = getattr(one, "positions", None)
    if positions is None or positions.lineno is None or positions.col_offset is None:
        line = _line(decision)
        nodes = _nodes(decision.code.co_filename, line)
        return line, _tests(nodes, line), _function(nodes)
    line = positions.lineno
    start, end = (line, positions.col_offset), (positions.end_lineno, positions.end_col_offset)
    nodes = _nodes(decision.code.co_filename, line)
    around = [
        node
        for node in nodes
        if isinstance(node, ast.expr | ast.stmt)
        and (node.lineno, node.col_offset) <= start
        and (node.end_lineno, node.end_col_offset) >= end
    ]
    if not around:
        return line, [], _function(nodes)
    node = around[-1]
    for above in reversed(around[:-1]):  # one of the values that a conditional expression has
        if not isinstance(above, ast.IfExp) or node is above.test:
            break
        node = above
    if isinstance(node, ast.stmt):
        return line, [getattr(node, part) for part in ("test", "iter") if hasattr(node, part)], _function(nodes)
    if isinstance(node, _COMPREHENSIONS):
        return line, list(node.generators), _function(nodes)
    return line, [node], _function(nodes)


def _line(decision: Decision) -> int:
    starts = [line for offset, line in dis.findlinestarts(decision.code) if offset <= decision.offset and line]
    return starts[-1] if starts else decision.code.co_firstlineno


def _tests(nodes: tuple[ast.AST, ...], line: int) -> list[ast.AST]:
    """All that is decided on a line, where it is not known what of it is meant."""
    tests: list[ast.AST] = []
    for node in nodes:
        if isinstance(node, ast.If | ast.While | ast.IfExp | ast.Assert):
            tests.append(node.test)
        elif isinstance(node, ast.For | ast.comprehension):
            tests.append(node.iter)
            tests += getattr(node, "ifs", [])
        elif isinstance(node, ast.BoolOp):
            tests += node.values
    return [test for test in tests if test.lineno <= line <= (test.end_lineno or line)]  # type: ignore[attr-defined]


def _function(nodes: tuple[ast.AST, ...]) -> ast.AST | None:
    """The outermost function of the innermost class."""
    functions: list[ast.AST] = []
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            functions = []
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions.append(node)
    return functions[0] if functions else None


def _bindings(function: ast.AST) -> dict[str, list[ast.AST]]:
    """What each name in a function is bound to; to itself, which is never certain, where it cannot be said."""
    bound: dict[str, list[ast.AST]] = {}

    def bind(target: ast.AST, value: ast.AST) -> None:
        for node in ast.walk(target):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                bound.setdefault(node.id, []).append(value)

    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                bind(target, node.value)
        elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            bind(node.target, node.value)
        elif isinstance(node, ast.For | ast.comprehension):
            bind(node.target, node.iter)
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            bind(node.optional_vars, ast.Pass())
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom | ast.Global | ast.Nonlocal):
            names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            names += [n if isinstance(n, str) else (n.asname or n.name) for n in getattr(node, "names", ())]
            for name in names:
                bound.setdefault(name, []).append(ast.Pass())
    return bound


def _handles_errors(code: CodeType) -> bool:
    """Whether it goes on after an error: nothing raised one while it was followed."""
    line = code.co_firstlineno
    functions = [n for n in _nodes(code.co_filename, line) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    own = [n for n in functions if min(n.lineno, *(d.lineno for d in n.decorator_list), n.lineno) == line]
    if not own:
        return any(one.opname in ("CHECK_EXC_MATCH", "JUMP_IF_NOT_EXC_MATCH") for one in dis.get_instructions(code))
    handlers = [handler for n in ast.walk(own[-1]) if isinstance(n, ast.Try) for handler in n.handlers]
    return any(not isinstance(handler.body[-1], ast.Raise) for handler in handlers)

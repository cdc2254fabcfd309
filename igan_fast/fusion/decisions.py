"""The decisions that Python takes while a ``forward`` is traced, and which of them were taken in one way alone.

Symbolic execution follows both ways of what depends on a stand-in. Whatever else decides (an attribute, a global flag,
a random number, gradients being on or off) has one value then and may have another later. So each conditional jump is
watched, with the way that it took and whether a stand-in decided it.
"""

from __future__ import annotations

import dis
import itertools
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import fx, nn

__all__ = ["Decision", "Watch"]

_OURS = str(Path(__file__).parents[1])
_TORCHS = str(Path(torch.__file__).parent)
_STDLIB = sysconfig.get_path("stdlib")
#: Instructions that stand between a condition and its jump, or that are no events of their own.
_TRANSPARENT = frozenset(("CACHE", "COPY", "DUP_TOP", "EXTENDED_ARG", "NOP", "NOT_TAKEN", "TO_BOOL", "UNARY_NOT"))
#: Instructions that may ask a stand-in for its truth in the name of the jump that follows.
_ASKS = frozenset(("COMPARE_OP", "CONTAINS_OP", "TO_BOOL", "UNARY_NOT"))


@dataclass
class Decision:
    """A conditional jump in ``code`` and the ways that it took.

    ways: True where it jumped, False where it went on.
    pythons: whether it was ever decided by anything but a stand-in.
    """

    code: CodeType
    offset: int
    ways: set[bool] = field(default_factory=set)
    pythons: bool = False

    @property
    def instruction(self) -> dis.Instruction:
        """What computed the condition, or the iterator."""
        instructions = _instructions(self.code)
        index = next(i for i, one in enumerate(instructions) if one.offset == self.offset) - 1
        while index > 0 and instructions[index].opname in _TRANSPARENT:
            index -= 1
        return instructions[max(index, 0)]


class Watch:
    """Watches the functions that a module's ``forward`` runs, as far as they see modules or stand-ins; torch's own and
    the standard library's not. ``decided`` counts the decisions of stand-ins so far."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.decisions: dict[tuple[CodeType, int], Decision] = {}
        self.executed: dict[CodeType, set[int]] = {}
        self.globals: dict[CodeType, dict[str, Any]] = {}
        self.foreign: set[CodeType] = set()  # those that do not have the module as their self
        self._decided: Callable[[], int] = int

    @contextmanager
    def watching(self, decided: Callable[[], int]) -> Iterator[None]:
        """One trace. A debugger's or coverage's own trace function is set aside."""
        before, self._decided = sys.gettrace(), decided
        sys._getframe().f_trace_opcodes = True  # Python 3.12 asks for it before settrace
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(before)
            sys._getframe().f_trace_opcodes = False

    def one_way(self, decision: Decision) -> bool:
        """Whether it was never seen to go the other way, and that is more than to raise an error."""
        return len(decision.ways) == 1 and not self._raises(decision)

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if not self._is_watched(frame):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        executed = self.executed.setdefault(code, set())
        self.globals[code] = frame.f_globals
        if code.co_name.startswith("<"):  # a comprehension or lambda
            foreign = frame.f_back is not None and frame.f_back.f_code in self.foreign
        else:
            first = code.co_varnames[0] if code.co_argcount else ""
            foreign = frame.f_locals.get(first) is not self.module
        if foreign:
            self.foreign.add(code)
        conditional, asking, real = _conditional(code), _asking(code), _real(code)
        jump, count = -1, self._decided()

        def step(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal jump, count
            if event == "exception":
                jump = -1
            elif event == "opcode":
                offset, now = frame.f_lasti, self._decided()
                executed.add(offset)
                if jump >= 0:
                    self._decide(code, jump, real[offset] != conditional[jump], now > count)
                jump = offset if offset in conditional else -1
                if offset not in asking:
                    count = now
            return step

        return step

    def _decide(self, code: CodeType, offset: int, jumped: bool, by_stand_in: bool) -> None:
        decision = self.decisions.setdefault((code, offset), Decision(code, offset))
        decision.ways.add(jumped)
        decision.pythons = decision.pythons or not by_stand_in

    def _is_watched(self, frame: FrameType) -> bool:
        code, file = frame.f_code, frame.f_code.co_filename
        if code in self.executed:
            return True
        library = file.startswith(_STDLIB) and "site-packages" not in file and "dist-packages" not in file
        if library or file.startswith((_TORCHS, _OURS, "<frozen")):
            return False
        caller = frame.f_back
        if caller is not None and caller.f_code in self.executed and caller.f_code.co_filename == file:
            return True
        return any(_is_of_interest(value) for value in frame.f_locals.values())

    def _raises(self, decision: Decision) -> bool:
        """Whether the way that was not taken ends in an error, wherever it leads to."""
        code, executed = decision.code, self.executed[decision.code]
        instructions = _instructions(code)
        positions = {one.offset: index for index, one in enumerate(instructions)}
        index = positions[decision.offset]
        taken = next(iter(decision.ways))
        left = [instructions[index + 1].offset if taken else _target(instructions[index])]
        seen: set[int] = set()
        while left:
            offset = left.pop()
            if offset in seen:
                continue
            seen.add(offset)
            one = instructions[positions[offset]]
            if offset in executed or one.opname.startswith(("RETURN", "YIELD")):
                return False
            if one.opname in ("RAISE_VARARGS", "RERAISE"):
                continue
            target = _target(one)
            if target >= 0:
                left.append(target)
            if target < 0 or _is_conditional(one) or "JUMP" not in one.opname:
                left.append(instructions[positions[offset] + 1].offset)
        return True


def _is_of_interest(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(isinstance(part, fx.Proxy | nn.Module) for part in value)
    return isinstance(value, fx.Proxy | nn.Module)


@lru_cache(maxsize=256)
def _instructions(code: CodeType) -> list[dis.Instruction]:
    return list(dis.get_instructions(code))


@lru_cache(maxsize=256)
def _conditional(code: CodeType) -> dict[int, int]:
    """The conditional jumps' offsets, and where each goes on."""
    instructions = _instructions(code)
    return {
        one.offset: _real(code)[instructions[index + 1].offset]
        for index, one in enumerate(instructions)
        if _is_conditional(one)
    }


@lru_cache(maxsize=256)
def _asking(code: CodeType) -> frozenset[int]:
    """The conditional jumps behind an instruction that may ask a stand-in already."""
    real = [one for one in _instructions(code) if one.opname not in ("CACHE", "EXTENDED_ARG", "NOP", "COPY")]
    return frozenset(
        jump.offset for before, jump in itertools.pairwise(real) if _is_conditional(jump) and before.opname in _ASKS
    )


def _is_conditional(one: dis.Instruction) -> bool:
    return one.opname == "FOR_ITER" or ("JUMP" in one.opname and "IF" in one.opname)


@lru_cache(maxsize=256)
def _real(code: CodeType) -> dict[int, int]:
    """For each offset that of the first instruction from there on that is an event; which are none, versions differ."""
    real: dict[int, int] = {}
    following = -1
    for one in reversed(_instructions(code)):
        if following < 0 or one.opname not in ("CACHE", "EXTENDED_ARG", "NOP", "NOT_TAKEN"):
            following = one.offset
        real[one.offset] = following
    return real


def _target(one: dis.Instruction) -> int:
    """Where a jump leads; -1 for what is none."""
    return int(one.argval) if one.opcode in dis.hasjrel or one.opcode in dis.hasjabs else -1

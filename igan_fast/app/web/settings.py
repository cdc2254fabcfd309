"""What a user has set on the page, and the way back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from igan_fast.edit_arguments import Keep
from igan_fast.reference.editing import Amount

__all__ = ["History", "Settings"]

#: A history remembers this many steps.
_MOST_STEPS = 200


@dataclass(frozen=True)
class Settings:
    """The state of the controls."""

    amounts: tuple[dict[str, float], ...]
    """For each face: the attributes that are moved, and how far (``igan_fast.reference.editing.Amount``)."""
    keep: Keep = "photo"
    strength: float = 1.0
    """All amounts are multiplied by it."""
    companions: bool = True

    def changes(self, face: int) -> dict[str, Amount]:
        """The edits of one face, by the attributes' names."""
        moved = {name: value * self.strength for name, value in self.amounts[face].items()}
        return {name: Amount(value) for name, value in moved.items() if value}

    def with_amounts(self, face: int, amounts: dict[str, float]) -> Settings:
        """The settings with other amounts of one face. Amounts of 0 are left out."""
        moved = {name: float(value) for name, value in amounts.items() if value}
        return replace(self, amounts=(*self.amounts[:face], moved, *self.amounts[face + 1 :]))

    def control_of_difference(self, other: Settings) -> object:
        """What tells the one control in which two settings differ; None if there are several such controls or none."""
        found: list[object] = [
            name for name in ("keep", "strength", "companions") if getattr(self, name) != getattr(other, name)
        ]
        for face, (mine, others) in enumerate(zip(self.amounts, other.amounts, strict=True)):
            found += [(face, name) for name in {*mine, *others} if mine.get(name, 0.0) != others.get(name, 0.0)]
        return found[0] if len(found) == 1 else None


@dataclass
class History:
    """The settings now and before. Moving one control several times in a row is one step."""

    now: Settings
    _before: list[Settings] = field(default_factory=list)
    _moving: object = None

    def set(self, settings: Settings) -> None:
        """Make ``settings`` those of now."""
        if settings == self.now:
            return
        control = self.now.control_of_difference(settings)
        if control is None or control != self._moving:
            self._before = [*self._before, self.now][-_MOST_STEPS:]
        self.now, self._moving = settings, control

    def undo(self) -> bool:
        """Go back by one step. Return whether there was one."""
        if not self._before:
            return False
        self.now, self._moving = self._before.pop(), None
        return True

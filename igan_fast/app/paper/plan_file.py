"""``plan.json``: the options of an experiment, how long iterations take, and how many of them each method gets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igan_fast.errors import InputError, option
from igan_fast.files import FileDamaged, write_file
from igan_fast.json_files import Natural, read_json

__all__ = ["PLAN", "PlanFile"]

#: The name of the file.
PLAN = "plan.json"


@dataclass
class PlanFile:
    """The content of ``plan.json``."""

    options: Mapping[str, Any]
    """Those that decide what is trained."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """The time of an iteration, measured several times, by the name of the method."""
    iterations: dict[str, int] = field(default_factory=dict)
    """The length of the trainings of each method. Older versions did not write it."""

    @classmethod
    def read(cls, path: Path, options: Mapping[str, Any]) -> PlanFile:
        """Read the file, or make an empty plan if there is none.

        Args:
            options: those of this call.

        Raises:
            InputError: the folder was made with other options, or the file is damaged.
        """
        if not path.exists():
            return cls(options)
        content = read_json(path, {"options": dict, "seconds_per_iteration": {str: [float]}})
        for name, value in options.items():
            if (found := content["options"].get(name)) != value:
                raise InputError(
                    f"{option(name)}: found {value}, but {path.parent} was made with {found}; take it, or another --out"
                )
        if "iterations" in content:
            read_json(path, {"iterations": {str: Natural}})
        plan = cls(options, content["seconds_per_iteration"], content.get("iterations", {}))
        for name, numbers in (("seconds_per_iteration", plan.seconds), ("iterations", plan.iterations)):
            for method, found in numbers.items():
                values = found if isinstance(found, list) else [found]
                if not values or min(values) <= 0:
                    raise FileDamaged(f"{path}: damaged: {name}.{method} is {found}, expected numbers above 0")
        return plan

    def write(self, path: Path) -> None:
        """Write the file.

        Raises:
            InputError: it cannot be written.
        """
        content = {
            "options": dict(self.options),
            "iterations": self.iterations,
            "seconds_per_iteration": self.seconds,
        }
        write_file(path, (json.dumps(content, indent=2) + "\n").encode())

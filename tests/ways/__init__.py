"""Many ways of calling a network whose attributes are a convolution, a normalisation and an activation.

``WAYS[name](net, x)`` returns one or several results of any type.
"""

from __future__ import annotations

from ways.modes import MODES
from ways.results import LOOKS, WRITES
from ways.spellings import SPELLINGS, USES

__all__ = ["WAYS"]

WAYS = {
    f"{table}: {name}": way
    for table, ways in (
        ("spelling", SPELLINGS),
        ("use", USES),
        ("look", LOOKS),
        ("write", WRITES),
        ("mode", MODES),
    )
    for name, way in ways.items()
}

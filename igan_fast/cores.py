"""How much of the machine this process may use, and how much of that other programs are using now.

Linux tells it; elsewhere nothing is known, and nobody is taken to be there.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import NamedTuple

__all__ = ["Cores", "allowed_cores", "busy_elsewhere", "free_cores", "usable_cores"]

#: Seconds that are watched to see what other programs use: the kernel counts in hundredths of a second.
WATCHED = 0.3

#: Columns of /proc/stat that somebody else's work moves: user, system, irq, softirq, and steal, which is what other
#: guests of the same machine take. "nice" is left out: a program that asked to wait for others waits for us.
_BUSY = (0, 2, 5, 6, 7)


class Cores(NamedTuple):
    """What there is for this process."""

    usable: int
    """Cores that it may run on, or whose time its control group may use up."""
    busy: float
    """How many of them other programs keep busy."""

    @property
    def free(self) -> int:
        """Threads that find a core of their own; at least 1."""
        return max(1, self.usable - round(self.busy))


def free_cores(seconds: float = WATCHED) -> Cores:
    """Watch the machine for ``seconds``, doing nothing."""
    return Cores(usable_cores(), busy_elsewhere(seconds))


def allowed_cores() -> int:
    """The cores that this process may run on, whatever share of their time it has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores(root: Path = Path("/")) -> int:
    """The cores that this process may run on (its affinity), or fewer where its control group has less of their time.

    A quota of a part of a core counts as a whole one. ``root`` is where the system's files are looked for.
    """
    quota = _quota(root)
    return allowed_cores() if quota is None else max(1, min(allowed_cores(), math.ceil(quota)))


def busy_elsewhere(seconds: float = WATCHED, root: Path = Path("/")) -> float:
    """How many of the cores that this process may run on are kept busy by other programs, on average over ``seconds``.

    0 where the system does not tell.
    """
    before, own, began = _busy_seconds(root), time.process_time(), time.monotonic()
    if before is None:
        return 0.0
    time.sleep(seconds)
    after, own_after, ended = _busy_seconds(root), time.process_time(), time.monotonic()
    if after is None or ended <= began:
        return 0.0
    return max(0.0, (after - before - (own_after - own)) / (ended - began))


def _busy_seconds(root: Path) -> float | None:
    """Seconds that the cores of this process have worked since the machine started."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    try:
        lines = (root / "proc/stat").read_text(encoding="ascii").splitlines()
        rows = [line.split() for line in lines if line.startswith("cpu") and line[3:4].isdigit()]
        ticks = sum(int(row[1 + column]) for row in rows if int(row[0][3:]) in cores for column in _BUSY)
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def _quota(root: Path) -> float | None:
    """The least number of cores whose time a control group of this process, or one above it, allows; None: no limit.

    Both generations of control groups are read, each below where it is usually mounted. In a container the group's own
    path may not be visible; then its files lie at the mount itself, which every walk upward ends in.
    """
    found: list[float] = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            found += _limits(root / "sys/fs/cgroup", path)
        elif "cpu" in controllers.split(","):
            for mount in ("cpu", "cpu,cpuacct", "cpuacct,cpu"):
                found += _limits(root / "sys/fs/cgroup" / mount, path)
    return min(found, default=None)


def _limits(mount: Path, path: str) -> list[float]:
    group = mount / path.strip("/")
    folders = [group, *(folder for folder in group.parents if folder.is_relative_to(mount))]
    return [limit for folder in folders if (limit := _limit(folder)) is not None]


def _limit(folder: Path) -> float | None:
    """quota / period; None where there is no quota: "max", or −1."""
    newer = " ".join(_lines(folder / "cpu.max")).split()
    try:
        quota, period = map(int, newer or [*_lines(folder / "cpu.cfs_quota_us"), *_lines(folder / "cpu.cfs_period_us")])
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []

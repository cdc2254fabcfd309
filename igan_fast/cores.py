"""The number of CPU cores that this process may use, and how many of them other programs keep busy.

Both are read from files of Linux. On other systems the number of busy cores is taken to be 0.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import NamedTuple

__all__ = ["Cores", "allowed_cores", "busy_elsewhere", "free_cores", "usable_cores"]

#: Seconds over which the use of the cores is measured; the kernel counts in hundredths of a second.
WATCHED = 0.3

#: Columns of /proc/stat that count work: user, system, irq, softirq and steal (the time that other virtual machines
#: take). "nice" is left out, because such programs yield to this one.
_BUSY = (0, 2, 5, 6, 7)


class Cores(NamedTuple):
    """The CPU cores of this process."""

    usable: int
    """The number of cores that it may use; see ``usable_cores``."""
    busy: float
    """How many of them other programs keep busy."""

    @property
    def free(self) -> int:
        """The number of cores that other programs leave free; at least 1."""
        return max(1, self.usable - round(self.busy))


def free_cores(seconds: float = WATCHED) -> Cores:
    """Measure the use of the cores for ``seconds``, during which the caller waits."""
    return Cores(usable_cores(), busy_elsewhere(seconds))


def allowed_cores() -> int:
    """Return the number of cores in the CPU affinity of this process, without the limits of control groups."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use: its affinity, or fewer if a control group limits CPU time.

    A quota is rounded up to whole cores. ``root`` is the folder that contains ``proc`` and ``sys``.
    """
    quota = _quota(root)
    return allowed_cores() if quota is None else max(1, min(allowed_cores(), math.ceil(quota)))


def busy_elsewhere(seconds: float = WATCHED, root: Path = Path("/")) -> float:
    """Return how many of this process's cores other programs keep busy, on average over ``seconds``.

    The result is 0 if the system does not say.
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
    """Return the seconds that the cores of this process have worked since the machine started; None if unknown."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    try:
        lines = (root / "proc/stat").read_text(encoding="ascii").splitlines()
        rows = [line.split() for line in lines if line.startswith("cpu") and line[3:4].isdigit()]
        ticks = sum(int(row[1 + column]) for row in rows if int(row[0][3:]) in cores for column in _BUSY)
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def _quota(root: Path) -> float | None:
    """Return the smallest CPU limit of this process's control groups and their parents, in cores; None without a limit.

    Both versions of control groups are read, below their usual mount points. In a container the path of the group may
    not be visible. Its files are then at the mount point itself, which is the last parent that is read.
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
    """Return quota / period; None if there is no quota ("max", or −1)."""
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

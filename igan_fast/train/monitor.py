"""Monitors a run: progress, log, TensorBoard, samples, loss curves, and the check for NaN."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from igan_fast.errors import printable
from igan_fast.files import FileDamaged, FileMissing, FileUnreadable, clear_write_errors
from igan_fast.progress import LINE_EVERY
from igan_fast.train.board import Board
from igan_fast.train.curves import plot_losses
from igan_fast.train.diverged import TrainingDiverged
from igan_fast.train.grids import save_png
from igan_fast.train.run_log import RunLog

__all__ = ["Monitor", "TrainingDiverged"]

#: The largest number of rows of losses that are kept on the device between two lines of the log.
_BUFFERED = 1024

#: How many loss terms the progress line shows where none are chosen.
_FEW = 6


class _NamedTuple(Protocol):
    def _asdict(self) -> dict[str, Any]: ...


class Monitor:
    """Writes ``log.jsonl``, TensorBoard events, ``samples/*.png`` and ``losses.png`` to a run folder.

    It is a context manager. At the end of the block it flushes, draws the curves and closes the files; after an
    exception it only closes them.

    Args:
        run: the run's folder, made if needed.
        total: the last iteration of the run.
        batch_size: images per iteration, from which the speed is computed.
        start: the iteration that the run continues from. Later lines are removed from the log.
        log_every: iterations between two lines of the log. A line holds the means since the previous line.
        shown: the loss terms in the progress line; those that do not occur are left out. If none of them occurs, it
            shows the first six.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(
        self, run: Path, *, total: int, batch_size: int, start: int = 0, log_every: int = 50, shown: Sequence[str] = ()
    ) -> None:
        if log_every < 1:
            raise ValueError(f"log_every is {log_every}; expected at least 1")
        self._run = run
        self._total = total
        self._batch_size = batch_size
        self._log_every = log_every
        self._shown = shown
        self._iteration = start  # the last one recorded
        self._terms: tuple[str, ...] = ()
        self._buffer = torch.empty(0)  # (rows, terms), on the device of the losses: rows that were not read yet
        self._filled = 0
        self._sums: list[float] = []  # of the rows that were read since the previous line
        self._read = 0
        self._counts: dict[str, int] = {}
        self._is_terminal = sys.stderr.isatty()
        self._open(start)
        self._bar = tqdm(total=total, initial=start, unit="it", dynamic_ncols=True, disable=not self._is_terminal)
        self._interval_began = time.perf_counter()
        self._last_line = -LINE_EVERY

    def _open(self, start: int) -> None:
        """Open the files."""
        with clear_write_errors(str(self._run)):
            self._run.mkdir(parents=True, exist_ok=True)
        self._log = RunLog(self._run / "log.jsonl", start=start)
        self._board = Board(self._run, start=start)

    def record(
        self, iteration: int, losses: Mapping[str, Tensor] | _NamedTuple, counts: Mapping[str, int] | None = None
    ) -> None:
        """Record the losses of one iteration. It waits for the device only when a line of the log is due.

        Args:
            iteration: the number of this iteration, counted from 1 without gaps.
            losses: scalars on one device; the same terms in each call.
            counts: numbers that are added up instead of averaged, such as extra updates.

        Raises:
            TrainingDiverged: a loss since the previous line is NaN or infinite.
            InputError: the disk is full.
        """
        if iteration != self._iteration + 1:
            raise ValueError(f"iteration {iteration} was recorded after {self._iteration}")
        named = losses if isinstance(losses, Mapping) else losses._asdict()
        values = [value.detach() for value in named.values()]
        if not self._terms:
            self._terms = tuple(named)
            self._buffer = values[0].new_empty(min(self._log_every, _BUFFERED), len(values))
            self._sums = [0.0] * len(values)
        if tuple(named) != self._terms:
            raise ValueError(f"the losses are {tuple(named)}; they were {self._terms} before")
        torch.stack(values, out=self._buffer[self._filled])
        self._filled += 1
        self._iteration = iteration
        for name, count in (counts or {}).items():
            self._counts[name] = self._counts.get(name, 0) + count
        self._bar.update()
        if iteration % self._log_every == 0 or iteration == self._total:
            self.flush()
        elif self._filled == len(self._buffer):
            self._drain()

    def flush(self) -> None:
        """Read, check and log the losses since the last line. Call it before each checkpoint and at the end.

        So all losses before a checkpoint are checked, and the log of a resumed run is complete up to that checkpoint.

        Raises:
            TrainingDiverged: names the first iteration with NaN or Inf in a loss, and each such term.
            InputError: the disk is full.
        """
        if not self._filled and not self._read:
            return
        self._drain()
        counts, self._counts = self._counts, {}
        sums, self._sums = self._sums, [0.0] * len(self._terms)
        rows, self._read = self._read, 0
        seconds = time.perf_counter() - self._interval_began
        self._interval_began = time.perf_counter()
        means = {name: total / rows for name, total in zip(self._terms, sums, strict=True)}
        speed = rows * self._batch_size / seconds
        record = {
            "kind": "losses",
            "iteration": self._iteration,
            "iterations": rows,
            "seconds": round(seconds, 3),
            "images_per_second": round(speed, 1),
            "losses": means,
            **counts,
        }
        self._log.write(record)
        scalars = {f"losses/{name}": value for name, value in means.items()}
        scalars |= {f"counts/{name}": float(count) for name, count in counts.items()}
        self._board.scalars(scalars | {"speed/images_per_second": speed}, self._iteration)
        self._show(means, speed)

    def _drain(self) -> None:
        """Read the rows in the buffer and add them to the sums. Raises ``TrainingDiverged``."""
        if not self._filled:
            return
        rows = self._buffer[: self._filled].cpu().double()  # this waits for the device
        first = self._iteration - self._filled + 1
        self._filled = 0
        broken = (~rows.isfinite()).any(dim=1).nonzero()
        if len(broken):
            offset = int(broken[0])
            values = dict(zip(self._terms, rows[offset].tolist(), strict=True))
            diverged = {name: value for name, value in values.items() if not math.isfinite(value)}
            self.event("diverged", iteration=first + offset, losses=diverged)
            raise TrainingDiverged(first + offset, diverged)
        self._sums = [total + more for total, more in zip(self._sums, rows.sum(dim=0).tolist(), strict=True)]
        self._read += len(rows)

    def event(self, kind: str, *, iteration: int | None = None, **fields: Any) -> None:
        """Log an event (``"checkpoint"`` …) as a line of the log and a TensorBoard text.

        Args:
            kind: the kind of the event; ``"losses"`` is reserved.
            iteration: the iteration of the event; by default the last one recorded.
            fields: JSON values. Numbers are also TensorBoard scalars and curves in ``losses.png``.
        """
        when = self._iteration if iteration is None else iteration
        self._log.write({"kind": kind, "iteration": when, **fields})
        numbers = {f"{kind}/{name}": value for name, value in fields.items() if isinstance(value, int | float)}
        self._board.scalars(numbers, when)
        self._board.text(kind, f"`{json.dumps(fields)}`", when)

    def image(self, name: str, image: Image.Image) -> Path:
        """Save ``image`` as ``samples/NAME-ITERATION.png`` and show it in TensorBoard; return its path."""
        path = save_png(image, self._run / "samples" / f"{name}-{self._iteration:08d}.png")
        self._board.image(name, image, self._iteration)
        return path

    def message(self, text: str) -> None:
        """Print a line above the progress bar."""
        tqdm.write(printable(text))

    def close(self) -> None:
        """Flush, draw ``losses.png`` from the whole log, and close the files."""
        try:
            self.flush()
            try:
                plot_losses(self._run / "log.jsonl", self._run / "losses.png")
            except (
                FileMissing,
                FileUnreadable,
                FileDamaged,
            ) as error:  # the run itself is complete
                self.message(f"no curves are drawn: {error}")
        finally:
            self._release()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._release()

    def _release(self) -> None:
        self._bar.close()
        self._log.close()
        self._board.close()

    def _show(self, means: Mapping[str, float], speed: float) -> None:
        parts = [f"{speed:.0f} img/s", *(f"{name} {means[name]:.3f}" for name in self._shown_terms())]
        if self._is_terminal:
            self._bar.set_postfix_str(" · ".join(parts))
            return
        now = time.perf_counter()
        if now - self._last_line >= LINE_EVERY or self._iteration == self._total:
            self._last_line = now
            left = tqdm.format_interval((self._total - self._iteration) * self._batch_size / speed)
            line = [f"iteration {self._iteration}/{self._total}", *parts, f"{left} left"]
            print(" · ".join(line), file=sys.stderr, flush=True)

    def _shown_terms(self) -> list[str]:
        return [name for name in self._terms if name in self._shown] or list(self._terms[:_FEW])

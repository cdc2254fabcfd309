"""Writes TensorBoard events. Each event is in its file when the call returns.

TensorBoard's own functions create the records, but ``SummaryWriter`` is not used. It writes from a thread. Without a
flush after each event, a kill loses the events that are queued there. With a flush, a full disk makes the thread print
a traceback beside our one-line message. Its file names also contain the time in seconds only: if two files were started
in the same second, TensorBoard may read the later one first.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from igan_fast.files import clear_write_errors

__all__ = ["Board"]


class Board:
    """Writes scalars, texts and images to a new event file in ``folder``.

    Args:
        folder: an existing folder; TensorBoard shows all event files in it as one run.
        start: the iteration that the run continues from. TensorBoard hides the events of later iterations in older
            files.

    Raises:
        InputError: the file cannot be written; every method raises it too.
    """

    def __init__(self, folder: Path, *, start: int = 0) -> None:
        # Any: these modules come without types.
        self._events: Any = import_module("tensorboard.compat.proto.event_pb2")
        self._summary: Any = import_module("torch.utils.tensorboard.summary")
        record_writer: Any = import_module("tensorboard.summary.writer.record_writer")
        # TensorBoard reads the files in the order of their names, so a name begins with the time in nanoseconds.
        seconds, rest = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds:010d}.{rest:09d}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / name
        with clear_write_errors(str(self._path)):
            self._file = self._path.open("xb", buffering=0)
        self._records = record_writer.RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        # At iteration 0 too, because a failed start may have left events.
        begin = self._events.SessionLog(status=self._events.SessionLog.START)
        self._write(step=start + 1, session_log=begin)

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        for name, value in values.items():
            self._write(step=iteration, summary=self._summary.scalar(name, value))

    def text(self, name: str, text: str, iteration: int) -> None:
        self._write(step=iteration, summary=self._summary.text(name, text))

    def image(self, name: str, image: Image.Image, iteration: int) -> None:
        pixels = np.asarray(image.convert("RGB"))
        self._write(step=iteration, summary=self._summary.image(name, pixels, dataformats="HWC"))

    def close(self) -> None:
        self._file.close()

    def _write(self, **fields: Any) -> None:
        event = self._events.Event(wall_time=time.time(), **fields)
        with clear_write_errors(str(self._path)):
            self._records.write(event.SerializeToString())

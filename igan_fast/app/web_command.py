"""The command ``igan-fast web``."""

from __future__ import annotations

import signal
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, arg

from igan_fast.app.options import Device, Model
from igan_fast.app.redraw import load_editor
from igan_fast.errors import InputError, PackageMissing

__all__ = ["Web"]

_LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Web:
    """Serve a page on which photos are edited and faces drawn, in the browser, until Ctrl-C."""

    model: Model
    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1"
    """Where to listen. By default only this machine reaches the page; 0.0.0.0 lets others in."""
    port: Annotated[int | None, arg(metavar="N")] = None
    """By default the first free one from 7860 on."""
    share: Annotated[FlagCreatePairsOff[bool], arg(help="Also serve at a public address of Gradio's relay.")] = False
    open: Annotated[FlagCreatePairsOff[bool], arg(help="Open the page in the browser.")] = False
    device: Device = "auto"

    def run(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65535:
            raise InputError(f"port: found {self.port}, expected from 1 to 65535")
        try:
            from igan_fast.app.web.server import serving
        except ImportError as error:
            if (error.name or "").split(".")[0] != "gradio":
                raise
            raise PackageMissing("web: the page needs Gradio: pip install gradio") from None
        editor = load_editor(self.model, self.device)
        with serving(editor, host=self.host, port=self.port, share=self.share, tell=_tell) as address, _end() as end:
            _tell(f"serving at {address}; Ctrl-C stops it")
            if self.share:
                _tell("this address is public, and what is sent passes Gradio's relay: whoever has it can use the page")
            elif self.host not in _LOOPBACK:
                _tell("whoever reaches this machine over the network can use the page")
            if self.open:
                webbrowser.open(address)
            end.wait()
        _tell("stopped")


@contextmanager
def _end() -> Iterator[Event]:
    """An event that is set by Ctrl-C, and when the process is told to end, so that the photos are deleted."""
    end = Event()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(each, lambda *_: end.set()) for each in signals]
    try:
        yield end
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)


def _tell(line: str) -> None:
    print(line, flush=True)

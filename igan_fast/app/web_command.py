"""The command ``igan-fast web``."""

from __future__ import annotations

import webbrowser
from dataclasses import dataclass
from threading import Event
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, arg

from igan_fast.app.options import Device, Model
from igan_fast.app.redraw import load_editor
from igan_fast.errors import InputError, PackageMissing

__all__ = ["Web"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


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
        with serving(editor, host=self.host, port=self.port, share=self.share, tell=_tell) as address:
            _tell(f"serving at {address}; Ctrl-C stops it")
            if self.share:
                _tell("this address is public: whoever has it can use the page until it is stopped")
            elif self.host not in _LOOPBACK:
                _tell("whoever reaches this machine over the network can use the page")
            if self.open:
                webbrowser.open(address)
            try:
                Event().wait()
            except KeyboardInterrupt:
                _tell("stopped")


def _tell(line: str) -> None:
    print(line, flush=True)

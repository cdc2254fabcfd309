"""The command ``igan-fast export``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, arg

from igan_fast.app.options import TrainedModel
from igan_fast.app.redraw import model_files
from igan_fast.checkpoint import load_model
from igan_fast.errors import InputError, printable

__all__ = ["Export"]


@dataclass(frozen=True)
class Export:
    """Write a model as files that run without PyTorch, or without igan_fast: a recogniser, a generator, an editor."""

    model: TrainedModel
    out: Annotated[Path, arg(metavar="FOLDER")]
    """A new folder for the files."""
    format: Literal["onnx", "torch", "both"] = "onnx"
    """'onnx' for ONNX Runtime in any language, 'torch' for torch.export.load."""
    force: Annotated[FlagCreatePairsOff[bool], arg(help="Replace an earlier export in this folder.")] = False

    def run(self) -> None:
        from igan_fast.export.files import check_packages
        from igan_fast.export.folder import check_folder, export_model

        target = check_folder(self.out, force=self.force)
        for given in model_files(self.model):
            if target.is_relative_to(os.path.realpath(given)):
                raise InputError(f"--out {self.out}: lies in the model {given}; expected another folder")
        if self.format != "torch":
            check_packages()
        loaded = load_model(self.model)
        written = export_model(
            loaded,
            self.out,
            ("onnx", "torch") if self.format == "both" else (self.format,),
            force=self.force,
            report=lambda line: print(printable(line), flush=True),
        )
        print(f"wrote {len(written)} files to {printable(self.out)}")

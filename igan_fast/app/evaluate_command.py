"""The command ``igan-fast evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from igan_fast.app.options import Along, Device, EvaluatedKeep, Force, Json, Strength, TrainedModel
from igan_fast.app.redraw import model_files
from igan_fast.app.results import check_results, write_text, written_message
from igan_fast.paths import given_path
from igan_fast.reference.editing import STRENGTH

__all__ = ["Evaluate"]


@dataclass(frozen=True)
class Evaluate:
    """Score a model on held-out photos: recognition, rebuilds, generated faces, and whether edits show."""

    model: TrainedModel
    data: str = "drawn"
    """'drawn', or a folder as for train."""
    split: Literal["train", "val", "test"] = "val"
    """Which photos to score on."""
    limit: int | None = None
    """Score at most this many photos."""
    judges: Literal[0, 1, 2] = 2
    """How many CNNs judge the edits. They are trained on the real photos, once, then cached."""
    keep: EvaluatedKeep = "nothing"
    strength: Strength = STRENGTH
    companions: Along = True
    embedder: Annotated[str | None, arg(metavar="MODULE:FUNCTION")] = None
    """Function from images (N, S, S, 3) uint8 to embeddings (N, E), for identity; None: dlib's, if installed."""
    inception: Annotated[Path | None, arg(metavar="FILE")] = None
    """TorchScript file of an Inception network (NVIDIA's inception-2015-12-05.pt), for the KID and FID of papers."""
    kid_images: int = 1000
    """Measure the KID on at most this many images of each kind."""
    json: Json = None
    """Write every score to this file too; - prints it instead of the table."""
    plot: Annotated[Path | None, arg(metavar="FILE.png")] = None
    """Draw the scores into this file too."""
    device: Device = "auto"
    force: Force = False

    def run(self) -> None:
        from igan_fast.app.evaluate import evaluate
        from igan_fast.app.report import check_plot

        if self.plot:
            check_plot(self.plot)
        data = [] if self.data in ("drawn", "") else [given_path(self.data, "data")]
        given = [*model_files(self.model), *data, *([self.inception] if self.inception else [])]
        check_results(
            [path for path in (self.json, self.plot) if path and str(path) != "-"], force=self.force, given=given
        )
        scores = evaluate(
            self.model,
            self.data,
            split=self.split,
            limit=self.limit,
            judges=self.judges,
            keep=self.keep,
            strength=self.strength,
            companions=self.companions,
            embedder=self.embedder,
            inception=self.inception,
            kid_images=self.kid_images,
            device=self.device,
        )
        to_stdout = str(self.json) == "-"
        print(scores.to_json() if to_stdout else scores.table())
        if self.json and not to_stdout:
            write_text(self.json, scores.to_json())
        if self.plot:
            scores.plot(self.plot)
            if not to_stdout:
                print(written_message([self.plot]))

"""The options that several commands share, with their types and help texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from igan_fast.edit_arguments import Keep
from igan_fast.faces import Align as AlignChoice
from igan_fast.faces import check_choice

__all__ = [
    "Align",
    "Along",
    "Assignments",
    "Device",
    "EvaluatedKeep",
    "Face",
    "Follow",
    "Force",
    "Json",
    "KeepChoice",
    "Model",
    "Photos",
    "Strength",
    "TrainedModel",
    "chosen_face",
]

Photos = Annotated[
    Positional[tuple[Path, ...]],
    arg(metavar="PHOTO ...", help="Photos, or folders of photos.", help_behavior_hint="(required)"),
]
Model = Annotated[
    Path, arg(metavar="RUN", help="A run folder (its best checkpoint), a checkpoint folder, or an ONNX export.")
]
TrainedModel = Annotated[Path, arg(metavar="RUN", help="A run folder (its best checkpoint), or a checkpoint folder.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], arg(help="'auto' takes the GPU if there is one.")]
Force = Annotated[FlagCreatePairsOff[bool], arg(help="Overwrite existing files, except those that are read.")]
Assignments = Annotated[tuple[str, ...], arg(name="set", metavar="NAME=VALUE ...")]
Strength = Annotated[float, arg(help="How strong the edits are, from 0 to 10; 1 takes the values as they are set.")]
KeepChoice = Annotated[
    Keep,
    arg(help="'photo' adds the change to the photo, which stays sharp; 'nothing' draws the face again (the paper)."),
]
EvaluatedKeep = Annotated[
    Keep,
    arg(help="'photo' scores photos to which the change is added; 'nothing' edited rebuilds, which show the model."),
]
Along = Annotated[bool, arg(help="Attributes that correlate with a changed one move along, such as a beard with Male.")]
Align = Annotated[
    AlignChoice,
    arg(help="'auto' finds faces and aligns them as CelebA's, but not in aligned crops; 'off': the centre square."),
]
Face = Annotated[
    str, arg(metavar="largest|all|N", help="Which face of a photo; N counts them from left to right, from 1.")
]
Follow = Annotated[
    float | None,
    arg(
        metavar="FRAMES",
        help="The photos are frames of a video: one face is followed, and its path smoothed over this many frames.",
    ),
]
Json = Annotated[Path | None, arg(metavar="FILE|-")]


def chosen_face(align: AlignChoice, face: str) -> str | int:
    """Return the choice that ``--face`` makes. Raises ``InputError`` if there is none such."""
    choice = int(face) if face.isascii() and face.isdigit() else face
    check_choice(align, choice)
    return choice

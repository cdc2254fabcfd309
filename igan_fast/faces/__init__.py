"""Faces in photos: find them, align them as CelebA's, and paste edited ones back."""

from __future__ import annotations

from igan_fast.faces.batches import by_photo, each_photo
from igan_fast.faces.detector import Detection, Detector, default_detector
from igan_fast.faces.follow import FollowedFace
from igan_fast.faces.paste import mask_weights, paste_faces
from igan_fast.faces.search import (
    Align,
    AlignedPhoto,
    Face,
    FaceSearch,
    NoFaceFound,
    aligned,
    centre_square_place,
    check_choice,
    find_faces,
)
from igan_fast.faces.similarity import Similarity, fit_similarity
from igan_fast.faces.training import TrainingAligner, training_aligner

__all__ = [
    "Align",
    "AlignedPhoto",
    "Detection",
    "Detector",
    "Face",
    "FaceSearch",
    "FollowedFace",
    "NoFaceFound",
    "Similarity",
    "TrainingAligner",
    "aligned",
    "by_photo",
    "centre_square_place",
    "check_choice",
    "default_detector",
    "each_photo",
    "find_faces",
    "fit_similarity",
    "mask_weights",
    "paste_faces",
    "training_aligner",
]

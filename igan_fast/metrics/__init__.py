"""Scores of recognition, of edits and of images, computed from arrays and tensors."""

from igan_fast.metrics.bootstrap import bootstrap_interval
from igan_fast.metrics.features import frechet_distance
from igan_fast.metrics.images import ImageQuality, box_blur, grain, image_quality
from igan_fast.metrics.models import finite_results, in_eval_mode, quick_validation
from igan_fast.metrics.recognition import (
    AttributeScores,
    attribute_scores,
    balanced_thresholds,
    hamming_loss,
    majority_labels,
)

__all__ = [
    "AttributeScores",
    "ImageQuality",
    "attribute_scores",
    "balanced_thresholds",
    "bootstrap_interval",
    "box_blur",
    "finite_results",
    "frechet_distance",
    "grain",
    "hamming_loss",
    "image_quality",
    "in_eval_mode",
    "majority_labels",
    "quick_validation",
]

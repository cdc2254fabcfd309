"""Scores of recognition, of edits and of images, computed from arrays and tensors."""

from igan_fast.metrics.bootstrap import bootstrap_interval
from igan_fast.metrics.feature_networks import FeatureNetwork, efficientnet_features, inception_features, is_inception
from igan_fast.metrics.features import frechet_distance
from igan_fast.metrics.identity import (
    Embedder,
    IdentityScale,
    dlib_embedder,
    embed,
    embedding_distances,
    identity_distances,
    load_embedder,
    other_people,
)
from igan_fast.metrics.images import ImageQuality, box_blur, grain, image_quality
from igan_fast.metrics.models import finite_results, in_eval_mode, quick_validation, validation_sums
from igan_fast.metrics.recognition import (
    AttributeScores,
    attribute_scores,
    balanced_thresholds,
    hamming_loss,
    majority_labels,
)

__all__ = [
    "AttributeScores",
    "Embedder",
    "FeatureNetwork",
    "IdentityScale",
    "ImageQuality",
    "attribute_scores",
    "balanced_thresholds",
    "bootstrap_interval",
    "box_blur",
    "dlib_embedder",
    "efficientnet_features",
    "embed",
    "embedding_distances",
    "finite_results",
    "frechet_distance",
    "grain",
    "hamming_loss",
    "identity_distances",
    "image_quality",
    "in_eval_mode",
    "inception_features",
    "is_inception",
    "load_embedder",
    "majority_labels",
    "other_people",
    "quick_validation",
    "validation_sums",
]

"""The least memory that a training run needs, so that sizes nobody can hold are refused before anything starts."""

from __future__ import annotations

__all__ = ["least_bytes"]

_FLOAT = 4  # bytes
_SHARED = 1024  # D's layer that C reads


def least_bytes(image_size: int, width: int, latent: int, batch_size: int) -> int:
    """Bytes that no run of these sizes can do without, in whole numbers of any size; it takes some times as many.

    Weights, their gradients and Adam's two moments, of D's and G's convolutions and of the layers at their ends; a
    batch of photos, and what D's largest layer makes of it.
    """
    convolutions = 2 * 25 * (width * 2 * width + 2 * width * 4 * width + 4 * width * 8 * width)
    smallest_map = 8 * width * (image_size // 16) ** 2
    weights = convolutions + smallest_map * (latent + _SHARED) + _SHARED * latent
    batch = batch_size * (3 * image_size**2 + width * (image_size // 2) ** 2 + latent)
    return _FLOAT * (4 * weights + batch)

"""Reads checkpoints: their format, the checkpoints of a run, and the model in a checkpoint.

``igan_fast.train`` writes checkpoints. Nothing here imports it, so that a model can be used without the training loop.
"""

from igan_fast.checkpoint.find import find_checkpoint
from igan_fast.checkpoint.folder import Checkpoint, CheckpointError, load_checkpoint
from igan_fast.checkpoint.model import LoadedModel, load_model

__all__ = ["Checkpoint", "CheckpointError", "LoadedModel", "find_checkpoint", "load_checkpoint", "load_model"]

"""Checkpoints: their format, which ones a run has, and the models in them. ``igan_fast.train`` writes them.

Nothing here imports the training loop, so that whoever only uses a model does not either.
"""

from igan_fast.checkpoint.find import find_checkpoint
from igan_fast.checkpoint.folder import Checkpoint, CheckpointError, load_checkpoint
from igan_fast.checkpoint.model import LoadedModel, load_model

__all__ = ["Checkpoint", "CheckpointError", "LoadedModel", "find_checkpoint", "load_checkpoint", "load_model"]

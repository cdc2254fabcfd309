"""Training: ``train(TrainConfig(...))`` is what ``igan-fast train`` runs."""

from igan_fast.train.config import TrainConfig
from igan_fast.train.loop import TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "train"]

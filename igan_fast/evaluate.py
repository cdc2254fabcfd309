"""Scores of a trained model on held-out photos: ``evaluate(run, data)`` is what ``igan-fast evaluate`` runs."""

from igan_fast.app.evaluate import EditScores, Evaluation, edit_scores, evaluate, generation_hamming_loss

__all__ = ["EditScores", "Evaluation", "edit_scores", "evaluate", "generation_hamming_loss"]

"""What ``igan_fast.evaluate.evaluate`` returns: the scores of a model, as a table, a plot or JSON."""

from igan_fast.app.report import (
    AttributeReport,
    Evaluation,
    ImageSetReport,
    JudgedAttribute,
    JudgeReport,
    JudgeScores,
    Recognition,
)

__all__ = [
    "AttributeReport",
    "Evaluation",
    "ImageSetReport",
    "JudgeReport",
    "JudgeScores",
    "JudgedAttribute",
    "Recognition",
]

"""What ``igan_fast.evaluate.evaluate`` returns: the scores of a model, as a table, a plot or JSON."""

from igan_fast.app.report import (
    AttributeReport,
    Evaluation,
    IdentityReport,
    ImageSetReport,
    JudgedAttribute,
    JudgeReport,
    JudgeScores,
    KIDReport,
    Recognition,
)

__all__ = [
    "AttributeReport",
    "Evaluation",
    "IdentityReport",
    "ImageSetReport",
    "JudgeReport",
    "JudgeScores",
    "JudgedAttribute",
    "KIDReport",
    "Recognition",
]

"""What a model is worth on data: metrics over batches, gathered outputs, and reports that can be written down.

    model, batches -> evaluate -> {name: value}                    accumulators, one pass, nothing kept
    predict, batches -> collect -> outputs, targets, weights -> classification_report / regression_report

Rows of weight 0 are padding: they change no number and are not among the gathered rows.
"""

from jaxmodels.evaluate.batches import Collected, collect, evaluate
from jaxmodels.evaluate.reports import (
    classification_report,
    most_confident_mistakes,
    regression_report,
    wilson_interval,
)

__all__ = [
    "Collected",
    "classification_report",
    "collect",
    "evaluate",
    "most_confident_mistakes",
    "regression_report",
    "wilson_interval",
]

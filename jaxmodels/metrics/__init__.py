"""Metrics: mergeable accumulators for all that can be counted or averaged, plain functions for rankings.

* ``Metric`` factories (``accuracy()``, ``f1(10)``, ``r2()``, ``mean(loss)``, ...): ``init``, ``update``, ``merge``,
  ``compute`` over batches, or ``compute(metric, outputs, targets)`` on whole arrays.
* ``roc_curve``, ``roc_auc``, ``precision_recall_curve``, ``average_precision``, ``roc_auc_interval``: functions of all
  scores at once.

All of them are pure, jit-able, vmap-able, weighted, and blind to rows of weight 0.
"""

from jaxmodels.metrics.accumulate import Metric, compute, mean
from jaxmodels.metrics.classification import (
    Calibration,
    accuracy,
    balanced_accuracy,
    brier,
    calibration,
    cohen_kappa,
    confusion_matrix,
    f1,
    log_loss,
    matthews_correlation,
    precision,
    recall,
    top_k,
    two_sided,
)
from jaxmodels.metrics.ranking import (
    Interval,
    PrecisionRecallCurve,
    RocCurve,
    average_precision,
    log_odds,
    precision_recall_curve,
    roc_auc,
    roc_auc_interval,
    roc_curve,
    trim,
)
from jaxmodels.metrics.regression import (
    explained_variance,
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_squared_error,
    pinball,
    r2,
    root_mean_squared_error,
    same_shape,
)

__all__ = [
    "Calibration",
    "Interval",
    "Metric",
    "PrecisionRecallCurve",
    "RocCurve",
    "accuracy",
    "average_precision",
    "balanced_accuracy",
    "brier",
    "calibration",
    "cohen_kappa",
    "compute",
    "confusion_matrix",
    "explained_variance",
    "f1",
    "log_loss",
    "log_odds",
    "matthews_correlation",
    "mean",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "pinball",
    "precision",
    "precision_recall_curve",
    "r2",
    "recall",
    "roc_auc",
    "roc_auc_interval",
    "roc_curve",
    "root_mean_squared_error",
    "same_shape",
    "top_k",
    "trim",
    "two_sided",
]

"""A table in, a model and a report out: what ``jaxmodels fit`` does, from Python."""

from __future__ import annotations

from jaxmodels.predictor.options import Options
from jaxmodels.predictor.workflow import evaluate, fit, predict

__all__ = ["Options", "evaluate", "fit", "predict"]

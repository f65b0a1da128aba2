"""A classifier of photographs, from a folder to predictions: what ``jaxmodels train`` and its sisters run."""

from jaxmodels.classifier.network import Classifier, load
from jaxmodels.classifier.options import Options
from jaxmodels.classifier.workflow import Prediction, evaluate, predict, train

__all__ = ["Classifier", "Options", "Prediction", "evaluate", "load", "predict", "train"]

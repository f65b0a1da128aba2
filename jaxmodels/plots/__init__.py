"""Pictures of a run: how it learned, where it errs and how far its probabilities can be believed.

Every function draws one PNG, writes it whole or not at all, and returns its path. Figures are built without pyplot, so
there is no global state, no display, and nothing to close. Colours are those of Okabe and Ito (2008), which
colour-blind readers tell apart; lines differ in style as well.
"""

from jaxmodels.plots.benchmark import growth, peer_ratios
from jaxmodels.plots.classification import calibration, confusion_matrix, mistakes, precision_recall, roc
from jaxmodels.plots.importance import importance
from jaxmodels.plots.regression import regression
from jaxmodels.plots.training import learning_curve

__all__ = [
    "calibration",
    "confusion_matrix",
    "growth",
    "importance",
    "learning_curve",
    "mistakes",
    "peer_ratios",
    "precision_recall",
    "regression",
    "roc",
]

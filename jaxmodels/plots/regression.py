"""Where a regression errs."""

from __future__ import annotations

import math
import pathlib

import numpy as np
from jaxtyping import Num

from jaxmodels.core import InputError
from jaxmodels.plots.figure import BLACK, BLUE, Path, drawing, one_line, set_labels, short_number


def regression(
    predicted: Num[np.ndarray, " n"], actual: Num[np.ndarray, " n"], path: Path, *, name: str = "target", unit: str = ""
) -> pathlib.Path:
    """Predicted against actual values, and the residuals against the predicted.

    Args:
      predicted: ``[n]``.
      actual: ``[n]``.
      path: the PNG to write; folders are made.
      name: what is predicted, for the axes.
      unit: of it, for the axes.

    Returns:
      ``path``.
    """
    predicted, actual = (np.asarray(each, np.float64).squeeze() for each in (predicted, actual))
    predicted, actual = np.atleast_1d(predicted), np.atleast_1d(actual)
    if predicted.ndim != 1 or predicted.shape != actual.shape:
        raise InputError(f"predicted and actual must both be [n], got {predicted.shape} and {actual.shape}: one column")
    finite = np.isfinite(predicted) & np.isfinite(actual)
    if not finite.any():
        raise InputError("predicted and actual have no row where both are finite: nothing to draw")
    predicted, actual = predicted[finite], actual[finite]
    residuals = actual - predicted
    unit = one_line(unit, 20)
    suffix = f" ({unit})" if unit else ""
    # Thousands of opaque points would be one blot.
    look = {"s": 14 if len(actual) <= 500 else 6, "alpha": min(1.0, max(0.05, 500 / len(actual))), "linewidths": 0}
    with drawing((11.2, 5.0)) as (figure, save):
        left, right = figure.subplots(1, 2)
        ends = [min(predicted.min(), actual.min()), max(predicted.max(), actual.max())]
        left.plot(ends, ends, ":", color=BLACK, label="predicted = actual")
        left.scatter(actual, predicted, color=BLUE, **look)
        set_labels(
            left,
            f"{one_line(name, 30)}: {len(actual)} example{'s' * (len(actual) > 1)}",
            f"actual{suffix}",
            f"predicted{suffix}",
        )
        left.legend(loc="upper left", fontsize=9)
        right.axhline(0, ls=":", color=BLACK)
        right.scatter(predicted, residuals, color=BLUE, **look)
        spread = f"{short_number(math.sqrt(np.mean(residuals**2)))} {unit}".strip()
        set_labels(right, f"Residuals (root mean square {spread})", f"predicted{suffix}", f"actual - predicted{suffix}")
        return save(path)

"""How much each column of a table is worth to a model."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np

from jaxmodels.core import InputError
from jaxmodels.plots.figure import BLUE, Path, drawing, one_line, set_labels

MOST = 30
"""Columns drawn, the most important."""


def importance(values: Mapping[str, Mapping[str, float]], path: Path) -> pathlib.Path:
    """Bars of the growth of the loss when a column is shuffled, with the deviation between shuffles.

    Args:
      values: ``{column: {"mean": ..., "deviation": ...}}``, the most important first.
      path: the PNG to write; folders are made.

    Returns:
      ``path``.
    """
    if not values:
        raise InputError("values: no column to draw")
    shown = list(values)[:MOST][::-1]
    means, deviations = (np.array([values[name][key] for name in shown]) for key in ("mean", "deviation"))
    with drawing((8.0, 1.4 + 0.28 * len(shown))) as (figure, save):
        axes = figure.subplots()
        axes.barh([one_line(name, 30) for name in shown], means, xerr=deviations, color=BLUE, height=0.7)
        axes.axvline(0, color="0.6", lw=0.8)
        axes.margins(y=0.01)
        left_out = len(values) - len(shown)
        title = "Permutation importance" + (f", {left_out} lesser columns left out" if left_out else "")
        set_labels(axes, title, "growth of the held-out loss", "")
        return save(path)

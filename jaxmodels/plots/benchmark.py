"""How two runs of the benchmarks differ."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxmodels.core import InputError
from jaxmodels.plots.figure import BLACK, BLUE, RED, Path, drawing, one_line, set_labels


def peer_ratios(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]], path: Path
) -> pathlib.Path:
    """Our time over each peer's in two runs, with 95 % intervals, on a logarithmic axis: left of 1 ours is less.

    Args:
      before: as ``benchmark.compare.read`` gives it.
      after: the same.
      path: the PNG to write; folders are made.

    Returns:
      ``path``.

    Raises:
      InputError: no question with a peer is in both.
    """
    common = [name for name in before if name in after]
    rows = [(name, peer) for name in common for peer in before[name]["peers"] if peer in after[name]["peers"]]
    if not rows:
        raise InputError("before and after have no question with the same peer: nothing to draw")
    with drawing((8.0, 1.6 + 0.5 * len(rows))) as (figure, save):
        axes = figure.subplots()
        axes.axvline(1, ls=":", color=BLACK)
        for records, color, marker, shift, label in (
            (before, BLUE, "o", -0.12, "before"),
            (after, RED, "s", 0.12, "after"),
        ):
            found = [records[name]["peers"][peer] for name, peer in rows]
            values = np.array([[each["ratio_low"], each["ratio"], each["ratio_high"]] for each in found])
            reach = np.abs(values[:, [0, 2]] - values[:, [1]]).T
            places = np.arange(len(rows)) + shift
            axes.errorbar(values[:, 1], places, xerr=reach, fmt=marker, color=color, capsize=3, label=label)
        axes.set_xscale("log")
        axes.set_yticks(range(len(rows)), [one_line(f"{name} / {peer}", 50) for name, peer in rows])
        axes.invert_yaxis()
        set_labels(axes, "Our time over a peer's", "ratio (95 % interval)", "")
        axes.legend(fontsize=9)
        return save(path)

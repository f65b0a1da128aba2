"""How two runs of the benchmarks differ, and how costs grow with the size of a problem."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxmodels.core import InputError
from jaxmodels.plots.figure import BLACK, BLUE, GREEN, RED, Path, drawing, one_line, set_labels


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


_COSTS = (
    ("seconds", BLUE, "o-", "time, s"),
    ("roofline_seconds", BLACK, ":", "a perfect device, s"),
    ("compile_seconds", RED, "s--", "compilation, s"),
    ("program_bytes", GREEN, "^--", "memory, GB"),
)


def growth(lines: Sequence[Mapping[str, Any]], path: Path) -> pathlib.Path:
    """Time, its roofline, compilation and memory over the size, a panel an axis, all logarithmic.

    Args:
      lines: with ``axis``, ``size``, ``seconds``, ``roofline_seconds``, ``compile_seconds`` (seconds) and
        ``program_bytes``; one that is ``None`` is left out.
      path: the PNG to write; folders are made.

    Returns:
      ``path``.
    """
    if not lines:
        raise InputError("lines: none to draw")
    names = list(dict.fromkeys(line["axis"] for line in lines))
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    with drawing((3.4 * columns, 0.5 + 3.0 * rows)) as (figure, save):
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for name, axes in zip(names, panels, strict=False):
            own = [line for line in lines if line["axis"] == name]
            for key, color, style, label in _COSTS:
                unit = 1e9 if key == "program_bytes" else 1
                points = [(line["size"], line[key] / unit) for line in own if line[key]]
                axes.loglog(*np.array(points).reshape(-1, 2).T, style, color=color, label=label, markersize=4)
            sizes = [line["size"] for line in own]
            axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
            axes.set_xticks([], minor=True)
            set_labels(axes, one_line(name, 30), "size", "")
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        panels[0].legend(fontsize=8)
        return save(path)

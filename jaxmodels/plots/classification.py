"""Where a classifier errs, from its ``classification_report`` and its images."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxmodels.core import InputError
from jaxmodels.plots.figure import (
    BLUE,
    COLORS,
    GRAY,
    GREEN,
    ORANGE,
    RED,
    SKY,
    STYLES,
    Path,
    drawing,
    one_line,
    set_labels,
    short_number,
)


def roc(report: Mapping[str, Any], path: Path) -> pathlib.Path:
    """The ROC curve of a ``classification_report``: of class 1 of two, or of each class against the rest.

    Up to ten classes each have their line; beyond that they are gray, with their mean, the best and the worst in front.
    """
    curves = report["roc"]
    title = "ROC curve"
    if len(curves) == 1 and report.get("roc_auc_interval") and None not in report["roc_auc_interval"]:
        low, high = report["roc_auc_interval"]
        title += f" (95 % interval of the area {low:.3f} to {high:.3f})"
    names = ("false_positive_rate", "true_positive_rate", "roc_auc")
    with drawing((10.0 if len(curves) > 1 else 6.2, 5.6)) as (figure, save):
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], ":", color=GRAY, label="chance")
        _curves(axes, curves, names, "area", {})
        set_labels(axes, title, "false positive rate", "true positive rate")
        _unit_square(axes)
        _legend(figure, axes, len(curves))
        return save(path)


def precision_recall(report: Mapping[str, Any], path: Path) -> pathlib.Path:
    """The precision-recall curve of a ``classification_report``; lines as in ``roc``."""
    curves = report["precision_recall"]
    with drawing((10.0 if len(curves) > 1 else 6.2, 5.6)) as (figure, save):
        axes = figure.add_subplot()
        if len(curves) == 1:
            share = curves[0]["positive_share"]
            axes.axhline(share, ls=":", color=GRAY, label=f"chance ({share:.3f})")
        # Precision at a threshold holds back to the recall of the one before.
        _curves(axes, curves, ("recall", "precision", "average_precision"), "average", {"drawstyle": "steps-pre"})
        set_labels(axes, "Precision-recall curve", "recall", "precision")
        _unit_square(axes)
        _legend(figure, axes, len(curves))
        return save(path)


def _curves(axes, curves: Sequence[Mapping[str, Any]], names: tuple[str, str, str], word: str, look: dict) -> None:
    """One line a class; of many, gray ones and three that stand out."""
    x, y, area = names
    defined = sorted((curve for curve in curves if curve[area] is not None), key=lambda curve: -curve[area])
    if len(curves) <= 10:
        for index, curve in enumerate(curve for curve in curves if curve[area] is not None):
            style = STYLES[index // len(COLORS)] if len(curves) > len(COLORS) else "-"
            label = f"{one_line(curve['class'], 24)} ({word} {curve[area]:.3f})"
            axes.plot(curve[x], curve[y], style, color=COLORS[index % len(COLORS)], label=label, lw=1.8, **look)
    elif defined:
        for curve in defined:
            axes.plot(curve[x], curve[y], color=GRAY, alpha=max(0.08, 3 / len(defined)), lw=0.7, **look)
        for curve, color, style in ((defined[0], GREEN, "--"), (defined[-1], RED, "-.")):
            kind = "best" if curve is defined[0] else "worst"
            label = f"{kind}: {one_line(curve['class'], 18)} ({curve[area]:.3f})"
            axes.plot(curve[x], curve[y], style, color=color, label=label, lw=1.8, **look)
        grid = np.linspace(0, 1, 201)
        mean = np.mean([_height(curve, x, y, grid) for curve in defined], axis=0)
        label = f"mean of {len(defined)} classes ({np.mean([curve[area] for curve in defined]):.3f})"
        axes.plot(grid, mean, color=BLUE, lw=2.4, label=label)
    if len(defined) < len(curves):
        axes.plot([], [], " ", label=f"{len(curves) - len(defined)} undefined: one class only")


def _unit_square(axes) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")


def _legend(figure, axes, count: int) -> None:
    """Inside for one curve, beside the axes for more."""
    if count == 1:
        axes.legend(loc="lower right", fontsize=9)
    else:
        figure.legend(loc="outside right center", fontsize=8.5, frameon=False)


def _height(curve: Mapping[str, Any], x: str, y: str, grid: np.ndarray) -> np.ndarray:
    """A curve's height on a grid: points of a ROC are joined by lines, those of precision and recall by steps."""
    if y == "precision":
        return np.asarray(curve[y])[np.searchsorted(curve[x], grid, side="left").clip(max=len(curve[x]) - 1)]
    return np.interp(grid, curve[x], curve[y])


def confusion_matrix(report: Mapping[str, Any], path: Path) -> pathlib.Path:
    """The confusion matrix of a ``classification_report``, coloured by the share of each actual class.

    Up to 20 classes the counts stand in the cells, up to 60 the names at the sides; beyond that class numbers.
    """
    matrix = np.asarray(report["confusion_matrix"], np.float64)
    names, size = report["classes"], len(report["classes"])
    support = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, support, out=np.zeros_like(matrix), where=support > 0)
    side = min(11.0, max(4.6, 1.8 + 0.42 * size if size <= 20 else 4 + 0.15 * size))
    # The cells are square, so that names must find their room in the figure, not in the cells.
    names_need = 0.09 * max(len(one_line(name, 16)) for name in names) if size <= 60 else 0
    with drawing((side + 1.4 + names_need, side + 0.5 * names_need)) as (figure, save):
        from matplotlib.colors import PowerNorm

        axes = figure.add_subplot()
        # The root lifts rare confusions, which a linear scale hides among many classes.
        norm = PowerNorm(0.5 if size > 20 else 1.0, vmin=0, vmax=1)
        image = axes.imshow(share, cmap="Blues", norm=norm, interpolation="nearest" if size <= 400 else "antialiased")
        bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02)
        bar.set_label("share of the actual class")
        _class_ticks(axes, names)
        if size <= 20:
            _cell_numbers(axes, matrix, share)
        accuracy = np.trace(matrix) / matrix.sum()
        number = " (number)" if size > 60 else ""
        title = f"Confusion matrix (accuracy {accuracy:.3f})"
        set_labels(axes, title, f"predicted class{number}", f"actual class{number}")
        axes.grid(False)
        return save(path)


def _class_ticks(axes, names: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    size = len(names)
    if size > 60:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        return
    short = [one_line(name, 16) for name in names]
    font = 10 if size <= 10 else 8 if size <= 30 else 6.5
    # Names that fit side by side stay level.
    level = max(len(name) for name in short) * size <= 60
    axes.set_xticks(range(size), short, rotation=0 if level else 90, fontsize=font)
    axes.set_yticks(range(size), short, fontsize=font)


def _cell_numbers(axes, matrix: np.ndarray, share: np.ndarray) -> None:
    size = len(matrix)
    longest = max(len(short_number(value)) for value in matrix.ravel())
    font = min(12.0 if size <= 5 else 9.0, 44.0 / max(longest, 3)) if size > 5 else 11
    for (row, column), value in np.ndenumerate(matrix):
        text = short_number(value) + (f"\n{share[row, column]:.1%}" if size <= 5 else "")
        color = "white" if share[row, column] > 0.55 else "black" if value else GRAY
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=font)


def calibration(report: Mapping[str, Any], path: Path) -> pathlib.Path:
    """Accuracy against confidence of a ``classification_report``, and how many examples each bin of confidence has."""
    bins = report["calibration"]["bins"]
    low, high, weight = (np.array([each[name] for each in bins]) for name in ("low", "high", "weight"))
    confidence, accuracy = (np.array([each[name] for each in bins], np.float64) for name in ("confidence", "accuracy"))
    error = report["calibration"]["error"]
    with drawing((6.2, 6.6)) as (figure, save):
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        filled = ~np.isnan(accuracy)
        upper.bar(low, accuracy, high - low, align="edge", color=SKY, edgecolor="white", label="accuracy in the bin")
        upper.plot([0, 1], [0, 1], ":", color=GRAY, label="perfectly calibrated")
        upper.plot(confidence[filled], accuracy[filled], "o-", color=BLUE, ms=4, label="accuracy at mean confidence")
        set_labels(upper, f"Calibration (expected error {error:.3f})", "", "accuracy", pad=24)
        upper.set(xlim=(0, 1), ylim=(0, 1.02))
        upper.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8.5, frameon=False)
        lower.bar(low, weight / weight.sum(), high - low, align="edge", color=ORANGE, edgecolor="white")
        set_labels(lower, "", "confidence (probability of the predicted class)", "share of examples")
        return save(path)


def mistakes(images: Sequence[np.ndarray], titles: Sequence[str], path: Path) -> pathlib.Path:
    """A contact sheet, each image under its title.

    Args:
      images: each ``[h, w]``, ``[h, w, 1]`` or ``[h, w, 3]`` of any size: uint8, or floats in [0, 1] (cut off
        outside); at most 400. Of none, the sheet says so.
      titles: one an image; lines are cut where they are longer than the image is wide.
      path: the PNG to write; folders are made.

    Returns:
      ``path``.
    """
    if len(images) != len(titles):
        raise InputError(f"titles must be one an image, but there are {len(titles)} for {len(images)} images")
    if len(images) > 400:
        raise InputError(f"images: at most 400 fit on a sheet, got {len(images)}: choose fewer")
    columns = min(max(len(images), 1), 5 if len(images) <= 25 else 8)
    rows = max(math.ceil(len(images) / columns), 1)
    lines = max((title.count("\n") + 1 for title in titles), default=1)
    size = (max(2.1 * columns, 4.2), rows * (2.0 + 0.17 * lines) + 0.1)
    with drawing(size) as (figure, save):
        for place, (image, title) in enumerate(zip(images, titles, strict=True)):
            axes = figure.add_subplot(rows, columns, place + 1)
            axes.imshow(_picture(image, place), cmap="gray", vmin=0, vmax=1)
            axes.set_title("\n".join(one_line(line, 26) for line in title.split("\n")), fontsize=8)
            axes.axis("off")
        if not images:
            figure.text(0.5, 0.5, "no mistakes", ha="center", va="center", fontsize=14)
        return save(path)


def _picture(image: Any, place: int) -> np.ndarray:
    """Floats in [0, 1], ``[h, w]`` or ``[h, w, 3]``."""
    image = np.asarray(image)
    scaled = image.astype(np.float32) / (255 if image.dtype == np.uint8 else 1)
    if scaled.ndim == 3 and scaled.shape[2] == 1:
        scaled = scaled[:, :, 0]
    if scaled.ndim not in (2, 3) or (scaled.ndim == 3 and scaled.shape[2] not in (3, 4)):
        raise InputError(f"images[{place}] must be [h, w], [h, w, 1] or [h, w, 3], but has shape {image.shape}")
    return np.clip(np.nan_to_num(scaled), 0, 1)

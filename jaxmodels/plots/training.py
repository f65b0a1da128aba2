"""How a run learned."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxmodels.core import InputError
from jaxmodels.plots.figure import BLACK, BLUE, RED, Path, drawing, set_labels, short_number


def learning_curve(history: Sequence[Mapping[str, Any]], path: Path) -> pathlib.Path:
    """Loss and scores against epochs, training and validation, the best validation value marked.

    Args:
      history: a run's metrics, one mapping a line, such as
        ``{"epoch": 1, "step": 31, "train_loss": 0.7, "val_loss": 0.6, "val_accuracy": 0.8}``. Drawn is every number
        named ``train_...`` or ``val_...``, a panel a quantity; lines without ``"epoch"`` are not. Values may be absent.
      path: the PNG to write; folders are made.

    Returns:
      ``path``.

    Raises:
      InputError: no line has an epoch and such a number.
    """
    series = _series(history)
    if not series:
        raise InputError("history has no line with 'epoch' and a number named train_... or val_...: nothing to draw")
    quantities = list(dict.fromkeys(name.partition("_")[2] for name in series))
    quantities.sort(key=lambda name: name != "loss")
    columns = min(len(quantities), 2 if len(quantities) in (2, 4) else 3)
    rows = math.ceil(len(quantities) / columns)
    with drawing((5.6 * columns, 4.2 * rows)) as (figure, save):
        for place, quantity in enumerate(quantities):
            axes = figure.add_subplot(rows, columns, place + 1)
            _learning_panel(axes, quantity, {kind: series.get(f"{kind}_{quantity}") for kind in ("train", "val")})
        return save(path)


def _series(history: Sequence[Mapping[str, Any]]) -> dict[str, dict[float, float]]:
    """``{name: {epoch: value}}``; an epoch written twice (a resumed run) counts once, the last."""
    series: dict[str, dict[float, float]] = {}
    for line in history:
        for name, value in line.items():
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if number and "epoch" in line and name.startswith(("train_", "val_")):
                series.setdefault(name, {})[line["epoch"]] = value
    return {name: dict(sorted(values.items())) for name, values in series.items()}


def _learning_panel(axes, quantity: str, lines: Mapping[str, dict[float, float] | None]) -> None:
    from matplotlib.ticker import MaxNLocator

    looks = {"train": (BLUE, "-", "o", "training"), "val": (RED, "--", "s", "validation")}
    epochs = sorted({epoch for values in lines.values() for epoch in values or ()})
    for kind, values in lines.items():
        if values:
            color, style, marker, label = looks[kind]
            # Markers show where values are, until they would run into one another.
            marker = marker if len(values) <= 40 else None
            axes.plot(list(values), list(values.values()), style, color=color, marker=marker, ms=4, label=label)
    every = [value for values in lines.values() for value in (values or {}).values()]
    falls = "loss" in quantity or "error" in quantity
    validation = lines.get("val")
    if validation:
        best = (min if falls else max)(validation, key=lambda epoch: validation[epoch])
        text = f"best: {short_number(validation[best])}, epoch {best:g}"
        axes.plot([best], [validation[best]], "o", color=BLACK, mfc="none", mew=1.5, ms=11, label=text, zorder=3)
    if falls and min(every) > 0 and max(every) > 50 * min(every):
        axes.set_yscale("log")
    if epochs[0] == epochs[-1]:
        axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    words = quantity.replace("_", " ")
    set_labels(axes, words.capitalize(), "epoch", words + (" (nats)" if quantity == "loss" else ""), pad=24)
    # Above the axes, where no line can be.
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8.5, frameon=False)

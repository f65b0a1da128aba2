"""What ``jaxmodels fit`` is told."""

from __future__ import annotations

import dataclasses

from jaxmodels.core import InputError

MODELS = ("linear", "elastic_net", "glm", "mlp")


@dataclasses.dataclass(frozen=True)
class Options:
    """How to fit a table; every field is a flag."""

    target: str
    """Column to predict: a column of numbers is regressed, one of categories classified."""
    model: str | None = None
    """linear, elastic_net, glm or mlp. Default: the best of those that apply, on held-out folds."""
    family: str | None = None
    """Of glm and elastic_net: poisson, gamma, ... Default: gaussian, bernoulli or categorical, by the target."""
    test: float = 0.2
    """Share of the rows to hold out for the report."""
    folds: int = 5
    """Folds of the training rows on which models are compared."""
    group: str | None = None
    """Column whose groups stay together in every split; it is no input."""
    time: str | None = None
    """Column by which the last rows are the held-out ones; it is no input."""
    drop: tuple[str, ...] = ()
    """Columns to leave out: an identifier, say."""
    categories: tuple[str, ...] = ()
    """Columns of numbers that are codes."""
    missing: tuple[str, ...] = ()
    """Further cells that stand for a missing value."""
    separator: str | None = None
    """Of CSV cells. Default: the one that cuts all rows alike."""
    encoding: str | None = None
    """Of CSV: latin-1, cp1252, ... Default: UTF-8, or UTF-16 where the file says so."""
    header: bool | None = None
    """Whether the first row holds names. Default: unless one of its cells is a number."""
    max_categories: int = 30
    """Of a column; the rarer ones are taken together."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Of mlp."""
    members: int = 5
    """Of mlp: networks that are averaged."""
    learning_rate: float = 1e-3
    """Of mlp."""
    epochs: int = 200
    """Of mlp, at most: it stops when a validation part of the training rows stops getting better."""
    seed: int = 0
    """Of the split and of everything drawn."""


def check(options: Options) -> None:
    """Raise ``InputError`` for values that no table can be fitted with."""
    if options.model is not None and options.model not in MODELS:
        raise InputError(f"model: {options.model!r} is none of {', '.join(MODELS)}")
    if options.group is not None and options.time is not None:
        raise InputError("group, time: give one of them")
    if not 0 < options.test < 1:
        raise InputError(f"test: needs a share in (0, 1), got {options.test}")
    for name, least in (("folds", 2), ("max_categories", 1), ("epochs", 1), ("members", 1)):
        if getattr(options, name) < least:
            raise InputError(f"{name}: needs {least} or more, got {getattr(options, name)}")
    if options.target in options.drop:
        raise InputError(f"drop: {options.target!r} is the target; keep it")

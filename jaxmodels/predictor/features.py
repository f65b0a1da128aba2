"""From the columns of a table to the inputs of a model: learned from the training rows, and the same ever after.

Numbers: the median where a value is missing, with a column that says so where training rows lacked one; then standard
scale. Categories: a column of 0 and 1 for each but the most frequent one; what is missing, rare or new is a category
of its own where the training rows have such, else as the most frequent one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmodels.core import InputError
from jaxmodels.data.tables import Table, is_number
from jaxmodels.preprocess import encode, tabular

OTHER = "(other)"
MOST = 1e150


class Features(NamedTuple):
    """What was learned; plain values that JSON can hold."""

    numbers: dict[str, dict[str, float]]
    """``{column: {"fill": median, "center": mean, "spread": deviation}}``, of the filled column."""
    missing: list[str]
    """Columns of numbers that get a further one, 1 where the value is missing."""
    categories: dict[str, list[str]]
    """``{column: categories}``, the most frequent first, which has no column of its own."""

    @property
    def names(self) -> list[str]:
        """Of the inputs, in order."""
        shown = [f"{name}={value}" for name, values in self.categories.items() for value in values[1:]]
        return [*self.numbers, *(f"{name} is missing" for name in self.missing), *shown]


def learn(table: Table, training: np.ndarray, *, max_categories: int) -> Features:
    """The features of a table without its target.

    Which inputs there are is decided on all its rows, so that folds have the same; medians, means and deviations come
    from the rows whose ``training`` is True.

    Raises:
      InputError: no column varies.
    """
    numbers = {name: column for name, column in table.columns.items() if is_number(column)}
    words = {name: column for name, column in table.columns.items() if name not in numbers}
    stats = _learn_numbers(numbers, training) if numbers else {}
    categories = {name: _ranked(column, max_categories) for name, column in words.items()}
    features = Features(
        stats,
        [name for name in stats if np.isnan(numbers[name]).any()],
        {name: values for name, values in categories.items() if len(values) > 1},
    )
    if not features.names:
        raise InputError("table: no column besides the target varies, so there is nothing to learn from")
    return features


def _learn_numbers(numbers: dict[str, np.ndarray], training: np.ndarray) -> dict[str, dict[str, float]]:
    """Of the columns that vary and are no copies of another."""
    for name, column in numbers.items():
        largest = np.max(np.abs(column), initial=0, where=~np.isnan(column))
        if largest > MOST:
            raise InputError(f"table: column {name!r} holds {largest:g}, which cannot be squared; correct or drop it")
    kept, fill, scaling = _number_stats(np.stack(list(numbers.values()), axis=1), training)
    values = zip(fill.tolist(), scaling.center.tolist(), scaling.spread.tolist(), strict=True)
    stats = {name: dict(zip(_NUMBER_STATS, each, strict=True)) for name, each in zip(numbers, values, strict=True)}
    return {name: each for (name, each), keep in zip(stats.items(), kept.tolist(), strict=True) if keep}


_NUMBER_STATS: tuple[str, ...] = ("fill", "center", "spread")


def _clean() -> tabular.Preprocessor:
    return tabular.chain(tabular.impute("median"), tabular.scale("standard"))


@jax.jit
def _number_stats(x: Any, training: Any) -> Any:
    """By a mask over all rows, so that one compilation serves every fold."""
    fill, scaling = _clean().fit(x, training)
    return tabular.informative(x), fill, scaling


def _ranked(column: np.ndarray, max_categories: int) -> list[str]:
    """The categories, most frequent first; one for the others where there are any."""
    counts = encode.most_frequent(column, max_categories)
    return [*counts, OTHER] if sum(counts.values()) < len(column) else [*counts]


def inputs(features: Features, table: Table) -> np.ndarray:
    """``[n, d]``, a column a name.

    Raises:
      InputError: a column is not there, or holds words where numbers were learned from.
    """
    for name in (*features.numbers, *features.categories):
        if name not in table.columns:
            raise InputError(f"table: has no column {name!r}, which the model needs; it has {', '.join(table.columns)}")
    parts = [_numbers(features, table)]
    parts += [np.isnan(_column(table, name))[:, None] for name in features.missing]
    for name, values in features.categories.items():
        codes = encode.codes(table.columns[name], values)
        codes = np.where(codes < 0, values.index(OTHER) if OTHER in values else 0, codes)
        parts.append(codes[:, None] == np.arange(1, len(values)))
    return np.concatenate([np.asarray(part, np.float64) for part in parts], axis=1)


def _numbers(features: Features, table: Table) -> np.ndarray:
    if not features.numbers:
        return np.zeros((table.num_rows, 0))
    x = np.stack([_column(table, name) for name in features.numbers], axis=1)
    fill, *scaling = (np.array([stats[key] for stats in features.numbers.values()]) for key in _NUMBER_STATS)
    return np.asarray(_clean().apply((fill, tabular.Scaling(*scaling)), x))


def _column(table: Table, name: str) -> np.ndarray:
    """A column of numbers; one whose cells are all missing may have been read as categories."""
    column = table.columns[name]
    if is_number(column):
        return column
    present = [cell for cell in column if cell is not None]
    if present:
        raise InputError(f"table: column {name!r} holds words, the first {present[0]!r}; the model needs numbers")
    return np.full(len(column), np.nan)

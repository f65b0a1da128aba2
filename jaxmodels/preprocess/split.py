"""Splits of rows: training, validation and test; k folds; at random, stratified, by group or in order of time.

On the host, and a pure function of its arguments. Rows come as numbers; ``masks`` turns them into booleans for ``jit``
and ``vmap``, where a fold is a mask over the same data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxmodels.core import InputError


class Split(NamedTuple):
    """Row numbers, ascending, each row in one of the three."""

    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(
    num_rows: int,
    *,
    validation: float = 0.0,
    test: float = 0.2,
    seed: int = 0,
    labels: Any = None,
    groups: Any = None,
    times: Any = None,
) -> Split:
    """Training, validation and test rows.

    Args:
      num_rows: of the table.
      validation, test: shares of the rows, to the nearest row.
      seed: of the random order.
      labels: ``[n]``: stratified, every part has each label's share.
      groups: ``[n]``: rows of a group stay together, so the shares are only nearly met.
      times: ``[n]``: no order but this: the last rows are the test's, those before them the validation's.

    >>> [len(part) for part in split(10, validation=0.2, test=0.3)]
    [5, 2, 3]
    >>> split(5, test=0.4, times=[3, 1, 2, 5, 4]).test.tolist()
    [3, 4]
    """
    if min(validation, test) < 0 or validation + test >= 1:
        raise InputError(f"validation, test: need shares that leave some to train on, got {validation} and {test}")
    by = _one_of(num_rows, labels=labels, groups=groups, times=times)
    rng = np.random.default_rng(seed)
    if groups is not None:
        parts = _grouped(rng, by, (test, validation))
    elif times is not None:
        order = np.argsort(by, kind="stable")[::-1]
        parts = _cut(order, (test, validation))
    elif labels is not None:
        strata = [rng.permutation(np.flatnonzero(by == label)) for label in np.unique(by)]
        # The strata interleaved by their ranks: a prefix has every label's share, and the whole its exact size.
        ranks = np.concatenate([(np.arange(len(rows)) + rng.random()) / len(rows) for rows in strata])
        parts = _cut(np.concatenate(strata)[np.argsort(ranks, kind="stable")], (test, validation))
    else:
        parts = _cut(rng.permutation(num_rows), (test, validation))
    tested, validated, trained = (np.sort(part) for part in parts)
    if not len(trained):
        raise InputError(f"num_rows: {num_rows} rows leave none to train on; lower validation and test")
    return Split(trained, validated, tested)


def k_fold(num_rows: int, k: int, *, seed: int | None = 0, labels: Any = None, groups: Any = None) -> np.ndarray:
    """The fold of each row, ``[n]`` from 0 to k - 1; ``k_fold(...) != fold`` is a fold's training mask.

    Args:
      num_rows, k: rows and folds.
      seed: of the random order. ``None``: rows in the order they stand, as scikit-learn's KFold, StratifiedKFold and
        GroupKFold without shuffling.
      labels: ``[n]``: stratified.
      groups: ``[n]``: rows of a group in one fold; the largest groups first, each to the lightest fold.

    >>> k_fold(5, 2, seed=None).tolist()
    [0, 0, 0, 1, 1]
    """
    if not 2 <= k <= num_rows:
        raise InputError(f"k: needs 2 or more folds and no more than the {num_rows} rows, got {k}")
    by = _one_of(num_rows, labels=labels, groups=groups)
    order = np.arange(num_rows) if seed is None else np.random.default_rng(seed).permutation(num_rows)
    folds = np.empty(num_rows, np.int32)
    if groups is not None:
        folds[order] = _group_folds(by[order], k)
    elif labels is not None:
        folds[order] = _stratified_folds(by[order], k)
    else:
        folds[order] = np.repeat(np.arange(k), [len(part) for part in np.array_split(order, k)])
    return folds


def time_folds(num_rows: int, k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """k pairs (training rows, held-out rows) of rows in order of time: all before, and the stretch that follows.

    >>> [(len(before), after.tolist()) for before, after in time_folds(6, 2)]
    [(2, [2, 3]), (4, [4, 5])]
    """
    size = num_rows // (k + 1)
    if size < 1:
        raise InputError(f"k: {k} folds in time need {k + 1} rows or more, got {num_rows}")
    for start in range(num_rows - k * size, num_rows, size):
        yield np.arange(start), np.arange(start, start + size)


def masks(parts: Split | tuple[np.ndarray, ...], num_rows: int) -> tuple[np.ndarray, ...]:
    """Row numbers as booleans ``[n]``.

    >>> masks((np.array([0, 2]),), 3)[0].tolist()
    [True, False, True]
    """
    return tuple(np.isin(np.arange(num_rows), part) for part in parts)


def first_of_duplicates(columns: dict[str, np.ndarray]) -> np.ndarray:
    """``[n]`` booleans: False for a row that equals an earlier one in every column, missing values included.

    >>> first_of_duplicates({"a": np.array([1.0, np.nan, 1.0, np.nan])}).tolist()
    [True, True, False, False]
    """
    numbered = [np.unique(column.astype(str), return_inverse=True)[1] for column in columns.values()]
    _, first = np.unique(np.stack(numbered, axis=1), axis=0, return_index=True)
    return np.isin(np.arange(len(numbered[0])), first)


def _cut(order: np.ndarray, shares: tuple[float, ...]) -> list[np.ndarray]:
    ends = np.cumsum([round(share * len(order)) for share in shares])
    return np.split(order, ends)


def _grouped(rng: np.random.Generator, groups: np.ndarray, shares: tuple[float, ...]) -> list[np.ndarray]:
    """Whole groups in random order, each to the part that still lacks most rows among those that have room for it."""
    names, sizes = np.unique(groups, return_counts=True)
    room = np.array([round(share * len(groups)) for share in shares])
    chosen: list[list[Any]] = [[] for _ in (*shares, None)]
    for index in rng.permutation(len(names)):
        # Half a group too many is nearer to the share than half a group too few.
        part = next((part for part in range(len(shares)) if room[part] >= sizes[index] / 2), len(shares))
        chosen[part].append(names[index])
        if part < len(shares):
            room[part] -= sizes[index]
    return [np.flatnonzero(np.isin(groups, part)) for part in chosen]


def _stratified_folds(labels: np.ndarray, k: int) -> np.ndarray:
    """Labels dealt out as sorted cards: the folds differ by one row in size and in every label."""
    _, first, codes = np.unique(labels, return_index=True, return_inverse=True)
    codes = np.argsort(np.argsort(first))[codes]  # labels in order of appearance
    dealt = np.sort(codes)
    shares = np.stack([np.bincount(dealt[fold::k], minlength=len(first)) for fold in range(k)])
    folds = np.empty(len(labels), np.int32)
    for code in range(len(first)):
        folds[codes == code] = np.repeat(np.arange(k), shares[:, code])
    return folds


def _group_folds(groups: np.ndarray, k: int) -> np.ndarray:
    names, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < k:
        raise InputError(f"groups: {len(names)} groups cannot fill k={k} folds; lower k")
    weights, fold_of = np.zeros(k), np.empty(len(names), np.int32)
    for group in np.argsort(sizes)[::-1]:
        fold_of[group] = weights.argmin()
        weights[fold_of[group]] += sizes[group]
    return fold_of[codes]


def _one_of(num_rows: int, **given: Any) -> np.ndarray:
    """The one array that was given, as NumPy ``[n]``; zeros where none was."""
    arrays = {name: np.asarray(array) for name, array in given.items() if array is not None}
    if len(arrays) > 1:
        raise InputError(f"{' and '.join(arrays)}: give one of them")
    for name, array in arrays.items():
        if array.shape != (num_rows,):
            raise InputError(f"{name}: needs shape ({num_rows},), one a row, got {array.shape}")
        return array.astype(str) if array.dtype == object else array
    return np.zeros(num_rows)

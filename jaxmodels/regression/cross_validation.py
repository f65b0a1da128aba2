"""Penalised paths for all folds and mixtures of penalties at once, and what the rows that were left out say of them.

    loss(alpha, l1_ratio) = sum_f W_f mean deviance of fold f / sum_f W_f

The path of fold f is fitted to the other folds. Its standard error is that of a weighted mean of the folds' values.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxmodels.core import InputError
from jaxmodels.families import Family
from jaxmodels.numerics import newton
from jaxmodels.numerics.problem import matmul
from jaxmodels.regression import elastic_net, inputs, likelihood, penalized
from jaxmodels.regression.elastic_net import Path
from jaxmodels.regression.linear import LinearParams
from jaxmodels.regression.penalized import Arguments, Choices


class Choice(NamedTuple):
    """A point of the grid and its parameters, fitted to all rows."""

    l1_ratio: Array
    alpha: Array
    index: tuple[Array, Array]
    """Into ``l1_ratios`` and the path."""
    params: LinearParams


class CrossValidation(NamedTuple):
    """What ``cross_validate`` finds; with k targets every array has a last axis of k."""

    l1_ratios: Array
    """``[r]``."""
    path: Path
    """Fitted to all rows, ``[r, num_alphas, ...]``."""
    fold_loss: Array
    """``[folds, r, num_alphas]``: mean deviance of the rows that were left out."""
    loss: Array
    """``[r, num_alphas]``: the mean over the folds."""
    standard_error: Array
    """``[r, num_alphas]``."""
    status: Array
    """int32 ``[folds, r, num_alphas]``: how the fits to the other folds ended."""
    best: Choice
    """Of the smallest loss."""
    one_standard_error: Choice
    """Of the same l1_ratio, the largest alpha whose loss is within a standard error of the smallest."""


def cross_validate(
    x: Float[Array, "n d"],
    y: Shaped[Array, "n *k"],
    *,
    folds: int | Int[Array, " n"] = 10,
    key: Array | None = None,
    alphas: Float[Array, " a"] | None = None,
    num_alphas: int = 100,
    min_ratio: float = 1e-3,
    l1_ratios: Float[Array, " r"] | Sequence[float] = (1.0,),
    family: str | Family = "gaussian",
    weights: Float[Array, " n"] | None = None,
    mask: Bool[Array, " n"] | None = None,
    offset: Float[Array, "n *k"] | None = None,
    penalty_weights: Float[Array, " d"] | None = None,
    groups: Sequence[int] | None = None,
    nonnegative: bool = False,
    standardize: bool = True,
    intercept: bool = True,
    tolerance: float | None = None,
    max_steps: int = 100,
) -> CrossValidation:
    """Choose alpha and l1_ratio by the deviance of rows that were left out, in one compiled program.

    Args:
      folds: how many, at random and of equal size; or the fold of each row, 0, 1, ..., from 2 folds on.
      key: what a number of folds is drawn with.
      alphas: shared by all folds. Default: for each l1_ratio as in ``path``, from all rows.
      l1_ratios: the mixtures to try.

    Everything else is as in ``fit``.

    Raises:
      InputError: as ``fit``; folds that are no folds; a number of folds without a key.

    >>> x = jax.random.normal(jax.random.key(0), (60, 5))
    >>> y = x[:, 0] + jax.random.normal(jax.random.key(1), (60,)) / 2
    >>> found = cross_validate(x, y, folds=5, key=jax.random.key(2), num_alphas=20)
    >>> found.fold_loss.shape, bool(found.one_standard_error.alpha > found.best.alpha)
    ((5, 1, 20), True)
    """
    choices, arguments, several = penalized.read(
        x, y, family=family, weights=weights, mask=mask, offset=offset, penalty_weights=penalty_weights, groups=groups,
        nonnegative=nonnegative, standardize=standardize, intercept=intercept,
    )  # fmt: skip
    fold, num_folds = _folds(folds, key, len(arguments.data.x))
    l1_ratios = _ratios(l1_ratios, arguments)
    ratios, alphas = elastic_net.check_alphas(alphas, num_alphas, min_ratio, arguments)
    limit = elastic_net.check_steps(tolerance, max_steps, arguments)
    found = _cross_validate(
        arguments, fold, alphas, ratios, l1_ratios, limit, max_steps,
        choices=choices, several=several, num_folds=num_folds,
    )  # fmt: skip
    elastic_net.explain_failure(choices, arguments, found.path.status)
    return found


def _folds(folds: Any, key: Any, num_rows: int) -> tuple[Array, int]:
    """The fold of each row, and their number."""
    if isinstance(folds, int) and not isinstance(folds, bool):
        if not 2 <= folds <= num_rows:
            raise InputError(f"folds: got {folds}, needs between 2 and the number of rows, {num_rows}")
        if not isinstance(key, jax.Array):
            needs = "pass jax.random.key(0), or the fold of each row"
            raise InputError(f"key: got {key!r}, but folds are drawn at random; {needs}")
        return jax.random.permutation(key, jnp.arange(num_rows) % folds), folds
    if isinstance(folds, Tracer):
        raise InputError("folds: got a traced array, needs labels known when the fit is compiled: a NumPy array")
    labels = np.asarray(folds)
    if labels.shape != (num_rows,) or labels.dtype.kind not in "iu":
        raise InputError(f"folds: got shape {labels.shape} of {labels.dtype}, needs one integer a row, ({num_rows},)")
    num_folds = len(np.unique(labels))
    if num_folds < 2 or labels.min() != 0 or labels.max() != num_folds - 1:
        raise InputError(
            f"folds: got labels {np.unique(labels)[:5]}, needs 0, 1, ... with 2 folds at least, none empty"
        )
    return jnp.asarray(labels), num_folds


def _ratios(l1_ratios: Any, arguments: Arguments) -> Array:
    array = jnp.atleast_1d(jnp.asarray(inputs.as_array("l1_ratios", l1_ratios), arguments.data.x.dtype))
    if array.ndim != 1 or not array.size:
        raise InputError(f"l1_ratios: got shape {array.shape}, needs [r], one at least")
    if not isinstance(array, Tracer) and not bool(jnp.all((array >= 0) & (array <= 1))):
        raise InputError(f"l1_ratios: got {l1_ratios}, needs numbers between 0 (ridge) and 1 (lasso)")
    return array


@functools.partial(jax.jit, static_argnames=("choices", "several", "num_folds"))
def _cross_validate(
    arguments, fold, alphas, ratios, l1_ratios, tolerance, max_steps, *, choices: Choices, several: bool, num_folds: int
) -> CrossValidation:
    def one(arguments: Arguments) -> CrossValidation:
        given = jnp.ones_like(arguments.data.x[:, 0]) if arguments.data.weights is None else arguments.data.weights

        def paths(weights, grid):
            data = arguments.data._replace(weights=weights)
            prepared = penalized.prepare(choices, arguments._replace(data=data), many=True)
            return jax.vmap(
                lambda l1_ratio, alphas: elastic_net.path_of(choices, prepared, alphas, l1_ratio, tolerance, max_steps)
            )(l1_ratios, grid)

        if alphas is None:
            whole = penalized.prepare(choices, arguments, many=False)
            grid = jax.vmap(lambda l1_ratio: elastic_net.alphas_of(choices, whole, l1_ratio, ratios))(l1_ratios)
        else:
            grid = jnp.broadcast_to(alphas, (len(l1_ratios), len(alphas)))
        # The last lane keeps every row.
        kept = fold != jnp.arange(num_folds + 1)[:, None]
        found = jax.vmap(paths, (0, None))(jnp.where(kept, given, 0), grid)
        left_out = _held_out(arguments.data, jnp.where(kept[:-1], 0, given))
        losses, sizes = jax.vmap(functools.partial(_fold_loss, choices, arguments))(
            left_out, jax.tree.map(lambda leaf: leaf[:-1], found.params)
        )
        path = jax.tree.map(lambda leaf: leaf[-1], found)
        return _chosen(l1_ratios, path, losses, sizes, found.status[:-1])

    return elastic_net.over_targets(one, several)(arguments)


def _held_out(data: Any, weights: Array) -> Array:
    return weights if data.mask is None else jnp.where(data.mask, weights, 0)


def _fold_loss(choices: Choices, arguments: Arguments, weights: Array, params: LinearParams) -> tuple[Array, Array]:
    """Mean deviance ``[r, num_alphas]`` of the rows with a weight, and the sum of the weights."""
    form = likelihood.Form(choices.family, False)
    rows = likelihood.prepare(form, arguments.data._replace(weights=weights), None).problem
    total = jnp.sum(rows.weights)
    design, offset = newton.design(rows), rows.offset
    if choices.family.name == "categorical":
        offset = jnp.pad(offset, ((0, 0), (1, 0)))

    def one(params):
        slopes = params.coefficients.reshape(design.shape[1], -1)
        outputs = offset + params.intercept + matmul(design, slopes)
        outputs = outputs if choices.family.name == "categorical" else outputs[:, 0]
        return matmul(rows.weights, choices.family.deviance(outputs, rows.targets)) / total

    # One alpha at a time, so that not all predictions are held at once.
    by_alpha = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), params)
    return lax.map(jax.vmap(one), by_alpha).T, total


def _chosen(l1_ratios: Array, path: Path, losses: Array, sizes: Array, status: Array) -> CrossValidation:
    shares = jnp.where(sizes > 0, sizes, 0) / jnp.sum(sizes)
    # A fold without rows that count has no loss.
    valid = (sizes > 0)[:, None, None]
    filled = jnp.where(valid, losses, 0)
    loss = jnp.tensordot(shares, filled, 1, precision=lax.Precision.HIGHEST)
    squares = jnp.where(valid, (filled - loss) ** 2, 0)
    variance = jnp.tensordot(shares, squares, 1, precision=lax.Precision.HIGHEST)
    error = jnp.sqrt(variance / (jnp.sum(sizes > 0) - 1))
    place = jnp.nanargmin(loss)
    row, column = place // loss.shape[1], place % loss.shape[1]
    within = loss[row] <= loss[row, column] + error[row, column]
    simplest = jnp.argmax(jnp.where(within, path.alphas[row], -jnp.inf))

    def choice(column):
        params = jax.tree.map(lambda leaf: leaf[row, column], path.params)
        return Choice(l1_ratios[row], path.alphas[row, column], (row, column), params)

    return CrossValidation(l1_ratios, path, losses, loss, error, status, choice(column), choice(simplest))

"""What each row does to a fit, and the form in which inference reads the rows.

    h_i = w_i |z_i|^2,   z_i = F'x_i,   F F' = (X'WX + P)^-1

The factor ``F`` is the fit's own. Leaving row i out moves the coefficients by ``F z_i w_i e_i / (1 - h_i)`` and the
residual sum of squares by ``w_i e_i^2 / (1 - h_i)``: every measure of influence follows without a refit.

Source: Cook and Weisberg, Residuals and Influence in Regression (1982).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxmodels.core import InputError, Solution
from jaxmodels.numerics.double_double import DoubleDouble
from jaxmodels.regression import inputs
from jaxmodels.regression.inputs import Data
from jaxmodels.regression.linear import LinearStats, predict

HIGHEST = lax.Precision.HIGHEST


class Diagnostics(NamedTuple):
    """How much each row fits and pulls; 0 in rows of weight 0."""

    residual: Float[Array, "n *k"]
    """``y - offset - fitted``."""
    leverage: Float[Array, " n"]
    """Diagonal of the hat matrix; the sum is the number of parameters used."""
    internally_studentized: Float[Array, "n *k"]
    """``sqrt(w) residual / (sigma sqrt(1 - leverage))``: R's rstandard."""
    externally_studentized: Float[Array, "n *k"]
    """The same with the sigma of the fit without that row, so Student's t with dof - 1: R's rstudent."""
    cooks_distance: Float[Array, "n *k"]
    dffits: Float[Array, "n *k"]


class Rows(NamedTuple):
    """The data as inference sees them: rows that do not count are 0 in every field."""

    basis: Float[Array, "n p"]
    """``F'x_i``; its squared norm times the weight is the leverage."""
    targets: Float[Array, "n *k"]
    """Less the offset."""
    residuals: Float[Array, "n *k"]
    weights: Float[Array, " n"]


def diagnostics(
    solution: Solution,
    x: Float[Array, "n d"] | DoubleDouble,
    y: Float[Array, "n *k"],
    *,
    weights: Float[Array, " n"] | None = None,
    mask: Bool[Array, " n"] | None = None,
    offset: Float[Array, "n *k"] | None = None,
) -> Diagnostics:
    """Residuals, leverage and influence of each row, in closed form: no row is left out and refitted.

    Args:
      solution, x, y, weights, mask, offset: as in ``infer``.

    >>> from jaxmodels.regression import linear
    >>> x, y = jnp.array([[0.0], [1.0], [2.0], [9.0]]), jnp.array([0.1, 0.9, 2.1, 7.0])
    >>> result = diagnostics(linear.fit(x, y), x, y)
    >>> f"{result.leverage.sum():.3f}", int(result.cooks_distance.argmax())
    ('2.000', 3)
    """
    rows = rows_of(solution, inputs.read(x, y, weights=weights, mask=mask, offset=offset))
    leverage = leverages(rows)
    rank, dof = solution.stats.rank, solution.stats.dof
    residuals, h, weight = rows.residuals, leverage, rows.weights
    if residuals.ndim == 2:
        h, weight = h[:, None], weight[:, None]
    sigma2 = solution.stats.sigma2
    deletion = weight * residuals**2 / (1 - h)  # what the residual sum of squares loses without the row
    internal = jnp.sqrt(weight) * residuals / jnp.sqrt(sigma2 * (1 - h))
    without = (sigma2 * dof - deletion) / (dof - 1)
    external = jnp.sqrt(weight) * residuals / jnp.sqrt(without * (1 - h))
    parts = internal, external, internal**2 * h / ((1 - h) * rank), external * jnp.sqrt(h / (1 - h))
    return Diagnostics(residuals, leverage, *[jnp.where(weight > 0, part, 0) for part in parts])


def estimates(solution: Solution) -> Float[Array, "p *k"]:
    """The parameters in one array, the intercept first where the fit had one."""
    coefficients, intercept = solution.params
    return jnp.concatenate([intercept[None], coefficients]) if with_intercept(solution.stats) else coefficients


@jax.jit
def rows_of(solution: Solution, data: Data) -> Rows:
    """The data of a fit as ``Rows``."""
    stats = solution.stats
    check_columns(data.x, stats.center)
    if data.y.ndim != solution.params.coefficients.ndim:
        raise InputError(
            f"y: got shape {data.y.shape}, but the fit's had another number of axes; pass the y of the fit"
        )
    weights = jnp.ones(data.y.shape[0], data.y.dtype) if data.weights is None else data.weights
    counts = (weights > 0) if data.mask is None else (weights > 0) & data.mask
    column = counts[:, None]
    each = column_of(counts, data.y)
    x = jnp.where(column, data.x, 0)
    pair = x if data.x_low is None else DoubleDouble(x, jnp.where(column, data.x_low, 0))
    targets = jnp.where(each, data.y if data.offset is None else data.y - data.offset, 0)
    basis = jnp.matmul(design_of(x, stats.center, with_intercept(stats)), stats.covariance_factor, precision=HIGHEST)
    residuals = targets - predict(solution.params, pair)
    if data.y_low is not None:
        residuals += data.y_low
    return Rows(jnp.where(column, basis, 0), targets, jnp.where(each, residuals, 0), jnp.where(counts, weights, 0))


def leverages(rows: Rows) -> Float[Array, " n"]:
    """The diagonal of the hat matrix."""
    return rows.weights * jnp.sum(rows.basis**2, axis=1)


def uncentered(stats: LinearStats, factor: Array) -> Array:
    """Parameters about ``center`` as ``(intercept, coefficients)``."""
    if not with_intercept(stats):
        return factor
    return factor.at[0].add(-jnp.matmul(stats.center, factor[1:], precision=HIGHEST))


def with_intercept(stats: LinearStats) -> bool:
    """Whether the fit had an intercept, which its shapes say."""
    return stats.covariance_factor.shape[-1] != stats.center.shape[-1]


def check_columns(x: Array, of_fit: Array) -> None:
    """Raise where ``x`` is not the fit's, of which ``of_fit`` has an entry a column."""
    if x.ndim != 2 or x.shape[1] != len(of_fit):
        raise InputError(f"x: got shape {x.shape}, but the fit had {len(of_fit)} columns; pass the same columns")


def design_of(x: Array, center: Array, intercept: bool) -> Array:
    """The centred columns that the fit factored."""
    return jnp.concatenate([jnp.ones_like(x[:, :1])] * intercept + [x - center], axis=1)


def column_of(values: Array, like: Array) -> Array:
    """``[n]`` against ``like`` ``[n]`` or ``[n, k]``."""
    return values[:, None] if like.ndim > values.ndim else values

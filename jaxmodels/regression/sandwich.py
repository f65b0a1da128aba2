"""The middle of the sandwich: what the residuals say about the variance of the scores, without assuming it.

    HC0      sum_i (w_i e_i)^2 z_i z_i'                 HC2, HC3: each term over (1 - h_i), (1 - h_i)^2
    cluster  sum_g s_g s_g',  s_g = sum_{i in g} w_i e_i z_i
    hac      S_0 + sum_l (1 - l / (lags + 1)) (S_l + S_l'),  S_l = sum_i u_i u_{i-l}',  u_i = w_i e_i z_i

``z_i`` are the rows in any basis; small-sample factors are the caller's.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jaxmodels.core import InputError, check_count

COVARIANCES = ("classical", "HC0", "HC1", "HC2", "HC3", "cluster", "hac")


def meat(
    covariance: str,
    basis: Float[Array, "n p"],
    residuals: Float[Array, " n"],
    weights: Float[Array, " n"],
    *,
    groups: Int[Array, " n"] | None = None,
    num_groups: int | None = None,
    lags: int | None = None,
) -> tuple[Float[Array, "p p"] | None, Float[Array, ""] | None]:
    """The middle of the sandwich, ``None`` for ``"classical"``, and for clusters how many groups have rows.

    Args:
      covariance: one of ``COVARIANCES``.
      basis: rows with ``w_i |z_i|^2`` the leverage.
      residuals, weights: 0 in rows that do not count.
      groups, num_groups, lags: as in ``inference.infer``.
    """
    if covariance == "classical":
        return None, None
    scores = basis * (weights * residuals)[:, None]
    if covariance == "cluster":
        assert groups is not None
        sums = jax.ops.segment_sum(scores, groups, num_segments=num_groups)
        present = jax.ops.segment_max((weights > 0).astype(scores.dtype), groups, num_segments=num_groups)
        return _gram(sums, sums), jnp.sum(jnp.maximum(present, 0))
    if covariance == "hac":
        return _hac(scores, weights > 0, lags), None
    if covariance in ("HC2", "HC3"):
        rest = 1 - weights * jnp.sum(basis**2, axis=1)
        scores = scores / (jnp.sqrt(rest) if covariance == "HC2" else rest)[:, None]
    return _gram(scores, scores), None


def quadratic_form(covariance: Array, vector: Array) -> Array:
    """``v' C^-1 v``, scaled to correlations first; NaN where C is singular."""
    scale = jnp.sqrt(jnp.diagonal(covariance))
    lower = jnp.linalg.cholesky(covariance / scale / scale[:, None])
    return jnp.sum(lax.linalg.triangular_solve(lower, (vector / scale)[:, None], left_side=True, lower=True) ** 2)


def check(
    covariance: str, groups, num_groups: int | None, lags: int | None, *, num_rows: int
) -> tuple[Any, int | None, int | None]:
    """``groups``, ``num_groups`` and ``lags`` checked and completed.

    Raises:
      InputError: something is missing, superfluous or out of range.
    """
    if (groups is not None) != (covariance == "cluster"):
        given = "needs groups, an id for each row" if groups is None else "takes no groups; pass covariance='cluster'"
        raise InputError(f"groups: covariance={covariance!r} {given}")
    if lags is not None and covariance != "hac":
        raise InputError(f"lags: covariance={covariance!r} takes no lags; pass covariance='hac'")
    lags = None if lags is None else check_count("lags", lags, 0)
    num_groups = None if num_groups is None else check_count("num_groups", num_groups)
    groups, num_groups = (None, None) if groups is None else _check_groups(groups, num_groups, num_rows)
    return groups, num_groups, lags


def _check_groups(groups, num_groups: int | None, num_rows: int):
    groups = groups if isinstance(groups, jax.Array) else np.asarray(groups)
    if groups.shape != (num_rows,) or not jnp.issubdtype(groups.dtype, jnp.integer):
        raise InputError(f"groups: got {groups.dtype} of shape {groups.shape}, needs {num_rows} integers, one a row")
    if isinstance(groups, Tracer):
        if num_groups is None:
            raise InputError("num_groups: needed where groups is traced (under jit or vmap); pass the largest id + 1")
        return groups, num_groups
    low, high = int(groups.min()), int(groups.max())
    num_groups = high + 1 if num_groups is None else num_groups
    if low < 0 or high >= num_groups:
        raise InputError(
            f"groups: ids from {low} to {high} with num_groups={num_groups}; they must be in [0, num_groups)"
        )
    return jnp.asarray(groups), num_groups


def _hac(scores: Array, counts: Array, lags: int | None) -> Array:
    """Rows that do not count go last, so that those around them become neighbours."""
    scores = scores[jnp.argsort(~counts, stable=True)]
    n = scores.shape[0]
    bandwidth = _newey_west_lags(jnp.sum(counts)) if lags is None else lags
    longest = int(_newey_west_lags(n)) if lags is None else min(lags, n - 1)

    def add(total, lag):
        earlier = jnp.where(jnp.arange(n)[:, None] >= lag, jnp.roll(scores, lag, axis=0), 0)
        return total + jnp.maximum(1 - lag / (bandwidth + 1), 0).astype(scores.dtype) * earlier, None

    smoothed, _ = lax.scan(add, jnp.zeros_like(scores), jnp.arange(1, longest + 1))
    one_sided = _gram(scores, smoothed)
    return _gram(scores, scores) + one_sided + one_sided.T


def _newey_west_lags(n):
    return (np if isinstance(n, int) else jnp).floor(4 * (n / 100) ** (2 / 9))


def _gram(a: Array, b: Array) -> Array:
    return jnp.matmul(a.T, b, precision=lax.Precision.HIGHEST)

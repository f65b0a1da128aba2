"""Lasso, ridge, elastic net, group lasso, adaptive and non-negative: gaussian, bernoulli, poisson, categorical.

    minimise over b, c   1/W sum_i w_i deviance(y_i, offset_i + b + x_i'c) / 2
                         + alpha sum_j f_j (l1_ratio |c_j s_j| + (1 - l1_ratio) (c_j s_j)^2 / 2),      W = sum_i w_i

with ``s_j`` the standard deviation of column j (divisor W) if ``standardize``, else 1, and ``f`` the penalty weights.
This is scikit-learn's objective for its ``Lasso`` and ``ElasticNet``, and glmnet's, but that glmnet divides the ridge
part of the gaussian family by the standard deviation of y. Each solution comes with a duality gap: no other
parameters have an objective that is lower by more than it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Shaped

from jaxmodels.core import InputError, Solution, Status, check_count
from jaxmodels.families import Family
from jaxmodels.regression import inputs, penalized
from jaxmodels.regression.glm import predict
from jaxmodels.regression.linear import LinearParams
from jaxmodels.regression.penalized import Arguments, Choices, Prepared

if TYPE_CHECKING:
    from jaxmodels.regression.cross_validation import Choice, CrossValidation, cross_validate

__all__ = ["Choice", "CrossValidation", "ElasticNetStats", "Path", "cross_validate", "fit", "path", "predict"]


class ElasticNetStats(NamedTuple):
    """What a fit found besides the parameters."""

    duality_gap: Array
    """``[]``: the objective is at most this much above its minimum."""
    null_loss: Array
    """``[]``: half the mean deviance of the best constant; the tolerance is relative to it."""
    num_nonzero: Array
    """int32 ``[]``: columns of x with a coefficient other than 0."""
    num_steps: Array
    """int32 ``[]``: working sets solved."""


class Path(NamedTuple):
    """Solutions for decreasing alpha; with k targets every array has a last axis of k."""

    alphas: Array
    """``[num_alphas]``."""
    params: LinearParams
    """``coefficients [num_alphas, d]``, ``intercept [num_alphas]``."""
    duality_gap: Array
    """``[num_alphas]``: the objective is at most this much above its minimum."""
    status: Array
    """int32 ``[num_alphas]``."""


def fit(
    x: Float[Array, "n d"],
    y: Shaped[Array, "n *k"],
    *,
    alpha: Float[Array, ""] | float,
    l1_ratio: Float[Array, ""] | float = 1.0,
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
) -> Solution:
    """The penalised estimate for one alpha.

    Pure: under ``jit``; under ``vmap`` over any argument but groups, where a bad problem fails alone; under ``grad``
    in x, y, weights, offset, alpha, l1_ratio and penalty_weights, by the implicit function theorem on the support
    (to first order).

    Args:
      x: ``[n, d]``, float32 or float64, which is then the dtype of the work; no column of ones.
      y: ``[n]``, or ``[n, k]`` for k targets, fitted one by one in the same program; of ``categorical`` classes ``[n]``
        or probabilities ``[n, k]``.
      alpha: how much to penalise, at least 0; scikit-learn's ``alpha``, glmnet's ``lambda``.
      l1_ratio: 1 is the lasso, 0 ridge; glmnet's ``alpha``.
      family: gaussian, bernoulli, poisson (names will do) or ``families.categorical(k)``, in the canonical link.
        ``categorical`` has coefficients ``[d, k]`` for all k classes.
      weights: of the rows, at least 0; only their ratios matter.
      mask: the rows to use; whatever the others hold, NaN too, is not read.
      offset: known part of the linear predictor.
      penalty_weights: f, at least 0; of the adaptive lasso ``1 / |first estimate|``; 0 leaves a column unpenalised.
      groups: a label for each column: group lasso, whose penalty is ``l1_ratio f sqrt(size) |c_group|``. Of
        ``categorical`` a group has the coefficients of all classes.
      nonnegative: coefficients of at least 0.
      standardize: penalise coefficients of columns with standard deviation 1.
      intercept: whether to fit one; it is not penalised.
      tolerance: of the duality gap, relative to ``stats.null_loss``. Default: eps^(3/4).
      max_steps: working sets to solve.

    Returns:
      A ``Solution`` of ``LinearParams`` and ``ElasticNetStats``. ``status`` is ``max_steps`` where the gap is still
      above the tolerance; ``separated`` where the targets are all 0, all 1 or lack a class, so that the intercept is
      infinite; ``nonfinite`` and ``invalid_input`` have NaN.

    Raises:
      InputError: shapes, dtypes or options that do not fit; outside ``jit`` and ``vmap`` also values that do not.

    >>> x = jnp.array([[1.0, 1.0], [2.0, -1.0], [3.0, -1.0], [4.0, 1.0]])
    >>> solution = fit(x, x[:, 0], alpha=0.25, standardize=False)    # shrinks by alpha / variance = 0.25 / 1.25
    >>> [round(float(each), 4) for each in solution.params.coefficients], Status(int(solution.status)).name
    ([0.8, 0.0], 'ok')
    """
    choices, arguments, several = penalized.read(
        x, y, family=family, weights=weights, mask=mask, offset=offset, penalty_weights=penalty_weights, groups=groups,
        nonnegative=nonnegative, standardize=standardize, intercept=intercept,
    )  # fmt: skip
    alpha, l1_ratio = check_penalty("alpha", alpha, arguments), check_penalty("l1_ratio", l1_ratio, arguments)
    limit = check_steps(tolerance, max_steps, arguments)
    solution = _fit(arguments, alpha, l1_ratio, limit, max_steps, choices=choices, several=several)
    explain_failure(choices, arguments, solution.status)
    return solution


@functools.partial(jax.jit, static_argnames=("choices", "several"))
def _fit(arguments, alpha, l1_ratio, tolerance, max_steps, *, choices: Choices, several: bool) -> Solution:
    def one(arguments: Arguments) -> Solution:
        prepared = penalized.prepare(choices, arguments, many=False)
        solved = penalized.solve_at(choices, prepared, prepared.null, alpha, alpha, l1_ratio, tolerance, max_steps)
        status = penalized.status_of(prepared, solved, tolerance, alpha, l1_ratio)
        params = penalized.params_of(choices, prepared, solved.point.coefficients)
        stats = ElasticNetStats(
            duality_gap=sum(solved.gap),
            null_loss=prepared.scale,
            num_nonzero=num_nonzero(choices, params),
            num_steps=solved.num_steps,
        )
        return Solution(without_failures(params, status), status, stats)

    return over_targets(one, several)(arguments)


def path(
    x: Float[Array, "n d"],
    y: Shaped[Array, "n *k"],
    *,
    alphas: Float[Array, " a"] | None = None,
    num_alphas: int = 100,
    min_ratio: float = 1e-3,
    l1_ratio: Float[Array, ""] | float = 1.0,
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
) -> Path:
    """The penalised estimates for a sequence of alphas, each from the one before it.

    Pure as ``fit`` is; alphas that are chosen here are constants to differentiation.

    Args:
      alphas: decreasing, or the screening is of no use. Default: ``num_alphas`` in equal ratios, from where the first
        coefficient leaves 0 down to ``min_ratio`` of that.
      num_alphas, min_ratio: of the default.

    Everything else is as in ``fit``.

    >>> x = jax.random.normal(jax.random.key(0), (50, 4))
    >>> found = path(x, x[:, 0] - x[:, 2], num_alphas=5)
    >>> (found.params.coefficients != 0).sum(axis=1).tolist(), bool((found.duality_gap < 1e-4).all())
    ([0, 2, 2, 2, 2], True)
    """
    choices, arguments, several = penalized.read(
        x, y, family=family, weights=weights, mask=mask, offset=offset, penalty_weights=penalty_weights, groups=groups,
        nonnegative=nonnegative, standardize=standardize, intercept=intercept,
    )  # fmt: skip
    l1_ratio = check_penalty("l1_ratio", l1_ratio, arguments)
    ratios, alphas = check_alphas(alphas, num_alphas, min_ratio, arguments)
    limit = check_steps(tolerance, max_steps, arguments)
    found = _path(arguments, alphas, ratios, l1_ratio, limit, max_steps, choices=choices, several=several)
    explain_failure(choices, arguments, found.status)
    return found


@functools.partial(jax.jit, static_argnames=("choices", "several"))
def _path(arguments, alphas, ratios, l1_ratio, tolerance, max_steps, *, choices: Choices, several: bool) -> Path:
    def one(arguments: Arguments) -> Path:
        prepared = penalized.prepare(choices, arguments, many=True)
        given = alphas_of(choices, prepared, l1_ratio, ratios) if alphas is None else alphas
        return path_of(choices, prepared, given, l1_ratio, tolerance, max_steps)

    return over_targets(one, several)(arguments)


def alphas_of(choices: Choices, prepared: Prepared, l1_ratio: Array, ratios: Array) -> Array:
    return lax.stop_gradient(penalized.largest_alpha(choices, prepared, l1_ratio) * ratios)


def path_of(choices, prepared: Prepared, alphas: Array, l1_ratio: Array, tolerance: Array, max_steps: Any) -> Path:
    """Along the alphas, for a problem that is prepared."""

    def one_alpha(carry, alpha):
        point, previous = carry
        solved = penalized.solve_at(choices, prepared, point, alpha, previous, l1_ratio, tolerance, max_steps)
        status = penalized.status_of(prepared, solved, tolerance, alpha, l1_ratio)
        params = penalized.params_of(choices, prepared, solved.point.coefficients)
        return (solved.point, alpha), Path(alpha, without_failures(params, status), sum(solved.gap), status)

    return lax.scan(one_alpha, (prepared.null, alphas[0]), alphas)[1]


# Shared by fit, path and cross_validate -------------------------------------------------------------------------------


def over_targets(function: Any, several: bool) -> Any:
    """The function of ``Arguments``, for each of several targets; they are the last axis of what it returns."""
    if not several:
        return function

    def each(arguments: Arguments) -> Any:
        fixed = arguments.data._replace(y=None, offset=None)

        def one(y, offset):
            return function(arguments._replace(data=fixed._replace(y=y, offset=offset)))

        return jax.vmap(one, out_axes=-1)(arguments.data.y, arguments.data.offset)

    return each


def without_failures(params: LinearParams, status: Array) -> LinearParams:
    failed = (status == Status.nonfinite) | (status == Status.invalid_input)
    return jax.tree.map(lambda leaf: jnp.where(failed, jnp.nan, leaf), params)


def num_nonzero(choices: Choices, params: LinearParams) -> Array:
    nonzero = params.coefficients != 0
    nonzero = jnp.any(nonzero, axis=1) if choices.family.name == "categorical" else nonzero
    return jnp.sum(nonzero).astype(jnp.int32)


def check_penalty(name: str, value: Any, arguments: Arguments) -> Array:
    """A scalar in the dtype of the work, in its range where that can be seen."""
    needs = "a number between 0 (ridge) and 1 (lasso)" if name == "l1_ratio" else "a finite number of at least 0"
    if not isinstance(value, (*inputs.NUMBERS, np.ndarray, jax.Array)):
        raise InputError(f"{name}: got {value!r}, needs {needs}")
    array = jnp.asarray(value, arguments.data.x.dtype)
    if array.ndim:
        fix = (
            "elastic_net.path for several" if name == "alpha" else "jax.vmap or elastic_net.cross_validate for several"
        )
        raise InputError(f"{name}: got shape {array.shape}, needs one number; use {fix}")
    highest = 1 if name == "l1_ratio" else np.inf
    if not isinstance(array, Tracer) and not (0 <= array <= highest and np.isfinite(array)):
        raise InputError(f"{name}: got {value}, needs {needs}")
    return array


def check_alphas(
    alphas: Any, num_alphas: Any, min_ratio: Any, arguments: Arguments
) -> tuple[Array | None, Array | None]:
    """``(ratios to the largest, None)`` or ``(None, alphas)``."""
    dtype = arguments.data.x.dtype
    if alphas is None:
        check_count("num_alphas", num_alphas)
        if not (isinstance(min_ratio, inputs.NUMBERS) and 0 < min_ratio < 1):
            raise InputError(f"min_ratio: got {min_ratio!r}, needs a number between 0 and 1")
        return jnp.asarray(np.geomspace(1, min_ratio, num_alphas), dtype), None
    array = jnp.asarray(inputs.as_array("alphas", alphas), dtype)
    if array.ndim != 1 or not array.size:
        raise InputError(f"alphas: got shape {array.shape}, needs [num_alphas], one at least")
    if not isinstance(array, Tracer) and not bool(jnp.all((array >= 0) & jnp.isfinite(array))):
        raise InputError("alphas: got values below 0 or not finite, needs numbers of at least 0")
    return None, array


def check_steps(tolerance: Any, max_steps: Any, arguments: Arguments) -> Array:
    """The tolerance in the dtype of the work."""
    dtype = arguments.data.x.dtype
    inputs.check_search(max_steps, tolerance, "relative duality gap")
    if isinstance(tolerance, inputs.NUMBERS) and tolerance >= 1:
        raise InputError(f"tolerance: got {tolerance}, a relative duality gap of 1 is that of zeros; use 1e-6, say")
    return jnp.asarray(penalized.default_tolerance(np.dtype(dtype)) if tolerance is None else tolerance, dtype)


def explain_failure(choices: Choices, arguments: Arguments, status: Array) -> None:
    """Outside ``jit`` an ``InputError`` that names the values a fit could not use."""
    if isinstance(status, Tracer) or not inputs.is_concrete(arguments.data):
        return
    if np.isin(np.asarray(status), (Status.nonfinite, Status.invalid_input)).any():
        penalized.explain_values(choices, arguments)


# cross_validation imports this module, so what belongs to an elastic net's face comes from there on demand.
_ELSEWHERE = ("Choice", "CrossValidation", "cross_validate")


def __getattr__(name: str) -> Any:
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jaxmodels.regression import cross_validation

    return getattr(cross_validation, name)

"""Linear regression: simple, multiple, polynomial, weighted, ridge, of several outputs, one problem or thousands.

    minimise over b, c   sum_i w_i (y_i - offset_i - b - x_i'c)^2 + sum_j l2_j c_j^2

``fit`` solves it, ``model`` is the same model for gradient descent, ``infer`` says how well the parameters are known.
The cost that gradient descent minimises is the mean squared error of m rows, and its gradient has the residual once
and the feature inside the sum:

    cost = 1/m sum_i (b + x_i'c - y_i)^2
    dcost/dc_j = 2/m sum_i (b + x_i'c - y_i) x_ij,    dcost/db = 2/m sum_i (b + x_i'c - y_i)
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxmodels.core import InputError, Model, Solution, Status, cached_factory
from jaxmodels.numerics import least_squares
from jaxmodels.numerics.double_double import DoubleDouble
from jaxmodels.numerics.problem import Form, Problem, Solved, weights_that_count
from jaxmodels.regression import inputs

if TYPE_CHECKING:
    from jaxmodels.regression.inference import diagnostics, infer, predict_interval, summary, wald_test

__all__ = ["METHODS", "LinearParams", "LinearStats", "fit", "mean_squared_error_gradient", "model", "predict"]
__all__ += ["diagnostics", "infer", "predict_interval", "summary", "wald_test"]

METHODS = least_squares.METHODS


class LinearParams(NamedTuple):
    """The parameters of a linear model."""

    coefficients: Array
    """``[d]``, or ``[d, k]`` for k outputs."""
    intercept: Array
    """``[]``, or ``[k]``; zeros when fitted without one."""


class LinearStats(NamedTuple):
    """What a fit found besides the parameters; one factorisation serves them all.

    ``p`` is the number of design columns: ``d + 1`` with an intercept, which is then column 0, else ``d``.
    """

    rank: Array
    """int32 ``[]``: independent columns among the ``p`` of the design."""
    condition: Array
    """``[]``: ``|R|_F |R^-1|_F`` of the centred and scaled design, at least its 2-norm condition number."""
    num_rows: Array
    """``[]``, in the dtype of the work: rows that count, with weight > 0 and mask set."""
    total_weight: Array
    """``[]``: sum of the weights of those rows."""
    dof: Array
    """``[]``: residual degrees of freedom, ``num_rows - trace(hat matrix)``; ``num_rows - rank`` if l2 = 0."""
    residual_sum_of_squares: Array
    """``[]`` or ``[k]``: ``sum_i w_i r_i^2``, without the penalty."""
    sigma2: Array
    """``[]`` or ``[k]``: ``residual_sum_of_squares / dof``; NaN where dof <= 0."""
    covariance_factor: Array
    """``[p, p]``, upper triangular ``F`` (the inverse of R) with ``F F' = (X' W X + diag(penalty))^-1``, where
    ``X = [1, x - center]`` (``x - center`` without an intercept). Zero rows and columns where a column was dropped.
    ``method="svd"`` gives the same product, but ``F`` is not triangular."""
    center: Array
    """``[d]``: what was subtracted from the columns of x before they were factored; zeros without an intercept.
    So the covariance of ``(intercept, coefficients)`` is ``sigma2 T F F' T'`` with ``T = [[1, -center'], [0, I]]``."""
    penalty: Array
    """``[p]``: the l2 penalty of each design column, 0 for the intercept."""
    error: LinearParams | None
    """Estimated absolute error of each parameter, shaped as they are; ``None`` unless ``method="certified"``."""


def fit(
    x: Float[Array, "n d"] | DoubleDouble,
    y: Float[Array, "n *k"] | DoubleDouble,
    *,
    weights: Float[Array, " n"] | None = None,
    mask: Bool[Array, " n"] | None = None,
    offset: Float[Array, "n *k"] | None = None,
    l2: Float[Array, "*d"] | float = 0.0,
    intercept: bool = True,
    method: Literal["qr", "svd", "cholesky", "certified"] = "qr",
) -> Solution:
    """Least squares, ordinary, weighted or ridge.

    Pure: under ``jit``; under ``vmap`` for many problems at once, where a bad one fails alone; under ``grad`` and
    ``jacobian``, in x, y, weights, offset and l2, to any order and without unrolling. Rows may be spread over devices
    (a ``NamedSharding`` of x and y): each device reduces its own, and ``[d, d]`` matrices travel.

    Args:
      x: ``[n, d]``, float32 or float64, which is then the dtype of the work; no column of ones. A polynomial is
        ``basis.polynomial(x, degree)``. A pair of arrays, which has twice the digits, helps ``"certified"``.
      y: ``[n]``, or ``[n, k]`` for k outputs that share x; an array or a pair.
      weights: inverse variances, at least 0; a row of weight 0 is as good as removed. Default: all 1.
      mask: the rows to use; whatever the others hold, NaN too, is not read. Default: all.
      offset: known part of y, subtracted from it. Default: 0.
      l2: ridge penalty on the squared coefficients, one or one a column of x; in the units of the sum above, so that
        scikit-learn's alpha is this number. The intercept is never penalised.
      intercept: whether to fit one.
      method: how. ``"qr"``: the triangular factor of the centred columns, with as many passes as their condition
        needs, and a step of refinement; of columns that depend on each other the later are dropped (coefficient 0).
        ``"svd"``: as ``"qr"``, but of all solutions the one of least norm. ``"cholesky"``: as ``"qr"``, but content
        with one pass while standard errors keep 5 digits (float64; coefficients 10). ``"certified"``:
        residuals in pairs, all digits right and an error estimate for each.

    Returns:
      A ``Solution`` of ``LinearParams`` and ``LinearStats``. ``status`` is ``rank_deficient`` where columns depend on
      each other, or are constant beside an intercept; ``underdetermined`` where there are fewer rows than parameters;
      both have finite parameters. ``nonfinite`` (NaN or infinity in a row that counts) and ``invalid_input`` (a
      negative weight or l2, no row that counts) have NaN.

    Raises:
      InputError: shapes, dtypes or options that do not fit; outside ``jit`` and ``vmap`` also values that do not:
        named, counted, with the first row.

    >>> x = jnp.array([[1.0], [2.0], [3.0], [4.0]])
    >>> solution = fit(x, 2 * x[:, 0] + 1)
    >>> solution.params.coefficients.tolist(), solution.params.intercept.tolist(), Status(int(solution.status)).name
    ([2.0], 1.0, 'ok')
    """
    if method not in METHODS:
        raise InputError(f"method: got {method!r}, needs one of {', '.join(map(repr, METHODS))}")
    data = inputs.read(x, y, weights=weights, mask=mask, offset=offset, l2=l2)
    solution = _fit(data, form=Form(bool(intercept), method))
    if inputs.is_concrete(data) and int(solution.status) in (Status.nonfinite, Status.invalid_input):
        inputs.explain_values(data)
    return solution


@functools.partial(jax.jit, static_argnames="form")
def _fit(data: inputs.Data, *, form: Form) -> Solution:
    x, y, weights, mask, offset, l2, x_low, y_low = data
    y, offset, y_low = (None if each is None else each.reshape(len(x), -1) for each in (y, offset, y_low))
    problem = Problem(x, y, weights, mask, offset, l2, x_low, y_low)
    solved = least_squares.solve(form, problem)
    stats = _stats(form, problem, solved)
    status = _status(problem, solved, stats)
    failed = (status == Status.nonfinite) | (status == Status.invalid_input)
    solution = Solution(_params(form, solved.coefficients, solved.center), status, stats)
    solution = jax.tree.map(lambda leaf: _fail(failed, leaf), solution._replace(status=None))._replace(status=status)
    return _drop_outputs(solution) if data.y.ndim == 1 else solution


def _params(form: Form, coefficients: Array, center: Array) -> LinearParams:
    if not form.intercept:
        return LinearParams(coefficients, jnp.zeros_like(coefficients[0]))
    slopes = coefficients[1:]
    return LinearParams(slopes, coefficients[0] - jnp.matmul(center, slopes, precision=lax.Precision.HIGHEST))


def _stats(form: Form, problem: Problem, solved: Solved) -> LinearStats:
    weights = weights_that_count(problem)
    penalty = jnp.zeros(problem.x.shape[1], problem.x.dtype) if problem.penalty is None else problem.penalty
    if form.intercept:
        penalty = jnp.pad(penalty, (1, 0))
    num_rows = jnp.sum(weights > 0).astype(problem.x.dtype)
    dof = num_rows - solved.rank + jnp.sum(penalty[:, None] * solved.factor**2)
    squares = solved.residual_sum_of_squares
    return LinearStats(
        rank=solved.rank.astype(jnp.int32),
        condition=solved.condition,
        num_rows=num_rows,
        total_weight=jnp.sum(weights),
        dof=dof,
        residual_sum_of_squares=squares,
        sigma2=jnp.where(dof > 0, squares / jnp.where(dof > 0, dof, 1), jnp.nan),
        covariance_factor=solved.factor,
        center=solved.center,
        penalty=penalty,
        error=None if solved.error is None else _params(form, solved.error, jnp.zeros_like(solved.center)),
    )


def _status(problem: Problem, solved: Solved, stats: LinearStats) -> Array:
    penalty = stats.penalty
    invalid = ~(stats.total_weight > 0) | jnp.any(penalty < 0)
    nonfinite = ~(solved.finite > 0) | ~jnp.all(jnp.isfinite(penalty))
    if problem.weights is not None:
        weights = problem.weights if problem.mask is None else jnp.where(problem.mask, problem.weights, 0)
        invalid |= jnp.any(weights < 0)
        nonfinite |= jnp.any(jnp.isnan(weights))
    overflown = ~invalid & ~jnp.all(jnp.isfinite(solved.coefficients))
    size = solved.factor.shape[0]
    cases = {
        Status.nonfinite: nonfinite | overflown,
        Status.invalid_input: invalid,
        Status.underdetermined: (solved.rank < size) & (stats.num_rows < size),
        Status.rank_deficient: solved.rank < size,
    }
    return jnp.select(list(cases.values()), [jnp.int32(status) for status in cases], jnp.int32(Status.ok))


def _fail(failed: Array, leaf: Array) -> Array:
    return jnp.where(failed, jnp.nan if jnp.issubdtype(leaf.dtype, jnp.floating) else 0, leaf)


def _drop_outputs(solution: Solution) -> Solution:
    """The solution of one output, without the axis of outputs."""
    params, stats = solution.params, solution.stats
    return solution._replace(
        params=_first_output(params),
        stats=stats._replace(
            residual_sum_of_squares=stats.residual_sum_of_squares[0],
            sigma2=stats.sigma2[0],
            error=None if stats.error is None else _first_output(stats.error),
        ),
    )


def _first_output(params: LinearParams) -> LinearParams:
    return LinearParams(params.coefficients[:, 0], params.intercept[0])


def predict(
    params: LinearParams, x: Float[Array, "n d"] | DoubleDouble, *, offset: Float[Array, "n *k"] | None = None
) -> Float[Array, "n *k"]:
    """``intercept + x coefficients``, plus the offset.

    >>> predict(LinearParams(jnp.array([2.0]), jnp.array(1.0)), jnp.array([[0.0], [1.0]])).tolist()
    [1.0, 3.0]
    """
    if isinstance(params, Solution):
        raise InputError("params: got a Solution, needs its parameters: pass solution.params")
    if isinstance(x, DoubleDouble):
        low = jnp.matmul(x.low, params.coefficients, precision=lax.Precision.HIGHEST)
        return low + predict(params, x.high, offset=offset)
    x = jnp.asarray(x)
    if x.ndim != 2 or x.shape[1] != params.coefficients.shape[0]:
        raise InputError(f"x: got shape {x.shape}, the model needs [n, {params.coefficients.shape[0]}]")
    outputs = params.intercept + jnp.matmul(x, params.coefficients, precision=lax.Precision.HIGHEST)
    if offset is None:
        return outputs
    offset = jnp.asarray(offset)
    if offset.shape not in (outputs.shape, outputs.shape[:1]):
        raise InputError(f"offset: got shape {offset.shape}, the predictions have {outputs.shape}")
    return outputs + (offset[:, None] if offset.ndim < outputs.ndim else offset)


@cached_factory
def model(*, num_outputs: int = 0, intercept: bool = True) -> Model:
    """The linear model as a ``Model``: gradient descent on any loss, with any optax optimizer.

    Parameters start at zero, in the dtype of the inputs. On the mean squared error, batch, stochastic and mini-batch
    descent differ only in the rows that a step sees; ``fit`` finds where they all end.

    Args:
      num_outputs: 0 gives outputs ``[n]`` (one number an example), ``k`` gives ``[n, k]``.
      intercept: whether to learn one; without, ``params.intercept`` is ``()``.

    >>> x, y = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([1.0, 3.0, 5.0])
    >>> line = model()
    >>> params, state = line.init(jax.random.key(0), x)
    >>> cost = lambda params: jnp.mean((line.apply(params, state, x)[0] - y) ** 2)
    >>> for _ in range(200):
    ...     params = jax.tree.map(lambda value, slope: value - 0.2 * slope, params, jax.grad(cost)(params))
    >>> round(float(params.coefficients[0]), 3), round(float(params.intercept), 3)
    (2.0, 1.0)
    """
    if isinstance(num_outputs, bool) or not isinstance(num_outputs, int) or num_outputs < 0:
        raise InputError(f"num_outputs: got {num_outputs!r}, needs 0 (outputs [n]) or a number of outputs")
    shape = (num_outputs,) if num_outputs else ()

    def init(key, inputs):
        if len(inputs.shape) != 2:
            raise InputError(f"inputs: got shape {inputs.shape}, needs [n, d]: use inputs.reshape(n, -1)")
        zeros = functools.partial(jnp.zeros, dtype=inputs.dtype)
        return LinearParams(zeros((inputs.shape[1], *shape)), zeros(shape) if intercept else ()), {}

    def apply(params, state, inputs, *, train=False, key=None, weights=None):
        level = params.intercept if intercept else jnp.zeros((), params.coefficients.dtype)
        return predict(LinearParams(params.coefficients, level), inputs), state

    return Model(init, apply)


def mean_squared_error_gradient(
    params: LinearParams,
    x: Float[Array, "n d"],
    y: Float[Array, "n *k"],
    *,
    weights: Float[Array, " n"] | None = None,
) -> LinearParams:
    """The gradient of the mean squared error, written out as at the head of this module.

    Args:
      weights: of the rows; 1/m becomes ``weights / sum(weights)``. Several outputs: the mean over them, too.

    >>> params = LinearParams(jnp.array([1.0, -1.0]), jnp.array(0.5))
    >>> x, y = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 5.0]]), jnp.array([1.0, 0.0, 2.0])
    >>> ours = mean_squared_error_gradient(params, x, y)
    >>> theirs = jax.grad(lambda params: jnp.mean((predict(params, x) - y) ** 2))(params)
    >>> all(bool(jnp.allclose(a, b)) for a, b in zip(ours, theirs))
    True
    """
    residuals = predict(params, x) - y
    weights = jnp.ones_like(x[:, 0]) if weights is None else weights
    outputs = residuals.shape[1] if residuals.ndim == 2 else 1
    scaled = 2 / outputs * (residuals.T * (weights / jnp.sum(weights))).T
    return LinearParams(jnp.matmul(x.T, scaled, precision=lax.Precision.HIGHEST), jnp.sum(scaled, axis=0))


# inference imports this module, so what belongs to a linear regression's face comes from there on demand.
_INFERENCE = ("diagnostics", "infer", "predict_interval", "summary", "wald_test")


def __getattr__(name: str) -> Any:
    if name not in _INFERENCE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jaxmodels.regression import inference

    return getattr(inference, name)

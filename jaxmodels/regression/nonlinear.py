"""Nonlinear least squares: any pure function of any parameters, one curve or a hundred thousand.

    minimise over b   c^2 sum_i rho((r_i / c)^2),    r_i = (y_i - function(b, x_i)) / sigma_i,    lower <= b <= upper

``fit`` solves it, ``infer`` says how well the parameters and functions of them are known, ``model`` is the same model
for gradient descent. The gradient of a fit follows from the implicit function theorem: with ``g`` the gradient of the
cost and ``H`` its Hessian, ``db = -H^-1 dg``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from jaxmodels.core import InputError, Model, Solution, Status, check_count
from jaxmodels.numerics import distributions, robust
from jaxmodels.numerics import levenberg_marquardt as lm
from jaxmodels.numerics.matrices import product
from jaxmodels.numerics.problem import matmul
from jaxmodels.regression import inputs
from jaxmodels.regression import nonlinear_problem as given
from jaxmodels.regression.nonlinear_problem import Data, Form


class NonlinearStats(NamedTuple):
    """What a fit found besides the parameters; constants to differentiation.

    ``p`` counts the parameters, in the order of ``jax.flatten_util.ravel_pytree``.
    """

    cost: Array
    """``[]``: what was minimised."""
    residual_sum_of_squares: Array
    """``[]``: ``sum_i r_i^2``."""
    num_rows: Array
    """``[]``, in the dtype of the work: values of y that count."""
    dof: Array
    """``[]``: ``num_rows`` less the parameters that are free."""
    sigma2: Array | None
    """``[]``: ``residual_sum_of_squares / dof``, NaN where dof <= 0; ``None`` with a robust loss."""
    covariance: Array
    """``[p, p]``: ``sigma2 (J'J)^-1``; with a robust loss ``H^-1 J' diag(psi^2) J H^-1 n / dof``. Zero rows and
    columns for parameters that are not free."""
    free: Array
    """bool ``[p]``: False for a parameter that a bound holds, or that depends on others."""
    num_steps: Array
    """int32 ``[]``: points at which the function was linearised."""


class Inference(NamedTuple):
    """Estimates of a function of the parameters and how well they are known; by default of the parameters."""

    estimate: PyTree
    standard_error: PyTree
    """As ``estimate``; NaN for what depends on a parameter that is not free."""
    confidence_interval: PyTree
    """As ``estimate``, with a last axis of lower and upper end."""
    covariance: Float[Array, "m m"]
    """Of the flattened estimates."""


def fit(
    function: Callable[[PyTree, PyTree], Array],
    params: PyTree,
    x: PyTree,
    y: Float[Array, "n *k"],
    *,
    sigma: Float[Array, "n *k"] | float | None = None,
    mask: Bool[Array, " n"] | None = None,
    bounds: tuple[PyTree, PyTree] | None = None,
    loss: Literal["squared", "huber", "soft_l1", "cauchy", "tukey"] = "squared",
    loss_scale: float = 1.0,
    linear: Sequence[str | int] | None = None,
    tolerance: float | None = None,
    max_steps: int = 1000,
) -> Solution:
    """Fit ``y ~ function(params, x)`` by Levenberg and Marquardt's method, from ``params``.

    Pure: under ``jit``; under ``vmap`` for many curves at once, where slow ones do not hold the others and a bad one
    fails alone, and under ``shard_map`` of that on many devices, which the cores of a CPU can be; under ``grad`` in x,
    y, sigma, loss_scale and bounds, to any order and without unrolling.

    Args:
      function: ``(params, x) -> [n, ...]``, pure; whatever else it depends on goes into ``x``. The same function
        object is compiled once.
      params: where to start; any pytree of real arrays.
      x: any pytree. Arrays of it whose first axis is that of y hold one entry a row.
      y: ``[n, ...]``, float32 or float64, which is the dtype of the work unless params have the wider one.
      sigma: standard deviation of each value, up to a factor; infinity leaves a value out. Default: 1.
      mask: the rows to use; whatever the others hold, NaN too, is not read. Default: all.
      bounds: ``(lower, upper)``, each a number for all or a pytree like ``params``; infinity for none.
      loss: how residuals count; those but ``"squared"`` grow more slowly from ``loss_scale`` on.
      loss_scale: ``c``, in units of ``r``.
      linear: keys, field names or indices of the top level of ``params`` that enter linearly, given the others: they
        are eliminated (variable projection), need no starting value and no bounds. With ``loss="squared"``.
      tolerance: how small the remaining step is to be, beside its standard error or the parameters.
        Default: ``eps^(2/3)``.
      max_steps: linearisations at most.

    Returns:
      A ``Solution`` of parameters like ``params`` and ``NonlinearStats``. ``status`` is ``max_steps`` or ``stalled``
      where the search ended early; ``rank_deficient`` where parameters depend on each other, ``underdetermined`` with
      fewer values than parameters, both converged; ``nonfinite`` where the function or its derivative is not finite
      at the start, ``invalid_input`` for bounds crossed, a start outside them, or a sigma or loss_scale not above 0:
      then parameters are NaN.

    Raises:
      InputError: shapes or options that do not fit; outside ``jit`` and ``vmap`` also values that do not.

    >>> x = jnp.arange(6.0)
    >>> y = 3 * jnp.exp(-0.5 * x) + 1
    >>> decay = lambda params, x: params["height"] * jnp.exp(-params["rate"] * x) + params["level"]
    >>> solution = fit(decay, {"height": 1.0, "rate": 1.0, "level": 0.0}, x, y)
    >>> {name: round(float(value), 3) for name, value in solution.params.items()}
    {'height': 3.0, 'level': 1.0, 'rate': 0.5}
    """
    form = given.form_of(function, loss, linear, tolerance, max_steps)
    data = given.read(form, params, x, y, sigma=sigma, mask=mask, bounds=bounds, loss_scale=loss_scale)
    solution = _fit(data, form=form)
    failed = (Status.nonfinite, Status.invalid_input)
    if inputs.is_concrete((data, solution.status)) and int(solution.status) in failed:
        given.explain_values(form, data)
    return solution


@functools.partial(jax.jit, static_argnames="form")
def _fit(data: Data, *, form: Form) -> Solution:
    start, unravel = ravel_pytree(data.params)
    order = given.linear_first(form, data.params)
    num_linear = given.num_linear(form, data.params)
    back = np.argsort(order)

    problem = lm.Problem(
        residuals=lambda data, flat: given.scaled_residuals(form, data, unravel(flat[back] if num_linear else flat)),
        loss=robust.LOSSES[form.loss],
        num_linear=num_linear,
        tolerance=form.tolerance or float(jnp.finfo(start.dtype).eps) ** (2 / 3),
        max_steps=form.max_steps,
    )
    invalid = given.invalid(form, data)
    sound = lax.stop_gradient(data)
    magnitude = jnp.linalg.norm(given.weighted(sound, sound.y)) / given.scale(form, sound)
    lower, upper = (None if bound is None else bound[order] for bound in (sound.lower, sound.upper))
    found = lm.search(problem)((sound, lax.stop_gradient(start)[order], lm.Limits(lower, upper, magnitude)))
    failed = invalid | (found.status == Status.nonfinite)
    stats = _stats(form, sound, problem, found, back)
    flat = _implicit(lambda data, flat: given.cost(form, data, unravel(flat)), data, found.at.params[back])
    size, rank = len(start), jnp.sum(jnp.any(found.at.inverse != 0, axis=1))
    doubts = [stats.num_rows < size, rank + jnp.sum(found.at.held) < size]
    doubt = jnp.select(doubts, [jnp.int32(Status.underdetermined), jnp.int32(Status.rank_deficient)], found.status)
    status = jnp.where(found.status == Status.ok, doubt, found.status)
    status = jnp.where(invalid, Status.invalid_input, status).astype(jnp.int32)
    params, stats = jax.tree.map(lambda leaf: _fail(failed, leaf), (unravel(flat), stats))
    return Solution(params, status, stats)


def _fail(failed: Array, leaf: Array) -> Array:
    return jnp.where(failed, jnp.nan if jnp.issubdtype(leaf.dtype, jnp.floating) else 0, leaf).astype(leaf.dtype)


# The derivative ------------------------------------------------------------------------------------------------------


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _implicit(cost: Callable[[Data, Array], Array], data: Data, params: Array) -> Array:
    """``params``, known to minimise ``cost(data, params)`` and differentiated as that."""
    return params


@_implicit.defjvp
def _implicit_jvp(cost, primals, tangents):
    data, change = primals[0], tangents[0]
    params = _implicit(cost, *primals)
    slope = jax.grad(cost, argnums=1)
    _, turned = jax.jvp(lambda data: slope(data, params), (data,), (change,))
    hessian, moved = jax.jacfwd(slope, argnums=1)(data, params), -turned
    if data.lower is not None:  # what lies on a bound moves with it
        descent = -slope(data, params)
        low, high = (params <= data.lower) & (descent <= 0), (params >= data.upper) & (descent >= 0)
        held = (low | high)[:, None]
        hessian = jnp.where(held, jnp.eye(len(params), dtype=params.dtype), hessian)
        moved = jnp.where(low, change.lower, jnp.where(high, change.upper, moved))
    return params, jnp.linalg.solve(hessian, moved)


# What is known of it -------------------------------------------------------------------------------------------------


def _stats(form: Form, data: Data, problem: lm.Problem, found: lm.State, back: np.ndarray) -> NonlinearStats:
    squared = form.loss == "squared"
    squares = found.at.cost if squared else jnp.sum((problem.residuals(data, found.at.params) * data.loss_scale) ** 2)
    num_rows = jnp.sum(given.weighted(data, jnp.ones_like(data.y)) != 0).astype(squares.dtype)
    free = jnp.any(found.at.inverse != 0, axis=1)
    dof = num_rows - jnp.sum(free)
    sigma2 = jnp.where(dof > 0, squares / jnp.where(dof > 0, dof, 1), jnp.nan) if squared else None
    if sigma2 is not None:
        covariance = sigma2 * product(found.at.inverse, found.at.inverse.T)
    else:
        covariance = _sandwich(problem, data, found.at.params, free) * num_rows / dof
    covariance = jnp.where(free[:, None] & free, covariance, 0)
    return NonlinearStats(
        cost=found.at.cost * given.scale(form, data) ** 2,
        residual_sum_of_squares=squares,
        num_rows=num_rows,
        dof=dof,
        sigma2=sigma2,
        covariance=covariance[back][:, back],
        free=free[back],
        num_steps=found.num_steps,
    )


def _sandwich(problem: lm.Problem, data: Data, params: Array, free: Array) -> Array:
    """``H^-1 J' diag(psi^2) J H^-1`` of the free parameters, psi the slope of the loss (Huber 1981, section 6.3)."""
    residuals, jacobian = lm.rows(problem, data, params, jnp.eye(len(params), dtype=params.dtype))
    rho = problem.loss(residuals**2)
    hessian = matmul(rho.curvature * jacobian, jacobian.T)
    hessian = jnp.where(free[:, None] & free, hessian, jnp.eye(len(params), dtype=params.dtype))
    scores = jnp.linalg.solve(hessian, jnp.where(free[:, None], jacobian * (rho.slope * residuals), 0))
    return matmul(scores, scores.T)


def infer(
    solution: Solution,
    *,
    of: Callable[[PyTree], PyTree] | None = None,
    confidence: float = 0.95,
    absolute_sigma: bool = False,
) -> Inference:
    """Standard errors and intervals of the parameters, or of any function of them (delta method).

        cov of(b) = G cov(b) G',    G = d of / db

    Pure, and needs no data: under ``vmap`` for many curves.

    Args:
      solution: what ``fit`` returned.
      of: ``params -> any pytree of real arrays``: a half-life, or predictions at chosen x. Default: the parameters.
      confidence: of the intervals, between 0 and 1; Student's t with ``stats.dof``, the normal with ``absolute_sigma``.
      absolute_sigma: whether ``sigma`` was known outright and not up to a factor. Not with a robust loss.

    >>> x = jnp.arange(5.0)
    >>> y = jnp.array([1.0, 2.9, 5.1, 7.0, 9.0])
    >>> solution = fit(lambda params, x: params[0] + params[1] * x, jnp.zeros(2), x, y)
    >>> at = infer(solution, of=lambda params: params[0] + params[1] * 10.0)
    >>> [round(float(each), 2) for each in (at.estimate, at.standard_error, *at.confidence_interval)]
    [21.08, 0.2, 20.43, 21.73]
    """
    inputs.check_confidence(confidence)
    inputs.check_solution(solution, NonlinearStats, "nonlinear.fit")
    if absolute_sigma and solution.stats.sigma2 is None:
        raise InputError("absolute_sigma: got True, the covariance of a robust loss has no such form: leave it False")
    return _infer(solution, of, confidence, absolute_sigma)


@functools.partial(jax.jit, static_argnames=("of", "absolute_sigma"))
def _infer(solution, of, confidence, absolute_sigma):
    stats = solution.stats
    flat, unravel = ravel_pytree(solution.params)
    of = (lambda params: params) if of is None else of
    estimate, restore = ravel_pytree(of(solution.params))
    slopes = jax.jacobian(lambda flat: ravel_pytree(of(unravel(flat)))[0])(flat)
    covariance = product(slopes, product(stats.covariance, slopes.T))
    if absolute_sigma:
        covariance = covariance / stats.sigma2
    known = ~jnp.any((slopes != 0) & ~stats.free, axis=1)
    error = jnp.where(known, jnp.sqrt(jnp.diagonal(covariance)), jnp.nan)
    tail = jnp.asarray((1 - confidence) / 2, flat.dtype)
    dof = jnp.where(stats.dof > 0, stats.dof, 1)
    width = (
        distributions.normal_quantile(tail, upper=True)
        if absolute_sigma
        else distributions.student_t_quantile(tail, dof, upper=True)
    )
    low, high = restore(estimate - width * error), restore(estimate + width * error)
    interval = jax.tree.map(lambda *ends: jnp.stack(ends, axis=-1), low, high)
    return Inference(restore(estimate), restore(error), interval, covariance)


# From several starts, and by gradient descent ------------------------------------------------------------------------


def multi_start(function: Callable, starts: PyTree, x: PyTree, y: Array, **options: Any) -> Solution:
    """The best of fits from several starting points, all of them in one program.

    Args:
      function, x, y: as for ``fit``.
      starts: as ``params`` of ``fit``, each array with a first axis of starts; ``random_starts`` draws some.
      options: those of ``fit``.

    Returns:
      The ``Solution`` of least cost among those that converged; where none did, of least cost.

    Raises:
      InputError: as ``fit``; where no start can be fitted, what is wrong with the first.

    >>> x = jnp.linspace(0.0, 6.0, 40)
    >>> wave = lambda rate, x: jnp.sin(rate * x)
    >>> best = multi_start(wave, jnp.array([0.3, 1.0, 3.0, 9.0]), x, jnp.sin(2.5 * x))
    >>> round(float(best.params), 3)
    2.5
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(starts)]
    if not shapes or () in shapes or len({shape[0] for shape in shapes}) != 1 or not shapes[0][0]:
        raise InputError(
            f"starts: got arrays of shapes {shapes}, each needs the same number of starts as its first axis"
        )
    found = jax.vmap(lambda start: fit(function, start, x, y, **options))(starts)
    converged = jnp.isin(found.status, jnp.array([Status.ok, Status.rank_deficient, Status.underdetermined]))
    cost = jnp.where(jnp.isnan(found.stats.cost), jnp.inf, found.stats.cost)
    if inputs.is_concrete(found.status) and bool(jnp.all(jnp.isnan(found.stats.cost))):
        fit(function, jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], starts), x, y, **options)  # says what is wrong
    best = jnp.lexsort((cost, ~converged))[0]
    return jax.tree.map(lambda leaf: leaf[best], found)


def random_starts(key: Array, lower: PyTree, upper: PyTree, num_starts: int) -> PyTree:
    """Starting points between ``lower`` and ``upper``, of which each parameter's fill its range evenly.

    A Latin hypercube (McKay, Beckman and Conover 1979).

    >>> starts = random_starts(jax.random.key(0), {"rate": 0.0}, {"rate": 4.0}, 4)
    >>> sorted(int(each) for each in starts["rate"])
    [0, 1, 2, 3]
    """
    check_count("num_starts", num_starts)
    if not isinstance(key, jax.Array):
        raise InputError(f"key: got {key!r}, needs a key: pass jax.random.key(0)")
    lower, upper = (
        jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf, float)), each) for each in (lower, upper)
    )
    if jax.tree.structure(lower) != jax.tree.structure(upper):
        raise InputError(f"upper: got {jax.tree.structure(upper)}, lower has {jax.tree.structure(lower)}")
    (low, unravel), (high, _) = ravel_pytree(lower), ravel_pytree(upper)
    if inputs.is_concrete((low, high)) and not bool(jnp.all(jnp.isfinite(low) & jnp.isfinite(high) & (low <= high))):
        raise InputError(f"lower, upper: got {low} and {high}, starts are drawn between finite bounds in that order")
    place, shuffle = jax.random.split(key)
    strata = jnp.tile(jnp.arange(num_starts)[:, None], len(low))
    strata = jax.random.permutation(shuffle, strata, axis=0, independent=True)
    share = (strata + jax.random.uniform(place, strata.shape, low.dtype)) / num_starts
    return jax.vmap(unravel)(low + share * (high - low))


def model(function: Callable, params: PyTree) -> Model:
    """The same regression as a ``Model``, for gradient descent on any loss through ``train``.

    >>> from jaxmodels import losses
    >>> decay = model(lambda params, x: jnp.exp(-params * x), jnp.array(1.0))
    >>> params, state = decay.init(jax.random.key(0), jnp.ones(2))
    >>> float(losses.squared_error(decay.apply(params, state, jnp.zeros(1))[0], jnp.ones(1))[0])
    0.0
    """
    return Model(
        init=lambda key, inputs: (jax.tree.map(jnp.asarray, params), {}),
        apply=lambda params, state, inputs, *, train=False, key=None, weights=None: (function(params, inputs), state),
    )

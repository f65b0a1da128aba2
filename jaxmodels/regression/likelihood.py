"""A family and data as the problem that ``numerics.newton`` solves: checked, cleaned, centred.

The design, ``[1, x - center]`` with an intercept, else ``x``, is made where it is read. ``categorical`` has the outputs
of all classes but the first, which is held at 0; its penalty is on coefficients less their mean over the classes, so
that no class is special.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxmodels.core import InputError, Status, cached_factory
from jaxmodels.families import Family
from jaxmodels.numerics import newton
from jaxmodels.numerics.double_double import DoubleDouble
from jaxmodels.numerics.newton import Loss, Problem
from jaxmodels.numerics.problem import matmul
from jaxmodels.numerics.row_parts import sum_of_parts
from jaxmodels.regression import inputs
from jaxmodels.regression.inputs import Data

# Families of shares in [0, 1].
SHARES = ("bernoulli", "binomial", "quasi_binomial")


class Form(NamedTuple):
    """What is fixed when a fit is traced."""

    family: Family
    """Without its parameter, which is traced, but for the number of classes."""
    intercept: bool
    firth: bool = False

    @property
    def num_outputs(self) -> int:
        return self.family.parameter - 1 if self.family.name == "categorical" else 1


class Prepared(NamedTuple):
    """A problem, and what is wrong with the values it was made of."""

    problem: Problem
    center: Float[Array, " d"]
    nonfinite: Bool[Array, ""]
    invalid: Bool[Array, ""]


def split(family: Family, intercept: bool, firth: bool = False) -> tuple[Form, Any]:
    """What is static of a family, and its parameter to trace."""
    if family.name == "categorical":
        return Form(family, intercept, firth), None
    return Form(family._replace(parameter=None), intercept, firth), family.parameter


# Read -----------------------------------------------------------------------------------------------------------------


def read(family: Family, x: Any, y: Any, *, weights: Any, mask: Any, offset: Any, l2: Any = 0.0) -> Data:
    """The arguments of a fit; binomial pairs become shares, their trials weights, classes rows of probabilities.

    Raises:
      InputError: a shape or dtype that does not fit.
    """
    x, y = x if isinstance(x, DoubleDouble) else inputs.as_array("x", x), inputs.as_array("y", y)
    if y.dtype.kind in "biu":
        y = y.astype(jnp.asarray(x).dtype if jnp.asarray(x).dtype in inputs.DTYPES else "float32")
    _check_shape(family, y)
    if family.name == "categorical" and y.ndim == 1:
        y, _ = family.read(jnp.asarray(y), y.dtype)
    data = inputs.read(x, y, weights=weights, mask=mask, offset=offset, l2=l2)
    if family.name != "binomial":
        return data
    if data.offset is not None:
        data = data._replace(offset=data.offset[:, 0])
    shares, trials = family.read(data.y, data.y.dtype)
    # A pair with a number below 0 must not pass for a share.
    shares = jnp.where(jnp.any(data.y < 0, axis=1), -1, shares)
    trials = jnp.where(shares < 0, 1, trials)
    return data._replace(y=shares, weights=trials if data.weights is None else trials * data.weights)


def _check_shape(family: Family, y: Any) -> None:
    shapes = {"binomial": "[n, 2]: successes and failures", "categorical": f"[n] classes or [n, {family.parameter}]"}
    fits = y.ndim == 1
    if family.name == "binomial":
        fits = y.ndim == 2 and y.shape[1] == 2
    if family.name == "categorical":
        fits = y.ndim == 1 or (y.ndim == 2 and y.shape[1] == family.parameter)
    if not fits:
        needs = shapes.get(family.name, "[n]; jax.vmap(glm.fit) over several targets")
        raise InputError(f"y: got shape {y.shape}, {family.name} needs {needs}")


def explain_values(family: Family, data: Data) -> None:
    """Raise ``InputError`` that names what is wrong with the values, on the host."""
    counts = np.ones(len(data.y), bool) if data.mask is None else np.asarray(data.mask)
    counts = counts if data.weights is None else counts & (np.asarray(data.weights) > 0)
    y = np.asarray(data.y)
    wrong = counts & ~np.asarray(family.kind.supports(y)).reshape(len(y), -1).all(axis=1)
    if family.name != "categorical":
        wrong &= np.isfinite(y)
    if wrong.any():
        first = np.flatnonzero(wrong)[0]
        shown = "" if family.name in ("categorical", "binomial") else f" {y[first]:g}"
        raise InputError(
            f"y: {wrong.sum()} values that {family.name} does not admit, first{shown} in row {first}; "
            f"it needs {family.kind.support}"
        )
    inputs.explain_values(data)


# Prepare --------------------------------------------------------------------------------------------------------------


def prepare(form: Form, data: Data, parameter: Any) -> Prepared:
    """Rows that do not count hold nothing that could spoil others; a problem that cannot be solved has no rows."""
    present = jnp.ones(len(data.y), bool) if data.mask is None else data.mask
    given = jnp.ones(len(data.y), data.x.dtype) if data.weights is None else data.weights
    admitted = _rowwise(form.family.kind.supports(data.y))
    mean, finite = _mean_and_finite(data)
    finite &= jnp.isfinite(given)
    finite &= True if form.family.name == "categorical" else _rowwise(jnp.isfinite(data.y))
    finite &= True if data.offset is None else _rowwise(jnp.isfinite(data.offset))
    counts = present & ~(given <= 0)
    nonfinite = jnp.any(counts & ~finite)
    invalid = jnp.any(counts & finite & ~admitted) | jnp.any(present & (given < 0)) | ~jnp.any(counts)
    if data.l2 is not None:
        nonfinite |= ~jnp.all(jnp.isfinite(data.l2))
        invalid |= jnp.any(data.l2 < 0)
    usable = present & finite & admitted & ~nonfinite & ~invalid
    weights = jnp.where(usable & (given > 0), given, 0)
    center = jnp.zeros_like(data.x, shape=data.x.shape[1:])
    if form.intercept:
        total = jnp.sum(weights)
        weighted = weights / jnp.where(total > 0, total, 1)
        mean = sum_of_parts(_column_sums, lax.stop_gradient(data.x), usable, weighted) if mean is None else mean
        center = lax.stop_gradient(jnp.where(total > 0, mean, 0))
    return Prepared(_problem(form, data, parameter, usable, weights, center), center, nonfinite, invalid)


def _mean_and_finite(data: Data) -> tuple[Array | None, Array]:
    """The mean of x, where all rows count, and which of them are finite: then all or, as their mean says, none."""
    if data.mask is not None or data.weights is not None:
        return None, _rowwise(jnp.isfinite(data.x))
    share = jnp.full(len(data.x), 1 / len(data.x), data.x.dtype)
    mean = sum_of_parts(lambda x, share: matmul(share, x), lax.stop_gradient(data.x), share)
    return mean, jnp.broadcast_to(jnp.all(jnp.isfinite(mean)), len(data.x))


def _rowwise(values: Array) -> Array:
    return values if values.ndim == 1 else jnp.all(values, axis=1)


def _problem(form: Form, data: Data, parameter: Any, usable: Array, weights: Array, center: Array) -> Problem:
    dtype = data.x.dtype
    targets = jnp.where(usable.reshape(-1, *[1] * (data.y.ndim - 1)), data.y, 1)
    offset = jnp.zeros((len(data.x), form.num_outputs), dtype)
    if data.offset is not None:
        given = data.offset[:, None] if data.offset.ndim == 1 else data.offset[:, 1:] - data.offset[:, :1]
        offset = jnp.where(usable[:, None], given, 0)
    penalty = jnp.zeros_like(center) if data.l2 is None else jnp.where(jnp.any(usable), data.l2, 0)
    if form.intercept:
        center, penalty = jnp.pad(center, (1, 0), constant_values=-1), jnp.pad(penalty, (1, 0))
    coupling = jnp.asarray(_coupling(form.num_outputs, form.family.name), dtype)
    zero = jnp.zeros((), dtype)
    problem = Problem(data.x, usable, center, targets, weights, offset, penalty, coupling, zero, parameter)
    return with_parameter(form, problem, parameter)


def _column_sums(x: Array, usable: Array, weights: Array) -> Array:
    return matmul(weights, jnp.where(usable[:, None], x, 0))


def with_parameter(form: Form, problem: Problem, parameter: Any) -> Problem:
    """The problem for another parameter of the family."""
    each = form.family.kind.saturated(problem.targets, parameter)
    saturated = jnp.sum(jnp.where(problem.weights > 0, problem.weights * each, 0))
    return problem._replace(parameter=parameter, saturated=saturated)


def _coupling(num_outputs: int, name: str) -> np.ndarray:
    """The root of ``I - 11'/K``: with it, K - 1 differences are penalised as K centred coefficients are."""
    if name != "categorical":
        return np.eye(1)
    return np.eye(num_outputs) - (1 - (num_outputs + 1) ** -0.5) / num_outputs


def start(form: Form, problem: Problem) -> Float[Array, "k p"]:
    """Coefficients at which the loss is finite: those of the mean of the targets, or of the targets' links."""
    null = _null(form, problem)
    link = form.family.link
    shares = form.family.name in SHARES
    whole_line = link.tails is not None or link.name == "softmax" or (link.name == "log" and not shares)
    if whole_line or (form.family.name, link.name) == ("gaussian", "identity"):
        return null
    other = _first_scoring(form, problem)
    outputs = [newton.look(loss(form), problem, each)[0] for each in (null, other)]
    values = [newton.value(loss(form), problem, *each) for each in zip((null, other), outputs, strict=True)]
    better = (values[1] < values[0]) | ~jnp.isfinite(values[0])
    return jnp.where(better & jnp.isfinite(values[1]), other, null)


def _null(form: Form, problem: Problem) -> Array:
    zeros = jnp.zeros((form.num_outputs, len(problem.center)), problem.center.dtype)
    if not form.intercept:
        return zeros
    total, num_rows = jnp.sum(problem.weights), jnp.sum(problem.weights > 0)
    divisor = jnp.where(total > 0, total, 1)
    mean = jnp.tensordot(problem.weights, problem.targets, 1, precision=lax.Precision.HIGHEST) / divisor
    mean = jnp.where(total > 0, mean, 0.5)
    small = 0.5 / (num_rows + 1.0)
    if form.family.name == "categorical":
        mean = jnp.log(jnp.maximum(mean, small))
        level = mean[1:] - mean[0]
    else:
        if form.family.kind.boundary is not None:
            mean = jnp.maximum(mean, small)
        if form.family.name in SHARES:
            mean = jnp.minimum(mean, 1 - small)
        level = form.family.link.link(mean)[None]
    level = level - matmul(problem.weights, problem.offset) / divisor
    return zeros.at[:, 0].set(level)


def _first_scoring(form: Form, problem: Problem) -> Array:
    """A step of scoring from outputs that are the links of the targets, moved inside."""
    y = problem.targets
    inside = (y + 0.5) / 2 if form.family.name in SHARES else jnp.where(y == 0, 0.1, y)
    outputs = form.family.link.link(inside)[:, None]
    triangle = newton.information_triangle(loss(form), problem, outputs)
    root = loss(form).root(outputs, y, problem.parameter)[:, 0, 0]
    rows = problem.weights * root**2 * (outputs - problem.offset)[:, 0]
    right = matmul(jnp.where(problem.weights > 0, rows, 0), newton.design(problem))
    return matmul(triangle.inverse, matmul(triangle.inverse.T, right))[None]


# The loss -------------------------------------------------------------------------------------------------------------


def loss(form: Form) -> Loss:
    """What ``newton`` minimises; one and the same object for one and the same form, so that it is traced once."""
    return _loss(form.family._replace(parameter=None))


@cached_factory
def _loss(family: Family) -> Loss:
    kind, link = family.kind, family.link
    if family.name == "categorical":
        return Loss(_categorical_value, _categorical_score, _categorical_root, None, _categorical_margin, True)

    def value(outputs, targets, parameter):
        return kind.loss(outputs[:, 0], targets, link, parameter)

    def slope(outputs, targets, parameter):
        return _derivative(lambda each: kind.loss(each, targets, link, parameter), outputs)

    def score(outputs, targets, parameter):
        return -slope(outputs[:, 0], targets, parameter)[:, None]

    def curvature(outputs, targets, parameter):
        each = _derivative(lambda each: slope(each, targets, parameter), outputs[:, 0])
        return each[:, None, None]

    def root(outputs, targets, parameter):
        if family.canonical:
            information = curvature(outputs, targets, parameter)[:, 0, 0]
        else:
            information = kind.information(outputs[:, 0], link, parameter)
        positive = information > 0
        return jnp.where(positive, jnp.sqrt(jnp.where(positive, information, 1)), 0)[:, None, None]

    margin = None
    if kind.boundary is not None and (link.tails is not None or (link.name == "log" and kind.name not in SHARES)):
        margin = functools.partial(_margin, kind.boundary)
    observed = None if family.canonical else curvature
    return Loss(value, score, root, observed, margin, kind.fixed_dispersion)


@cached_factory
def nll(form: Form) -> Any:
    """``(outputs [n, 1], targets, parameter) -> [n]``, for families whose dispersion is fixed."""

    def each(outputs, targets, parameter):
        return form.family._replace(parameter=parameter).nll(outputs[:, 0], targets)

    return each


def _derivative(function: Any, outputs: Array) -> Array:
    return jax.jvp(function, (outputs,), (jnp.ones_like(outputs),))[1]


def _margin(boundary: Any, direction: Array, targets: Array) -> Array:
    side = boundary(targets)
    return jnp.where(side == 0, -jnp.abs(direction[:, 0]), side * direction[:, 0])


def all_classes(outputs: Float[Array, "n k"]) -> Float[Array, "n c"]:
    """With the first class's outputs, which are 0."""
    return jnp.pad(outputs, ((0, 0), (1, 0)))


def _categorical_value(outputs, targets, parameter):
    every = all_classes(outputs)
    return jnp.sum(targets * (jax.nn.logsumexp(every, axis=1, keepdims=True) - every), axis=1)


def _categorical_score(outputs, targets, parameter):
    mean = jax.nn.softmax(all_classes(outputs), axis=1)
    return (targets - jnp.sum(targets, axis=1, keepdims=True) * mean)[:, 1:]


def _categorical_root(outputs, targets, parameter):
    """``(I - m 1') diag(m)^1/2``, whose square is ``diag(m) - m m'``."""
    mean = jax.nn.softmax(all_classes(outputs), axis=1)
    identity = jnp.eye(mean.shape[1], dtype=mean.dtype)
    root = (identity - mean[:, :, None]) * jnp.sqrt(mean * jnp.sum(targets, axis=1, keepdims=True))[:, None, :]
    return root[:, 1:]


def _categorical_margin(direction, targets):
    """How much less than its own class the fastest other one gains; a row of several classes must not part them."""
    every, own = all_classes(direction), targets > 0
    lowest = jnp.min(jnp.where(own, every, jnp.inf), axis=1)
    rest = jnp.max(jnp.where(own, -jnp.inf, every), axis=1)
    apart = jnp.max(jnp.where(own, every, -jnp.inf), axis=1) - lowest
    gain = jnp.where(jnp.isfinite(rest), lowest - rest, jnp.inf)
    return jnp.where(jnp.sum(own, axis=1) == 1, gain, jnp.minimum(gain, -apart))


def status(prepared: Prepared, form: Form, solved: newton.Solved) -> Array:
    """The ``Status`` of a fit, worst fault first."""
    problem = prepared.problem
    size = solved.kept.size
    num_rows = jnp.sum(problem.weights > 0)
    short = jnp.where(num_rows < size // form.num_outputs, Status.underdetermined, Status.rank_deficient)
    found = jnp.where(jnp.all(solved.kept), Status.ok, short)
    found = jnp.where(solved.ending == newton.RUNNING, Status.max_steps, found)
    found = jnp.where(solved.ending == newton.STALLED, Status.stalled, found)
    found = jnp.where(solved.ending == newton.SEPARATED, Status.separated, found)
    found = jnp.where(jnp.all(jnp.isfinite(solved.coefficients)), found, Status.nonfinite)
    found = jnp.where(prepared.invalid, Status.invalid_input, found)
    return jnp.where(prepared.nonfinite, Status.nonfinite, found).astype(jnp.int32)

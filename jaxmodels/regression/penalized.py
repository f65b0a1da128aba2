"""What a penalised regression is given, as a problem of ``numerics.working_set``, and back.

Columns are centred where there is an intercept and scaled where they are standardised. The intercept of the gaussian
family is then the mean of y; that of the others is a last column of ones without a penalty.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jaxmodels import families
from jaxmodels.core import InputError, Status
from jaxmodels.families import Family
from jaxmodels.numerics import coordinate_descent as cd
from jaxmodels.numerics import newton, row_parts, working_set
from jaxmodels.numerics.coordinate_descent import Penalty
from jaxmodels.numerics.problem import matmul
from jaxmodels.numerics.row_parts import column_sums
from jaxmodels.numerics.working_set import Form, Gram, Point, Problem, Rows, Solved
from jaxmodels.regression import inputs, likelihood
from jaxmodels.regression.inputs import Data
from jaxmodels.regression.linear import LinearParams

FAMILIES = ("gaussian", "bernoulli", "poisson", "categorical")
# Below so many columns the Gram matrix is cheaper than to choose among them.
FEW_COLUMNS = 256
# Steps to the intercept that an offset leaves; each gains a digit or more.
OFFSET_STEPS = 30


class Choices(NamedTuple):
    """What is fixed when a fit is traced."""

    family: Family
    intercept: bool
    standardize: bool
    nonnegative: bool
    num_groups: int

    @property
    def gaussian(self) -> bool:
        return self.family.name == "gaussian"


class Arguments(NamedTuple):
    data: Data
    penalty_weights: Float[Array, " d"]
    groups: Int[Array, " d"] | None


class Prepared(NamedTuple):
    """A problem but for alpha and l1_ratio, and the way back to parameters."""

    data: Gram | Rows
    unit: Penalty
    """At alpha = 1, l1 and l2 each as if alone; ``[p, k]``."""
    null: Point
    """All coefficients 0 but the intercept."""
    scale: Float[Array, ""]
    center: Float[Array, " d"]
    inverse: Float[Array, " d"]
    """Of the spread of the columns; 0 where one is constant."""
    level: Float[Array, ""]
    """Mean of y; gaussian with an intercept only."""
    status: Array


# Read -----------------------------------------------------------------------------------------------------------------


def read(
    x: Any,
    y: Any,
    *,
    family: str | Family,
    weights: Any,
    mask: Any,
    offset: Any,
    penalty_weights: Any,
    groups: Any,
    nonnegative: bool,
    standardize: bool,
    intercept: bool,
) -> tuple[Choices, Arguments, bool]:
    """The arguments of a fit, and whether y had several targets: then ``data.y`` is ``[k, n]``.

    Raises:
      InputError: a shape, dtype or option that does not fit.
    """
    family = families.get(family)
    if family.name not in FAMILIES or not family.canonical:
        got = f"{family.name} with link {family.link.name}"
        raise InputError(f"family: got {got}, needs one of {', '.join(FAMILIES)} with its canonical link")
    x = jnp.asarray(inputs.as_array("x", x))
    given = {"weights": weights, "mask": mask}
    y = inputs.as_array("y", y)
    several = y.ndim == 2 and family.name != "categorical"
    if several:
        offsets = _columns("offset", offset, y)
        lanes = [likelihood.read(family, x, y[:, c], offset=offsets[c], **given) for c in range(y.shape[1])]
        data = lanes[0]._replace(y=jnp.stack([lane.y for lane in lanes]))
        if offset is not None:
            data = data._replace(offset=jnp.stack([lane.offset for lane in lanes]))
    else:
        data = likelihood.read(family, x, y, offset=offset, **given)
    factors = _factors(penalty_weights, data)
    labels, num_groups = _groups(groups, data, factors)
    choices = Choices(family, bool(intercept), bool(standardize), bool(nonnegative), num_groups)
    return choices, Arguments(data, factors, labels), several


def _columns(name: str, values: Any, y: Any) -> list:
    if values is None or np.ndim(values) < 2:
        return [values] * y.shape[1]
    if values.shape != y.shape:
        raise InputError(f"{name}: got shape {values.shape}, needs {y.shape[:1]} or that of y, {y.shape}")
    return [values[:, c] for c in range(y.shape[1])]


def _factors(penalty_weights: Any, data: Data) -> Array:
    num_columns = data.x.shape[1]
    if penalty_weights is None:
        return jnp.ones(num_columns, data.x.dtype)
    factors = jnp.asarray(inputs.as_array("penalty_weights", penalty_weights), data.x.dtype)
    if factors.shape != (num_columns,):
        raise InputError(f"penalty_weights: got shape {factors.shape}, needs one a column of x, ({num_columns},)")
    if not isinstance(factors, Tracer) and not bool(jnp.all(jnp.isfinite(factors) & (factors >= 0))):
        raise InputError("penalty_weights: got values below 0 or not finite, needs numbers of at least 0")
    return factors


def _groups(groups: Any, data: Data, factors: Array) -> tuple[Array | None, int]:
    """Labels 0 ... num_groups - 1, with one more for an intercept."""
    if groups is None:
        return None, 0
    if isinstance(groups, Tracer):
        raise InputError(
            "groups: got a traced array, needs labels known when the fit is compiled: a tuple or NumPy array"
        )
    labels = np.asarray(groups)
    if labels.shape != (data.x.shape[1],) or labels.dtype.kind not in "iu":
        needs = f"one integer a column of x, ({data.x.shape[1]},)"
        raise InputError(f"groups: got shape {labels.shape} of {labels.dtype}, needs {needs}")
    names, labels = np.unique(labels, return_inverse=True)
    if not isinstance(factors, Tracer):
        each = np.asarray(factors)
        first = each[np.unique(labels, return_index=True)[1]]
        if (each != first[labels]).any():
            raise InputError("penalty_weights: differ within a group; give all columns of a group the same")
    return jnp.asarray(labels, jnp.int32), len(names) + 1


def explain_values(choices: Choices, arguments: Arguments) -> None:
    """Raise ``InputError`` that names what is wrong with the values, on the host."""
    data = arguments.data
    _explain_range(choices, data)
    if choices.family.name == "categorical" or data.y.ndim == 1:
        likelihood.explain_values(choices.family, data)
        return
    for column in range(len(data.y)):
        offset = data.offset if data.offset is None else data.offset[column]
        likelihood.explain_values(choices.family, data._replace(y=data.y[column], offset=offset))


def _explain_range(choices: Choices, data: Data) -> None:
    limits = np.finfo(data.x.dtype)
    least, most = (limits.tiny / limits.eps) ** 0.5, (limits.max / len(data.x)) ** 0.5
    given = {"x": data.x} | ({"y": data.y.T} if choices.gaussian else {})
    for name, values in given.items():
        largest = np.atleast_1d(np.abs(np.asarray(values)).max(axis=0))
        outside = largest[(largest > 0) & np.isfinite(largest) & ((largest < least) | (largest > most))]
        if outside.size:
            raise InputError(
                f"{name}: values up to {outside[0]:.1e}, whose squares {limits.dtype} does not hold: "
                "divide by a constant, or pass float64"
            )


# Prepare --------------------------------------------------------------------------------------------------------------


def prepare(choices: Choices, arguments: Arguments, *, many: bool) -> Prepared:
    """The problem; ``many`` solutions of it make the Gram matrix worth its price."""
    data, penalty_weights = arguments.data, arguments.penalty_weights
    # Where all rows count or the fit fails, x is not cleaned, and its mean says whether it is finite.
    every = data.mask is None and data.weights is None
    given = data._replace(x=data.x[:, :0]) if every else data
    read = likelihood.prepare(likelihood.Form(choices.family, False), given, None)
    x = data.x if every else newton.design(read.problem)
    total = jnp.sum(read.problem.weights)
    problem = read.problem._replace(weights=read.problem.weights / jnp.where(total > 0, total, 1))
    columns = _columns_of(choices, x, problem.weights)
    if not choices.gaussian:
        found = _with_intercept(choices, x, problem, columns)
    elif x.shape[1] <= len(x) and (many or x.shape[1] <= FEW_COLUMNS):
        found = _by_gram(choices, x, problem, columns)
    else:
        found = _by_rows(choices, x, problem, columns)
    data, null, scale, level, separated = found
    status = jnp.where(separated, Status.separated, Status.ok)
    status = jnp.where(read.invalid | ~jnp.all(penalty_weights >= 0), Status.invalid_input, status)
    nonfinite = read.nonfinite | ~jnp.all(jnp.isfinite(columns.mean)) | _leaves_range(columns.spread**2, columns.mean)
    if choices.gaussian:
        nonfinite |= _leaves_range(scale, jnp.max(jnp.abs(problem.targets), initial=0))
    status = jnp.where(nonfinite, Status.nonfinite, status).astype(jnp.int32)
    unit = _unit_penalty(choices, arguments, null.coefficients.shape)
    return Prepared(data, unit, null, lax.stop_gradient(scale), columns.center, columns.inverse, level, status)


def _leaves_range(squares: Array, values: Array) -> Array:
    """Whether a sum of squares is not finite, or nothing though the values are not."""
    limits = jnp.finfo(squares.dtype)
    least = float(limits.tiny) / float(limits.eps)
    lost = (squares <= least) & (values != 0) & (jnp.abs(values) < least**0.5)
    return ~jnp.all(jnp.isfinite(squares) & ~lost)


def form_of(choices: Choices) -> Form:
    return Form(choices.family, cd.Form(choices.num_groups))


class _Columns(NamedTuple):
    mean: Array
    center: Array
    """What is subtracted: the mean where there is an intercept."""
    spread: Array
    inverse: Array
    """What the columns are multiplied with then; 0 where one is constant."""


def _columns_of(choices: Choices, x: Array, weights: Array) -> _Columns:
    # Differences from a row that counts have all the digits of columns far from 0.
    row = lax.stop_gradient(x[jnp.argmax(weights > 0)])
    mean = row + column_sums(x, row, weights[:, None])[:, 0]
    spread = column_sums(x, mean, weights[:, None], power=2)[:, 0]
    constant = spread <= (10 * float(jnp.finfo(x.dtype).eps) * mean) ** 2
    spread = jnp.where(constant, 0, jnp.sqrt(jnp.where(constant, 1, spread)))
    inverse = jnp.where(constant, 0, 1 / jnp.where(constant, 1, spread))
    if not choices.standardize:
        inverse = jnp.where(constant & choices.intercept, 0, jnp.ones_like(inverse))
    return _Columns(mean, mean if choices.intercept else jnp.zeros_like(mean), spread, inverse)


def _rows_of(x: Array, problem: Any, columns: _Columns) -> Rows:
    squares = (columns.spread**2 + (columns.mean - columns.center) ** 2) * columns.inverse**2
    return Rows(x, columns.center, columns.inverse, problem.targets, problem.weights, problem.offset, squares)


def _squared_error(choices: Choices, x: Array, problem: Any, columns: _Columns) -> tuple[Rows, Array, Array]:
    """Rows whose targets have neither offset nor level, their mean square, and the level."""
    data = _rows_of(x, problem, columns)
    targets = data.targets - data.offset[:, 0]
    level = matmul(data.weights, targets) if choices.intercept else jnp.zeros((), x.dtype)
    targets = targets - level
    return data._replace(targets=targets, offset=jnp.zeros_like(data.offset)), matmul(data.weights, targets**2), level


def _by_gram(choices: Choices, x: Array, problem: Any, columns: _Columns) -> tuple:
    rows, square, level = _squared_error(choices, x, problem, columns)
    center, inverse = columns.center, columns.inverse
    gram = row_parts.centered_gram(x, center, rows.weights)
    moment = row_parts.column_sums(x, center, (rows.weights * rows.targets)[:, None])[:, 0]
    data = Gram(inverse[:, None] * gram * inverse, inverse * moment, square)
    coefficients = jnp.zeros((x.shape[1], 1), x.dtype)
    null = Point(coefficients, -lax.stop_gradient(data.moment)[:, None], None)
    return data, null, square / 2, level, jnp.bool_(False)


def _by_rows(choices: Choices, x: Array, problem: Any, columns: _Columns) -> tuple:
    data, square, level = _squared_error(choices, x, problem, columns)
    coefficients = jnp.zeros((x.shape[1], 1), x.dtype)
    null = working_set.point_at(form_of(choices), data, coefficients, data.offset)
    return data, jax.tree.map(lax.stop_gradient, null), square / 2, level, jnp.bool_(False)


def _with_intercept(choices: Choices, x: Array, problem: Any, columns: _Columns) -> tuple:
    """The rows of a family with a column of ones, and the best constant."""
    data = _rows_of(x, problem, columns)
    if choices.family.name == "categorical":
        data = data._replace(offset=jnp.pad(data.offset, ((0, 0), (1, 0))))
    if choices.intercept:
        wider = (jnp.append(each, last) for each, last in ((data.center, -1), (data.inverse, 1), (data.squares, 1)))
        data = data._replace(**dict(zip(("center", "inverse", "squares"), wider, strict=True)))
    level, separated = _null_level(choices, data)
    coefficients = jnp.zeros((len(data.squares), data.offset.shape[1]), x.dtype)
    if choices.intercept:
        coefficients = coefficients.at[-1].set(level)
    outputs = data.offset + level
    null = working_set.point_at(form_of(choices), data, coefficients, outputs)
    outputs = outputs if choices.family.name == "categorical" else outputs[:, 0]
    scale = matmul(data.weights, choices.family.deviance(outputs, data.targets)) / 2
    level = jnp.zeros((), x.dtype)
    return data, jax.tree.map(lax.stop_gradient, null), scale, level, separated & choices.intercept


def _null_level(choices: Choices, data: Rows) -> tuple[Array, Array]:
    """The intercept of no columns, from means of observed and expected targets; whether it is infinite."""
    family, smallest = choices.family, float(jnp.finfo(data.weights.dtype).eps)
    highest = 1 - smallest if family.name != "poisson" else jnp.inf

    def level(mean):
        return jnp.broadcast_to(family.link.link(jnp.clip(mean, smallest, highest)), data.offset.shape[1:])

    observed = matmul(data.weights, data.targets)
    separated = jnp.any((observed <= 0) | (observed >= (jnp.inf if family.name == "poisson" else 1)))
    start = level(observed) if choices.intercept else jnp.zeros(data.offset.shape[1:], data.weights.dtype)
    if not choices.intercept:
        return start, separated

    def corrected(_, current):
        outputs = data.offset + current
        mean = family.mean(outputs if family.name == "categorical" else outputs[:, 0])
        return current + level(observed) - level(matmul(data.weights, mean))

    return lax.fori_loop(0, OFFSET_STEPS, corrected, start), separated


def _unit_penalty(choices: Choices, arguments: Arguments, shape: tuple[int, int]) -> Penalty:
    factors, groups = arguments.penalty_weights, arguments.groups
    l1, l2 = factors, factors
    if groups is not None:
        sizes = jax.ops.segment_sum(jnp.ones_like(factors), groups, choices.num_groups)
        l1 = factors * jnp.sqrt(sizes)[groups]
    lower = jnp.full_like(factors, 0 if choices.nonnegative else -jnp.inf)
    extra = shape[0] - len(factors)

    def widen(values, fill):
        values = jnp.pad(values, (0, extra), constant_values=fill)
        return jnp.broadcast_to(values[:, None], shape)

    labels = None if groups is None else widen(groups, choices.num_groups - 1)
    return Penalty(widen(l1, 0), widen(l2, 0), widen(lower, -jnp.inf), labels)


# Solve ----------------------------------------------------------------------------------------------------------------


def penalty_at(prepared: Prepared, alpha: Array, l1_ratio: Array) -> Penalty:
    unit = prepared.unit
    return unit._replace(l1=alpha * l1_ratio * unit.l1, l2=alpha * (1 - l1_ratio) * unit.l2)


def solve_at(
    choices: Choices,
    prepared: Prepared,
    start: Point,
    alpha: Array,
    previous: Array,
    l1_ratio: Array,
    tolerance: Array,
    max_steps: Any,
) -> Solved:
    """The solution at alpha, from that at a larger one: the strong rule screens the columns."""
    penalty = penalty_at(prepared, alpha, l1_ratio)
    screen = jnp.minimum(penalty.l1, (2 * alpha - previous) * l1_ratio * prepared.unit.l1)
    problem = Problem(prepared.data, penalty, prepared.scale)
    return working_set.solve(form_of(choices), problem, start, screen, tolerance, max_steps)


def params_of(choices: Choices, prepared: Prepared, coefficients: Float[Array, "p k"]) -> LinearParams:
    num_columns = len(prepared.inverse)
    slopes = coefficients[:num_columns] * prepared.inverse[:, None]
    level = prepared.level if choices.gaussian else jnp.zeros(slopes.shape[1], slopes.dtype)
    if not choices.gaussian and choices.intercept:
        level = coefficients[-1]
    level = level - matmul(prepared.center, slopes)
    return LinearParams(slopes, level) if choices.family.name == "categorical" else LinearParams(slopes[:, 0], level[0])


def status_of(prepared: Prepared, solved: Solved, tolerance: Array, alpha: Array, l1_ratio: Array) -> Array:
    closed = working_set.is_closed(solved.gap, prepared.scale, tolerance)
    status = jnp.where(closed, prepared.status, Status.max_steps)
    finite = jnp.all(jnp.isfinite(solved.point.coefficients)) & jnp.isfinite(alpha) & jnp.isfinite(l1_ratio)
    status = jnp.where(prepared.status == Status.ok, jnp.where(finite, status, Status.nonfinite), prepared.status)
    outside = (alpha < 0) | (l1_ratio < 0) | (l1_ratio > 1)
    return jnp.where(outside, Status.invalid_input, status).astype(jnp.int32)


def largest_alpha(choices: Choices, prepared: Prepared, l1_ratio: Array) -> Array:
    """Where the first coefficient leaves 0; of an almost ridge penalty as if l1_ratio were 1/1000, as glmnet has it."""
    size = cd.norms(cd.Form(choices.num_groups), prepared.unit, -prepared.null.slope)
    l1 = cd.per_unit(cd.Form(choices.num_groups), prepared.unit)
    return jnp.max(jnp.where(l1 > 0, size / jnp.where(l1 > 0, l1, 1), 0)) / jnp.maximum(l1_ratio, 1e-3)


@functools.cache
def default_tolerance(dtype: np.dtype) -> float:
    return float(np.finfo(dtype).eps) ** 0.75

"""The triangular factor of a tall matrix by matrix products alone (shifted Cholesky QR), of any rank.

    R_1 = chol(A'A),  Q_1 = A R_1^-1,  R_2 = chol(Q_1'Q_1),  ...,  R = ... R_2 R_1

The Gram matrix squares the condition number, so the factor of one is trusted only where the condition is small; else
it makes the columns more nearly orthonormal, and their Gram matrix is taken anew. Two passes do for condition numbers
up to the root of 1/eps, three for 1/eps, and the result is as accurate as that of Householder reflections. Products
run at full speed on any device, alone, in batches, and with the rows spread over devices.

Sources: Yamamoto, Nakatsukasa, Yanagisawa, Fukaya, Roundoff error analysis of the CholeskyQR2 algorithm (2015);
Fukaya, Kannan, Nakatsukasa, Yamamoto, Yanagisawa, Shifted Cholesky QR for computing the QR factorization of
ill-conditioned matrices (2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.numerics.lanes import at_most_once
from jaxmodels.numerics.matrices import SMALL, cholesky, diagonal, product, triangular_inverse
from jaxmodels.numerics.row_parts import sum_of_parts

# A factor whose condition (Frobenius, unit columns) is below this many times d has lost no digits that count.
WELL_CONDITIONED = 4.0
MAX_PASSES = 6
# A good bound for ``dependent``: sums of a dozen columns, and changes of unit, stay below it; powers of a variable, of
# condition 1e10, stay above. Rounding grows with the number of columns, and from FEW of them on the bound with it.
DEPENDENT, FEW = 64.0, 16


class Triangle(NamedTuple):
    """The factor R of ``[A; P^1/2]`` and what is known of it."""

    upper: Float[Array, "d d"]
    """``R``, upper triangular with a positive diagonal; rows and columns of dropped columns are zero."""
    inverse: Float[Array, "d d"]
    """``R^-1`` of the columns that were kept, else zero too."""
    kept: Bool[Array, " d"]
    num_passes: Int[Array, ""]
    """Gram matrices taken."""


class Rows(NamedTuple):
    """A tall matrix that is made where it is read, run by run, and never written as a whole."""

    make: Callable[..., Array]
    """A run of rows of the arrays -> the matrix's rows for them, one or more for each."""
    arrays: tuple[Array, ...]

    @property
    def all(self) -> Array:
        return self.make(*self.arrays)


class _Matrix(NamedTuple):
    """``[A; P^1/2]``."""

    rows: Rows
    """Of ``A``, or ``A'``."""
    transposed: bool
    penalty: Array | None

    @property
    def shape(self) -> tuple[int, int]:
        num_rows, num_columns = jax.eval_shape(self.rows.make, *self.rows.arrays).shape
        return (num_columns, num_rows) if self.transposed else (num_rows, num_columns)

    def of(self, arrays: tuple[Array, ...]) -> _Matrix:
        return self._replace(rows=self.rows._replace(arrays=arrays))


class _State(NamedTuple):
    triangle: Triangle
    condition: Array
    """Of the last Gram matrix, with its columns of length 1; NaN where the matrix is."""
    scaled: Array
    """Whether the squares of the columns, as that matrix has them, are in the range of the dtype."""


class _Limits(NamedTuple):
    """What a column has to pass to count as independent."""

    dependent: float
    rounding: Array | float
    capacity: Array | int

    @property
    def below_lift(self) -> bool:
        """Whether no pivot of a first Gram matrix is as small: they are lifted to about ``sqrt(eps)``."""
        return isinstance(self.rounding, float) and self.rounding == 0


def triangle(
    matrix: Float[Array, "n d"] | Rows,
    *,
    penalty: Float[Array, "d *d"] | None = None,
    dependent: float = 0.0,
    rounding: Float[Array, " d"] | float = 0.0,
    num_rows: Int[Array, ""] | None = None,
    trusted: float | None = None,
    try_float32: float = 0.0,
    transposed: bool = False,
) -> Triangle:
    """The triangular factor: ``R'R = A'A + P``.

    A column that depends on those kept before it may be dropped; so of two equal columns the later one goes, as in R's
    ``lm``. A column of zeros always is.

    Works under jit and vmap, where a further pass is taken only if some lane needs it, and with sharded rows, where
    each pass adds up one ``[d, d]`` matrix over the devices. Do not differentiate through it.

    Args:
      matrix: ``A``, finite.
      penalty: ``P``, positive semidefinite, or its diagonal, as if rows ``P^1/2`` were below ``A``. Default: none.
      dependent: distance from the span of the columns kept before, in units of eps and of its length, up to which a
        column is dropped; of more than ``FEW`` columns in proportion to their number. With 0 the pivots of dependent
        columns are what rounding makes them, about eps.
      rounding: a distance to add to that one: the column's own error, say, where it was long before its mean was
        subtracted.
      num_rows: bound on the rank of ``A``, where less than n: the rows that are not zero.
      trusted: the condition (Frobenius, of columns of length 1) up to which the factor of a Gram matrix is good
        enough. Default: ``WELL_CONDITIONED * d``, which is the best that can be had.
      try_float32: the condition up to which the factor of a Gram matrix in float32, which takes half the time, is good
        enough. Default: none is.
      transposed: whether ``matrix`` is ``A'``, of shape ``[d, n]``.

    >>> matrix = jnp.array([[3.0, 6.0, 1.0], [4.0, 8.0, 1.0]])
    >>> upper, _, kept, _ = triangle(matrix, dependent=DEPENDENT)
    >>> [[round(float(entry), 4) for entry in row] for row in upper], kept.tolist()
    ([[5.0, 0.0, 1.4], [0.0, 0.0, 0.0], [0.0, 0.0, 0.2]], [True, False, True])
    """
    rows = matrix if isinstance(matrix, Rows) else Rows(lambda run: run, (matrix,))
    whole = _Matrix(rows, transposed, jnp.diag(penalty) if penalty is not None and penalty.ndim == 1 else penalty)
    most_rows, num_columns = whole.shape
    trusted = WELL_CONDITIONED * num_columns if trusted is None else trusted
    capacity = most_rows if num_rows is None else num_rows
    capacity = capacity if whole.penalty is None else capacity + jnp.sum(jnp.diagonal(whole.penalty) > 0)
    limits = _Limits(dependent, rounding, capacity)

    def unfinished(state: _State) -> Array:
        most = MAX_PASSES + jnp.sum(~state.triangle.kept)
        return (state.condition > trusted) & (state.triangle.num_passes < most)

    def in_full(_, arrays):
        return _first_pass(whole.of(arrays), limits)

    if try_float32:
        state = _first_pass(whole, limits, jnp.float32)
        state = at_most_once(state.condition > try_float32, in_full, state, rows.arrays)
    else:
        state = _first_pass(whole, limits)
    # Where the first pass is enough for all lanes, nothing else is done.
    return lax.while_loop(unfinished, lambda state: _pass(whole, state, limits), state).triangle


def growth(num_columns: int) -> float:
    """Of rounding with the number of columns."""
    return max(1.0, num_columns / FEW)


def _first_pass(matrix: _Matrix, limits: _Limits, dtype: Any = None) -> _State:
    """With the columns as they are; as if it had not been, where their squares leave the range of the dtype."""
    gram = _gram(matrix, None, dtype)
    safe = jnp.all(squares_are_safe(diagonal(gram), dtype))
    upper, inverse, condition = cholesky(gram, matrix.shape[0], dtype)
    after = _State(Triangle(upper, inverse, jnp.ones(len(gram), bool), jnp.int32(1)), condition, safe)
    if not limits.below_lift:
        after = _without_dependent(after, limits)
        after = after._replace(triangle=after.triangle._replace(kept=after.triangle.kept | ~safe))
    return after._replace(condition=jnp.where(safe, after.condition, jnp.inf))


def _pass(matrix: _Matrix, state: _State, limits: _Limits) -> _State:
    """R and its inverse with the factor of the Gram matrix of ``A R^-1`` multiplied in."""
    # Bound to the state: XLA moves out of a loop what does not change in it, and all would pay for what few need.
    arrays, state = lax.optimization_barrier((matrix.rows.arrays, state))
    matrix = matrix.of(arrays)
    scale = _column_scale(_largest(matrix))
    before = state.triangle
    upper = jnp.where(state.scaled, before.upper, jnp.diag(1 / scale))
    inverse = jnp.where(state.scaled, before.inverse, jnp.diag(scale))
    new_upper, new_inverse, condition = cholesky(_gram(matrix, inverse), matrix.shape[0])
    upper, inverse = product(new_upper, upper), product(inverse, new_inverse)
    after = _State(Triangle(upper, inverse, before.kept, before.num_passes + 1), condition, jnp.bool_(True))
    return _without_dependent(after, limits)


def _without_dependent(state: _State, limits: _Limits) -> _State:
    before = state.triangle
    kept = before.kept & ~_dependent(before.upper, before.kept, limits)
    after = state._replace(triangle=before._replace(kept=kept))
    after, _ = lax.while_loop(lambda loop: loop[1], _drop, (after, jnp.any(kept != before.kept)))
    return after


def _drop(loop: tuple[_State, Array]) -> tuple[_State, Array]:
    """Without the columns that were not kept; what is left waits for a pass of its own.

    The later columns were made orthogonal to a dropped one's direction, which is rounding, so that R loses what they
    had along it, and its inverse is taken anew.
    """
    state, _ = loop
    kept = state.triangle.kept
    both = kept[:, None] & kept
    upper = jnp.where(both, state.triangle.upper, 0)
    inverse = jnp.where(both, triangular_inverse(upper + jnp.diag((~kept).astype(upper.dtype))), 0)
    triangle = state.triangle._replace(upper=upper, inverse=inverse)
    return state._replace(triangle=triangle, condition=jnp.full_like(state.condition, jnp.inf)), jnp.bool_(False)


def _dependent(upper: Array, kept: Array, limits: _Limits) -> Array:
    """Which columns are to go.

    A column that depends on others leaves a direction of pure rounding, which takes up one of the dimensions that there
    are. So where the columns before one may have used up all of them, it is judged once those directions are gone.
    """
    near = kept & (jnp.diagonal(upper) <= least_pivots(upper, limits.dependent) + limits.rounding)
    certain = near & (jnp.cumsum(kept) <= limits.capacity)
    return jnp.where(jnp.any(certain), certain, near)


def least_pivots(upper: Float[Array, "d d *lanes"], dependent: float = DEPENDENT) -> Float[Array, "d *lanes"]:
    """Up to which a column counts as one that depends on those before it; ``dependent`` is that of ``triangle``."""
    return dependent * growth(len(upper)) * float(jnp.finfo(upper.dtype).eps) * column_lengths(upper)


def _gram(matrix: _Matrix, inverse: Array | None, dtype: Any = None) -> Array:
    """Of ``A`` or ``A R^-1``, summed in ``dtype``."""
    penalty = matrix.penalty

    def of_run(*arrays):
        rows = matrix.rows.make(*arrays)
        rows = rows if inverse is None else product(rows, inverse)
        summed = rows if dtype is None else rows.astype(dtype)
        return product(summed.T, summed).astype(rows.dtype)

    if matrix.transposed:
        values = matrix.rows.all if inverse is None else product(inverse.T, matrix.rows.all)
        gram = gram_of_columns(values if dtype is None else values.astype(dtype)).astype(values.dtype)
    else:
        gram = sum_of_parts(of_run, *matrix.rows.arrays)
    if penalty is None:
        return gram
    return gram + (penalty if inverse is None else product(inverse.T, product(penalty, inverse)))


def gram_of_columns(columns: Array) -> Array:
    """``A'A``. Of few columns one at a time: as one product XLA:CPU gives it to threads, for which it is too small."""

    def one_by_one(columns):
        return jnp.stack([jnp.matmul(columns, column, precision=lax.Precision.HIGHEST) for column in columns])

    def at_once(columns):
        return product(columns, columns.T)

    if len(columns) > SMALL:
        return at_once(columns)
    return lax.platform_dependent(columns, cpu=one_by_one, default=at_once)


def squares_are_safe(squares: Array, dtype: Any = None) -> Array:
    """Which are far from the ends of the range of ``dtype``, by default their own."""
    limits = jnp.finfo(dtype or squares.dtype)
    least, most = float(limits.tiny) / float(limits.eps) ** 2, float(limits.max) ** 0.75
    return (squares > least) & (squares < most)


def _largest(matrix: _Matrix) -> Array:
    """Of the entries of each column."""
    largest = jnp.max(jnp.abs(matrix.rows.all), axis=int(matrix.transposed))
    return largest if matrix.penalty is None else jnp.maximum(largest, jnp.sqrt(jnp.diagonal(matrix.penalty)))


def _column_scale(largest: Array) -> Array:
    """Powers of two that bring the largest entry of each column to [1/2, 1); 1 for a column of zeros."""
    exponent = jnp.where(largest > 0, jnp.frexp(largest)[1], 0)
    return jnp.ldexp(jnp.ones_like(largest), -exponent)


def column_lengths(matrix: Float[Array, "n d *lanes"]) -> Float[Array, "d *lanes"]:
    """Euclidean, where the squares of the entries may leave the range of the dtype."""
    scale = _column_scale(jnp.max(jnp.abs(matrix), axis=0))
    return jnp.linalg.norm(matrix * scale, axis=0) / scale

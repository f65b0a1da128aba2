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

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

# A factor whose condition (Frobenius, unit columns) is below this many times d has lost no digits that count.
WELL_CONDITIONED = 4.0
MAX_PASSES = 6
# A good bound for ``dependent``: sums of a dozen columns, and changes of unit, stay below it; powers of a variable, of
# condition 1e10, stay above.
DEPENDENT = 64.0
# Up to this size a loop over entries, each of them a vector of lanes under vmap, beats a LAPACK call a lane.
SMALL = 6


class Triangle(NamedTuple):
    """The factor R of ``[A; P^1/2]`` and what is known of it."""

    upper: Float[Array, "d d"]
    """``R``, upper triangular with a positive diagonal; rows and columns of dropped columns are zero."""
    inverse: Float[Array, "d d"]
    """``R^-1`` of the columns that were kept, else zero too."""
    kept: Bool[Array, " d"]
    num_passes: Int[Array, ""]
    """Gram matrices taken."""


class _State(NamedTuple):
    triangle: Triangle
    condition: Array
    gram: Array
    scaled: Array  # whether the squares of the columns, as the Gram matrix has them, are in the range of the dtype


class _Limits(NamedTuple):
    """What a column has to pass to count as independent."""

    dependent: float
    rounding: Array | float
    capacity: Array | int


def triangle(
    matrix: Float[Array, "n d"],
    *,
    penalty: Float[Array, " d"] | None = None,
    dependent: float = 0.0,
    rounding: Float[Array, " d"] | float = 0.0,
    num_rows: Int[Array, ""] | None = None,
    trusted: float | None = None,
) -> Triangle:
    """The triangular factor: ``R'R = A'A + diag(penalty)``.

    A column that depends on those kept before it may be dropped; so of two equal columns the later one goes, as in R's
    ``lm``. A column of zeros always is.

    Works under jit and vmap, where a further pass is taken only if some lane needs it, and with sharded rows, where
    each pass adds up one ``[d, d]`` matrix over the devices. Do not differentiate through it.

    Args:
      matrix: ``A``, finite.
      penalty: at least 0; as rows ``diag(sqrt(penalty))`` below ``A``. Default: none.
      dependent: distance from the span of the columns kept before, in units of eps and of its length, up to which a
        column is dropped. With 0 the pivots of dependent columns are what rounding makes them, about eps.
      rounding: a distance to add to that one: the column's own error, say, where it was long before its mean was
        subtracted.
      num_rows: bound on the rank of ``A``, where less than n: the rows that are not zero.
      trusted: the condition (Frobenius, of columns of length 1) up to which the factor of a Gram matrix is good
        enough. Default: ``WELL_CONDITIONED * d``, which is the best that can be had.

    >>> matrix = jnp.array([[3.0, 6.0, 1.0], [4.0, 8.0, 1.0]])
    >>> upper, _, kept, _ = triangle(matrix, dependent=DEPENDENT)
    >>> [[round(float(entry), 4) for entry in row] for row in upper], kept.tolist()
    ([[5.0, 0.0, 1.4], [0.0, 0.0, 0.0], [0.0, 0.0, 0.2]], [True, False, True])
    """
    root = None if penalty is None else jnp.sqrt(penalty)
    trusted = WELL_CONDITIONED * matrix.shape[1] if trusted is None else trusted
    capacity = len(matrix) if num_rows is None else num_rows
    limits = _Limits(dependent, rounding, capacity if penalty is None else capacity + jnp.sum(penalty > 0))

    def unfinished(state: _State) -> Array:
        most = MAX_PASSES + jnp.sum(~state.triangle.kept)
        return ~(state.condition <= trusted) & (state.triangle.num_passes < most)

    def one_pass(state: _State) -> _State:
        later = state.triangle.num_passes > 0

        def orthonormalise(loop):
            return _multiplied(matrix, root, loop[0]), jnp.bool_(False)

        # A loop of at most one turn, not a branch: under vmap a loop that no lane needs costs nothing.
        state, _ = lax.while_loop(lambda loop: loop[1], orthonormalise, (state, later))
        return _factored(state, len(matrix), limits)

    return lax.while_loop(unfinished, one_pass, _start(matrix, root)).triangle


def _start(matrix: Array, root: Array | None) -> _State:
    """The Gram matrix of the columns as they are, unless their squares leave the range of the dtype."""
    gram = _gram(matrix, None if root is None else jnp.diag(root))
    identity = jnp.eye(len(gram), dtype=gram.dtype)
    safe = _squares_are_safe(jnp.diagonal(gram))
    passes = jnp.where(safe, 0, 1).astype(jnp.int32)
    kept = jnp.ones(len(gram), bool)
    return _State(Triangle(identity, identity, kept, passes), jnp.asarray(jnp.inf, gram.dtype), gram, safe)


def _multiplied(matrix: Array, root: Array | None, state: _State) -> _State:
    """The Gram matrix of ``A R^-1``; where there is no R yet, of scaled columns."""
    scale = _column_scale(matrix, root)
    upper = jnp.where(state.scaled, state.triangle.upper, jnp.diag(1 / scale))
    inverse = jnp.where(state.scaled, state.triangle.inverse, jnp.diag(scale))
    gram = _gram(_matmul(matrix, inverse), None if root is None else root[:, None] * inverse)
    return _State(state.triangle._replace(upper=upper, inverse=inverse), state.condition, gram, jnp.bool_(True))


def _factored(state: _State, num_rows: int, limits: _Limits) -> _State:
    """R and its inverse with the factor of the Gram matrix multiplied in, less the columns that turn out to depend."""
    before = state.triangle
    upper, inverse, condition = _cholesky(state.gram, num_rows)
    upper, inverse = _matmul(upper, before.upper), _matmul(before.inverse, inverse)
    kept = before.kept & ~_dependent(upper, before.kept, limits)
    after = state._replace(triangle=Triangle(upper, inverse, kept, before.num_passes + 1), condition=condition)
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
    tolerance = limits.dependent * float(jnp.finfo(upper.dtype).eps) * column_lengths(upper) + limits.rounding
    near = kept & (jnp.diagonal(upper) <= tolerance)
    certain = near & (jnp.cumsum(kept) <= limits.capacity)
    return jnp.where(jnp.any(certain), certain, near)


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _gram(matrix: Array, rows: Array | None) -> Array:
    gram = _matmul(matrix.T, matrix)
    return gram if rows is None else gram + _matmul(rows.T, rows)


def _squares_are_safe(squares: Array) -> Array:
    limits = jnp.finfo(squares.dtype)
    least, most = float(limits.tiny) / float(limits.eps) ** 2, float(limits.max) ** 0.75
    return jnp.all((squares > least) & (squares < most))


def _column_scale(matrix: Array, root: Array | None) -> Array:
    """Powers of two that bring the largest entry of each column to [1/2, 1); 1 for a column of zeros."""
    largest = jnp.max(jnp.abs(matrix), axis=0)
    if root is not None:
        largest = jnp.maximum(largest, root)
    exponent = jnp.where(largest > 0, jnp.frexp(largest)[1], 0)
    return jnp.ldexp(jnp.ones_like(largest), -exponent)


def column_lengths(matrix: Float[Array, "n d"]) -> Float[Array, " d"]:
    """Euclidean, where the squares of the entries may leave the range of the dtype."""
    scale = _column_scale(matrix, None)
    return jnp.linalg.norm(matrix * scale, axis=0) / scale


def _cholesky(gram: Array, num_rows: int) -> tuple[Array, Array, Array]:
    """R, its inverse and the condition of unit columns. Pivots that rounding could have made are lifted."""
    num_columns = len(gram)
    squares = jnp.diagonal(gram)
    length = jnp.sqrt(squares)
    scale = jnp.where(squares > 0, 1 / jnp.where(squares > 0, length, 1), 0)
    # A column of zeros stands in as a unit vector, and its row of R comes out zero.
    unit = gram * scale[:, None] * scale + jnp.diag((squares == 0).astype(gram.dtype))
    lift = gram_error(gram.dtype, num_rows, num_columns)
    upper = _small_cholesky(unit, lift) if num_columns <= SMALL else _large_cholesky(unit, lift)
    inverse = triangular_inverse(upper)
    condition = jnp.linalg.norm(upper) * jnp.linalg.norm(inverse)
    return upper * length, inverse * scale[:, None], condition


def gram_error(dtype, num_rows: int, num_columns: int) -> float:
    """What rounding leaves uncertain in the Gram matrix of unit columns, and so in a squared pivot."""
    return float(jnp.finfo(dtype).eps) * (4 * num_columns + num_rows**0.5)


def _small_cholesky(gram: Array, lift: float) -> Array:
    size = len(gram)
    upper = [[jnp.zeros((), gram.dtype)] * size for _ in range(size)]
    for i in range(size):
        for j in range(i, size):
            rest = gram[i, j] - sum(upper[k][i] * upper[k][j] for k in range(i))
            upper[i][j] = rest / upper[i][i] if j > i else jnp.sqrt(jnp.maximum(rest, lift))
    return _from_entries(upper)


def _large_cholesky(gram: Array, lift: float) -> Array:
    identity = jnp.eye(len(gram), dtype=gram.dtype)

    def factor(shift):
        return lax.linalg.cholesky(gram + shift * identity).mT

    plain = factor(0)
    # NaN, LAPACK's word for a failure, compares false.
    sound = jnp.all(jnp.diagonal(plain) ** 2 >= lift)
    lifted = jnp.where(sound, plain, factor(lift))
    return jnp.where(jnp.all(jnp.isfinite(lifted)), lifted, identity)


def triangular_inverse(upper: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """``R^-1`` of an upper triangular matrix without zeros on its diagonal.

    >>> triangular_inverse(jnp.array([[2.0, 1.0], [0.0, 4.0]])).tolist()
    [[0.5, -0.125], [0.0, 0.25]]
    """
    size = len(upper)
    if size > SMALL:
        identity = jnp.eye(size, dtype=upper.dtype)
        return jnp.triu(lax.linalg.triangular_solve(upper, identity, left_side=True))
    inverse = [[jnp.zeros((), upper.dtype)] * size for _ in range(size)]
    for j in range(size):
        inverse[j][j] = 1 / upper[j, j]
        for i in reversed(range(j)):
            rest = sum(upper[i, k] * inverse[k][j] for k in range(i + 1, j + 1))
            inverse[i][j] = -rest / upper[i, i]
    return _from_entries(inverse)


def _from_entries(entries: list[list[Array]]) -> Array:
    return jnp.stack([jnp.stack(row) for row in entries])

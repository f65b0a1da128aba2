"""The triangular factor: against Householder's, at any condition, rank and scale."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxmodels.numerics import matrices, qr


def householder(matrix: np.ndarray) -> np.ndarray:
    upper = scipy.linalg.qr(matrix, mode="economic")[1]  # in the matrix's own precision; NumPy's has float64 inside
    return upper * np.sign(np.diagonal(upper))[:, None]


def conditioned(rng, num_rows, num_columns, condition):
    left, _ = np.linalg.qr(rng.normal(size=(num_rows, num_columns)))
    right, _ = np.linalg.qr(rng.normal(size=(num_columns, num_columns)))
    return left * np.geomspace(1, 1 / condition, num_columns) @ right.T


@pytest.mark.parametrize("num_columns", [4, 9])  # entry by entry, and LAPACK
@pytest.mark.parametrize(("condition", "num_passes"), [(1.5, 1), (1e4, 2), (1e12, 3)])
def test_equals_householder(x64, num_columns, condition, num_passes):
    matrix = conditioned(np.random.default_rng(0), 50, num_columns, condition)
    upper, inverse, kept, passes = jax.jit(qr.triangle)(matrix)
    assert int(passes) <= num_passes
    assert kept.all()
    eps = np.finfo(float).eps
    np.testing.assert_allclose(upper, householder(matrix), rtol=0, atol=50 * eps * condition)
    np.testing.assert_allclose(upper.T @ upper, matrix.T @ matrix, rtol=0, atol=50 * eps)
    np.testing.assert_allclose(inverse @ upper, np.eye(num_columns), rtol=0, atol=200 * eps * condition)


def test_is_as_good_as_householder_in_float32():
    matrix = conditioned(np.random.default_rng(1), 2000, 20, 1e3).astype(np.float32)
    exact = householder(matrix.astype(np.float64))
    ours = np.abs(qr.triangle(jnp.asarray(matrix)).upper - exact).max()
    theirs = np.abs(householder(matrix) - exact).max()
    assert ours <= 4 * theirs


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])  # whose squares float32 does not hold
@pytest.mark.parametrize("condition", [1.5, 1e4, 1e12])
def test_a_first_sum_in_float32_leaves_what_it_cannot_do_to_float64(x64, condition, scale):
    matrix = scale * conditioned(np.random.default_rng(0), 500, 9, condition)
    plain = qr.triangle(matrix)
    triangle = jax.jit(qr.triangle, static_argnames=("try_float32", "transposed"))
    for transposed in (False, True):
        columns = matrix.T if transposed else matrix
        tried = triangle(columns, try_float32=qr.WELL_CONDITIONED * 9, transposed=transposed)
        if condition == 1.5 and scale == 1:
            assert 1e-8 < np.abs(tried.upper - plain.upper).max() < 1e-6
        else:
            np.testing.assert_allclose(tried.upper, plain.upper, rtol=0, atol=1e-14 * scale)


def dependent_columns(rng, num_rows):
    matrix = rng.normal(size=(num_rows, 9))
    matrix[:, 2] = matrix[:, 0] + 2 * matrix[:, 1]
    matrix[:, 4] = 0
    matrix[:, 7] = -3 * matrix[:, 2]
    return matrix


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_rows", [30, 20_000])
def test_drops_the_later_of_dependent_columns(x64, dtype, num_rows):
    matrix = dependent_columns(np.random.default_rng(2), num_rows).astype(dtype)
    upper, inverse, kept, _ = qr.triangle(jnp.asarray(matrix), dependent=qr.DEPENDENT)
    assert kept.tolist() == [True, True, False, True, False, True, True, False, True]
    some = np.ix_(np.asarray(kept), np.asarray(kept))
    exact = householder(matrix[:, np.asarray(kept)].astype(np.float64))
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(upper[some], exact, rtol=0, atol=20 * eps * num_rows**0.5)
    np.testing.assert_allclose((inverse @ upper)[some], np.eye(6), rtol=0, atol=50 * eps)
    assert not np.asarray(inverse)[~np.asarray(kept)].any()
    assert not np.asarray(inverse)[:, ~np.asarray(kept)].any()


def test_a_dropped_column_takes_up_no_dimension(x64):
    matrix = np.random.default_rng(3).normal(size=(5, 8))
    matrix[:, 1] = matrix[:, 0]
    kept = qr.triangle(jnp.asarray(matrix), dependent=qr.DEPENDENT).kept
    assert kept.tolist() == [True, False, True, True, True, True, False, False]


def test_finds_copies_among_many_columns(x64):
    """Rounding grows with the columns: among 282 a copy's distance was 174 eps, which once passed for information."""
    rng = np.random.default_rng(5)
    matrix = (rng.uniform(size=(2000, 300)) < 0.1).astype(float)
    copies = rng.choice(np.arange(150, 300), 20, replace=False)
    matrix[:, copies] = matrix[:, rng.integers(0, 150, 20)] + matrix[:, rng.integers(0, 150, 20)] / 3
    matrix -= matrix.mean(axis=0)
    kept = qr.triangle(jnp.asarray(matrix), dependent=qr.DEPENDENT).kept
    assert np.flatnonzero(~np.asarray(kept)).tolist() == sorted(copies)


def test_keeps_what_is_nearly_dependent(x64):
    rng = np.random.default_rng(4)
    matrix = rng.normal(size=(100, 3))
    matrix[:, 2] = matrix[:, 0] + 1e-12 * matrix[:, 2]
    assert qr.triangle(jnp.asarray(matrix), dependent=qr.DEPENDENT).kept.all()
    assert not qr.triangle(jnp.asarray(matrix), dependent=qr.DEPENDENT, rounding=1e-9).kept.all()


@pytest.mark.parametrize(("dtype", "power"), [(np.float32, 25), (np.float64, 200)])
def test_columns_of_any_scale(x64, dtype, power):
    matrix = np.random.default_rng(5).normal(size=(40, 3))
    scale = np.array([10.0**-power, 1, 10.0**power])
    upper, _, kept, _ = qr.triangle(jnp.asarray((matrix * scale).astype(dtype)))
    assert kept.all()
    exact = householder((matrix * scale).astype(dtype).astype(np.float64) / scale)
    np.testing.assert_allclose(np.asarray(upper, np.float64) / scale, exact, rtol=0, atol=30 * np.finfo(dtype).eps)


def test_penalty_counts_as_rows(x64):
    matrix = np.random.default_rng(6).normal(size=(20, 3))
    penalty = np.array([0.5, 0, 1e9])
    upper = qr.triangle(jnp.asarray(matrix), penalty=jnp.asarray(penalty)).upper
    rows = np.concatenate([matrix, np.diag(np.sqrt(penalty))])
    np.testing.assert_allclose(upper, householder(rows), rtol=1e-12, atol=1e-12)


def test_lanes_do_not_touch_each_other(x64):
    """A lane is the same, to the bit, whoever its neighbours are and however many passes they take."""
    rng = np.random.default_rng(7)
    lanes = np.stack([conditioned(rng, 30, 4, condition) for condition in (2, 1e9, 2, 1e3)])
    lanes[2, :, 1] = lanes[2, :, 0]
    other = lanes.copy()
    other[1:] = conditioned(rng, 30, 4, 2)
    batched = jax.jit(jax.vmap(lambda lane: qr.triangle(lane, dependent=qr.DEPENDENT)))
    mixed, alone = batched(lanes), batched(other)
    for ours, theirs in zip(jax.tree.leaves(mixed), jax.tree.leaves(alone), strict=True):
        assert (np.asarray(ours)[0] == np.asarray(theirs)[0]).all()
    for lane, matrix in enumerate(lanes):
        single = qr.triangle(jnp.asarray(matrix), dependent=qr.DEPENDENT)
        np.testing.assert_allclose(mixed.upper[lane], single.upper, rtol=0, atol=1e-13)
        assert (mixed.kept[lane] == single.kept).all()


@pytest.mark.parametrize("size", [3, 12])
def test_triangular_inverse(x64, size):
    upper = np.triu(np.random.default_rng(8).normal(size=(size, size))) + 3 * np.eye(size)
    np.testing.assert_allclose(
        matrices.triangular_inverse(jnp.asarray(upper)), np.linalg.inv(upper), rtol=0, atol=1e-14
    )

"""Double-double arithmetic against exact fractions, eagerly and through the compiler."""

from __future__ import annotations

import operator
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxmodels.core import InputError
from jaxmodels.numerics import double_double as dd

pytestmark = pytest.mark.slow

DTYPES = ["float32", "float64"]


@pytest.fixture(params=DTYPES)
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield np.dtype(request.param)


def in_loop(function):
    """``function`` inside a fori_loop, on operands that the loop carries."""

    def run(*operands):
        shapes = jax.eval_shape(function, *operands)
        start = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        return lax.fori_loop(0, 2, lambda _, carry: (function(*carry[1]), carry[1]), (start, operands))[0]

    return jax.jit(run)


MODES = {"eager": lambda f: f, "jit": jax.jit, "vmap": lambda f: jax.jit(jax.vmap(f)), "loop": in_loop}


@pytest.fixture(params=list(MODES))
def mode(request):
    return MODES[request.param]


def unit(dtype) -> Fraction:
    return Fraction(float(jnp.finfo(dtype).eps)) / 2


def numbers(dtype, seed, *, spread=8, shape=(200,)):
    """Numbers of both signs over ``2 spread`` binary orders, full significands."""
    rng = np.random.default_rng(seed)
    values = rng.choice([-1, 1], shape) * rng.uniform(1, 2, shape) * 2.0 ** rng.integers(-spread, spread + 1, shape)
    return jnp.asarray(values.astype(dtype))


def pairs(dtype, seed, **options):
    low = numbers(dtype, seed + 1000, spread=0, **options) * 2.0 ** -(jnp.finfo(dtype).nmant + 3)
    high = numbers(dtype, seed, **options)
    return dd.DoubleDouble(high, low * dd.power_of_two(high))


def exact(value) -> list[Fraction]:
    parts = value if isinstance(value, dd.DoubleDouble) else (value,)
    return [
        sum(map(Fraction, each))
        for each in zip(*(np.asarray(part, float).ravel().tolist() for part in parts), strict=True)
    ]


def largest_error(result, truth, *, against=None) -> float:
    against = truth if against is None else against
    errors = [abs(r - t) / abs(a) if a else abs(r - t) for r, t, a in zip(exact(result), truth, against, strict=True)]
    return float(max(errors))


def is_normalised(result) -> bool:
    return bool(jnp.all(result.high + result.low == result.high))


@pytest.mark.parametrize("spread", [0, 40])
def test_transformations_are_error_free(dtype, mode, spread):
    a, b = numbers(dtype, 0, spread=spread), numbers(dtype, 1, spread=spread)
    for transform, operation in [(dd.two_sum, operator.add), (dd.two_prod, operator.mul)]:
        if transform is dd.two_prod and dtype == np.float32 and spread == 40:
            continue  # the error of such a product leaves the range of float32
        result = mode(transform)(a, b)
        assert exact(result) == [operation(x, y) for x, y in zip(exact(a), exact(b), strict=True)]
        np.testing.assert_array_equal(result.high, operation(np.asarray(a), np.asarray(b)))


def test_quick_two_sum_is_error_free_in_order(dtype, mode):
    a, b = numbers(dtype, 2), numbers(dtype, 3, spread=0) * 2.0**-9
    assert exact(mode(dd.quick_two_sum)(a, b)) == [x + y for x, y in zip(exact(a), exact(b), strict=True)]


def test_split_has_halves_whose_products_are_exact(dtype, mode):
    upper, lower = mode(dd.split)(numbers(dtype, 4))
    assert exact(dd.DoubleDouble(upper, lower)) == exact(numbers(dtype, 4))
    for left, right in [(upper, upper), (upper, lower), (lower, lower)]:
        assert exact(left * right) == [x * y for x, y in zip(exact(left), exact(right), strict=True)]


def test_products_survive_contraction(dtype, mode):
    """A product whose terms feed sums at once: where a compiler would fuse multiply and add."""

    def difference_of_products(a, b, c, d):
        first, second = dd.two_prod(a, b), dd.two_prod(c, d)
        total = dd.two_sum(first.high, -second.high)
        return dd.quick_two_sum(total.high, total.low + (first.low - second.low)), a * b - first.high

    a, b = numbers(dtype, 5, spread=0), numbers(dtype, 6, spread=0)
    c, d = b * (1 + 4 * jnp.finfo(dtype).eps), a
    result, _ = mode(difference_of_products)(a, b, c, d)
    truth = [w * x - y * z for w, x, y, z in zip(*map(exact, (a, b, c, d)), strict=True)]
    assert largest_error(result, truth) < 4 * unit(dtype)


@pytest.mark.parametrize(
    ("function", "operation", "units"),
    [
        (dd.add, operator.add, 3),
        (dd.subtract, operator.sub, 3),
        (dd.multiply, operator.mul, 7),
        (dd.divide, operator.truediv, 10),
    ],
)
def test_arithmetic(dtype, mode, function, operation, units):
    a, b = pairs(dtype, 7), pairs(dtype, 8)
    result = mode(function)(a, b)
    truth = [operation(x, y) for x, y in zip(exact(a), exact(b), strict=True)]
    assert largest_error(result, truth) < units * unit(dtype) ** 2
    assert is_normalised(result)


def test_arithmetic_mixes_pairs_arrays_and_scalars(dtype):
    a, b = pairs(dtype, 9), numbers(dtype, 10)
    for function, operation in [(dd.add, operator.add), (dd.multiply, operator.mul), (dd.divide, operator.truediv)]:
        for left, right in [(a, b), (b, a), (b, b)]:
            truth = [operation(x, y) for x, y in zip(exact(left), exact(right), strict=True)]
            assert largest_error(function(left, right), truth) < 10 * unit(dtype) ** 2
    scalar = dd.multiply(a, jnp.asarray(3, dtype))
    assert largest_error(scalar, [3 * x for x in exact(a)]) < 7 * unit(dtype) ** 2


def test_sqrt(dtype, mode):
    a = jax.tree.map(jnp.abs, pairs(dtype, 11))
    root = mode(dd.sqrt)(a)
    squares = [x * x for x in exact(root)]
    assert max(abs(s / x - 1) for s, x in zip(squares, exact(a), strict=True)) < 10 * unit(dtype) ** 2
    assert exact(dd.sqrt(jnp.zeros(2, dtype))) == [0, 0]


@pytest.mark.parametrize("num_parts", [2, 3])
def test_dot_recovers_cancelled_digits(dtype, mode, num_parts):
    """Ogita, Rump, Oishi: the error is u |a.b| + n^2 u^parts |a|.|b|, whatever cancels."""
    a, b = numbers(dtype, 12, shape=(20, 50)), numbers(dtype, 13, shape=(20, 50))
    tiny = numbers(dtype, 14, shape=(20, 1)) * unit(dtype).__float__()
    a, b = jnp.concatenate([a, a, tiny], axis=1), jnp.concatenate([b, -b, tiny], axis=1)
    result = mode(lambda a, b: dd.dot(a, b, axis=-1, num_parts=num_parts))(a, b)
    truth = [x * x for x in exact(tiny)]
    sizes = [sum(abs(x) for x in exact(row)) for row in a * b]
    allowed = [
        100 * unit(dtype) ** num_parts * size + 2 * unit(dtype) ** 2 * t for size, t in zip(sizes, truth, strict=True)
    ]
    assert all(abs(r - t) <= limit for r, t, limit in zip(exact(result), truth, allowed, strict=True))


@pytest.mark.parametrize("num_parts", [2, 3])
def test_dot_of_pairs(dtype, mode, num_parts):
    a, b = pairs(dtype, 15, shape=(5, 40)), pairs(dtype, 16, shape=(5, 40))
    result = mode(lambda a, b: dd.dot(a, b, axis=-1, num_parts=num_parts))(a, b)
    products = np.array([x * y for x, y in zip(exact(a), exact(b), strict=True)]).reshape(5, 40)
    truth, sizes = products.sum(axis=1), np.abs(products).sum(axis=1)
    limits = (
        (40 * unit(dtype) ** 2 * sizes)
        if num_parts == 2
        else 2 * unit(dtype) ** 2 * np.abs(truth) + 99 * unit(dtype) ** 3 * sizes
    )
    assert all(abs(r - t) <= limit for r, t, limit in zip(exact(result), truth, limits, strict=True))


def test_sum_of_pairs(dtype, mode):
    a = pairs(dtype, 17, shape=(4, 100))
    truth = [sum(row) for row in np.array(exact(a)).reshape(4, 100)]
    against = [sum(map(abs, row)) for row in np.array(exact(a)).reshape(4, 100)]
    assert largest_error(mode(dd.sum)(a), truth, against=against) < 20 * unit(dtype) ** 2
    np.testing.assert_array_equal(dd.sum(a, axis=0).high.shape, (100,))


@pytest.mark.parametrize("product", ["matmul", "sliced"])
@pytest.mark.parametrize("operands", ["arrays", "pairs"])
def test_matmul(dtype, product, operands):
    make = numbers if operands == "arrays" else pairs
    a, b = make(dtype, 18, shape=(6, 7)), make(dtype, 19, shape=(7, 5))
    num_slices = 7 if dtype == np.float32 else 6
    multiply = dd.matmul if product == "matmul" else lambda a, b: dd.sliced_matmul(a, b, num_slices=num_slices)
    left, right = (np.array(exact(each)).reshape(dd.as_pair(each).high.shape) for each in (a, b))
    truth, sizes = (left @ right).ravel().tolist(), (np.abs(left) @ np.abs(right)).ravel().tolist()
    if product == "sliced":  # its error is relative to the largest entries of row and column
        sizes = (7 * np.abs(left).max(1)[:, None] * np.abs(right).max(0)).ravel().tolist()
    for run in (multiply, jax.jit(multiply)):
        assert largest_error(run(a, b), truth, against=sizes) < 8 * unit(dtype) ** 2


def test_matmul_adds_to_initial_and_takes_vectors(dtype):
    a, b, start = numbers(dtype, 20, shape=(6, 7)), pairs(dtype, 21, shape=(7,)), pairs(dtype, 22, shape=(6,))
    truth = np.array(exact(start)) + np.array(exact(a)).reshape(6, 7) @ np.array(exact(b))
    for num_parts in (2, 3):
        result = jax.jit(lambda a, b, c, parts=num_parts: dd.matmul(a, b, initial=c, num_parts=parts))(a, b, start)
        assert max(abs(r - t) for r, t in zip(exact(result), truth, strict=True)) < 2**22 * unit(dtype) ** 2
    assert largest_error(result, truth.tolist()) < 3 * unit(dtype) ** 2


@pytest.mark.parametrize("num_slices", [2, 3, 4])
def test_each_slice_adds_bits(dtype, num_slices):
    """Cancellation by about 2^-30 shows the digits that fewer slices lose."""
    a, b = numbers(dtype, 23, shape=(20, 16), spread=0), numbers(dtype, 24, shape=(16, 3), spread=0)
    result = jax.jit(lambda a, b: dd.sliced_matmul(a, b, num_slices=num_slices))(a, b)
    truth = (np.array(exact(a)).reshape(20, 16) @ np.array(exact(b)).reshape(16, 3)).ravel().tolist()
    digits = 53 if dtype == np.float64 else 24
    bits = (digits - int(np.ceil(np.log2(16 * num_slices)))) // 2
    bound = max(2.0 ** -(bits * (num_slices - 1)) * float(unit(dtype)), float(unit(dtype)) ** 2)
    assert largest_error(result, truth, against=[64] * 60) < 16 * bound


def test_matmul_under_vmap_equals_loop(dtype):
    a, b = numbers(dtype, 25, shape=(3, 6, 4)), pairs(dtype, 26, shape=(3, 4, 2))
    batched = jax.vmap(dd.matmul)(a, b)
    for lane in range(3):
        single = dd.matmul(a[lane], jax.tree.map(lambda each, lane=lane: each[lane], b))
        assert exact(jax.tree.map(lambda each, lane=lane: each[lane], batched)) == exact(single)


def test_power_of_two(dtype):
    values = jnp.array([1.0, -1.5, 2.0, 3.99, 0.3, 0.0, -1e-20, 1e20], dtype)
    expected = [2.0 ** np.floor(np.log2(abs(float(v)))) if v else 1.0 for v in values]
    assert jax.jit(dd.power_of_two)(values).tolist() == expected


def test_from_exact_keeps_decimal_text(dtype):
    texts = [["0.1", "-6.860120914"], ["1e10", "123456789.987654321"]]
    result = dd.from_exact(texts, dtype=dtype)
    assert result.high.shape == (2, 2)
    assert result.high.dtype == result.low.dtype == dtype
    assert largest_error(result, [Fraction(text) for row in texts for text in row]) < unit(dtype) ** 2 * 2
    assert is_normalised(result)


def test_float64_becomes_pairs_of_float32():
    values = np.random.default_rng(0).normal(size=100)
    result = dd.from_exact(values, dtype="float32")
    assert largest_error(result, [Fraction(v) for v in values.tolist()]) < 2.0**-48


@pytest.mark.parametrize("bad", ["abc", float("nan"), float("inf"), None])
def test_from_exact_names_what_it_cannot_read(bad):
    with pytest.raises(InputError, match="values: got"):
        dd.from_exact([1, bad], dtype="float32")


def test_other_dtypes_are_refused():
    with pytest.raises(InputError, match="dtype float16"):
        dd.two_prod(jnp.ones(2, jnp.float16), jnp.ones(2, jnp.float16))
    with pytest.raises(InputError, match="num_slices: got 1"):
        dd.sliced_matmul(jnp.ones((2, 2)), jnp.ones((2, 2)), num_slices=1)


def test_where_and_negative():
    a, b = pairs(np.dtype("float32"), 27), numbers(np.dtype("float32"), 28)
    chosen = dd.where(b > 0, a, dd.negative(a))
    assert exact(chosen) == [x if y > 0 else -x for x, y in zip(exact(a), exact(b), strict=True)]


def test_a_product_has_the_derivative_of_a_product(x64):
    """The bit masks are constant to autodiff, and the halves still add up to the product rule."""
    value, slope = jax.jvp(lambda a: dd.multiply(a, a).high, (jnp.array([1.7]),), (jnp.ones(1),))
    np.testing.assert_allclose(slope, 2 * 1.7, rtol=1e-15)
    np.testing.assert_allclose(value, 1.7**2, rtol=1e-15)

"""Flops and bytes: closed forms, sums of convolved ones, and the published cost of a ResNet50."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from jaxmodels import losses, mlp, resnet, train
from jaxmodels.benchmark import count
from jaxmodels.core import Batch

N = 1000
VECTOR = jax.ShapeDtypeStruct((N,), np.float32)
SQUARE = jax.ShapeDtypeStruct((30, 30), np.float32)
PRODUCT = 2 * 30**3


def test_dense_network():
    batch = Batch(jax.ShapeDtypeStruct((64, 20), np.float32), jax.ShapeDtypeStruct((64,), np.float32))
    model = mlp.model(hidden_sizes=(50, 30), num_outputs=1)
    params, state = jax.eval_shape(model.init, jax.random.key(0), batch.inputs)
    forward = 2 * 64 * (20 * 50 + 50 * 30 + 30 * 1)
    assert count(lambda *args: model.apply(*args)[0], params, state, batch.inputs).flops == forward

    def loss(params):
        return jnp.sum(model.apply(params, state, jnp.ones((64, 20)))[0])

    # Backward: a product for each kernel, and one for each layer's inputs but the first's.
    assert count(jax.value_and_grad(loss), params).flops == 3 * forward - 2 * 64 * 20 * 50


@pytest.mark.parametrize(
    ("inputs", "kernel", "options"),
    [
        ((2, 9, 8, 4), (3, 3, 4, 6), {"window_strides": (2, 1), "padding": ((1, 1), (0, 2))}),
        ((1, 5, 6, 4), (3, 2, 2, 6), {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 2}),
        ((1, 5, 4, 3), (3, 3, 3, 2), {"window_strides": (1, 1), "padding": ((2, 2), (1, 3)), "lhs_dilation": (2, 3)}),
        ((4, 7, 7, 3), (3, 3, 3, 4), {"window_strides": (1, 2), "padding": "VALID", "rhs_dilation": (2, 1)}),
        ((4, 4, 4, 3), (3, 3, 3, 4), {"window_strides": (1, 1), "padding": "SAME", "batch_group_count": 2}),
    ],
)
def test_convolution_of_ones_adds_its_products(inputs, kernel, options):
    def convolve(inputs, kernel):
        return lax.conv_general_dilated(inputs, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)

    ones = jnp.ones(inputs), jnp.ones(kernel)
    assert count(convolve, *ones).flops == 2 * convolve(*ones).sum()


def resnet50_products(image_size: int, *, padding: bool) -> int:
    """Products of an image by table 1 of He et al. (2016), stride in the 3x3, with those of padding or without."""

    def layer(size, kernel, stride, inputs, outputs):
        reach = (kernel - 1) // 2
        places = range(0, size, stride)
        pairs = sum(padding or 0 <= place + offset < size for place in places for offset in range(-reach, reach + 1))
        return pairs**2 * inputs * outputs

    total, size, channels = layer(image_size, 7, 2, 3, 64), image_size // 4, 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            stride = 2 if width > 64 and block == 0 else 1
            total += layer(size, 1, 1, channels, width) + layer(size, 3, stride, width, width)
            total += layer(size // stride, 1, 1, width, 4 * width)
            total += layer(size, 1, stride, channels, 4 * width) if block == 0 else 0
            size, channels = size // stride, 4 * width
    return total + 2048 * 1000


def test_resnet50_costs_what_is_published():
    assert abs(resnet50_products(224, padding=True) / 4.09e9 - 1) < 1e-3
    batch = Batch(jax.ShapeDtypeStruct((2, 224, 224, 3), np.float32), jax.ShapeDtypeStruct((2,), np.int32))
    model = resnet.resnet50(native=True)
    trainer = train.trainer(model, loss=losses.softmax_cross_entropy, optimizer=optax.sgd(0.1, momentum=0.9))
    state = jax.eval_shape(trainer.init, jax.random.key(0), batch)
    forward = count(lambda *args: model.apply(*args)[0], state.params, state.state, batch.inputs)
    assert forward.flops == 2 * 2 * resnet50_products(224, padding=False)
    assert {kernel.dtype for kernel in forward.kernels if kernel.flops} == {"tfloat32"}
    step = count(trainer.step, state, batch)
    assert 2.9 < step.flops / forward.flops < 3.0  # the first convolution has no gradient for its inputs
    assert forward.uncounted == step.uncounted == ()


def dead(x):
    return jax.jit(lambda x: (x @ x, x))(x)[1] @ x


@jax.custom_vjp
def halved(x):
    return x @ x / 2


halved.defvjp(lambda x: (halved(x), x), lambda x, above: (above @ x,))


def twice(x):
    return jnp.sum(jnp.sin(jnp.sin(x @ x) @ x))


def scanned(x):
    return lax.scan(lambda carry, _: (carry @ x, None), x, length=7)[0]


def by_platform(x):
    return lax.platform_dependent(x, cpu=lambda x: x @ x, cuda=lambda x: x @ x @ x, default=lambda x: x)


@jax.custom_batching.custom_vmap
def squared_alone(x):
    return x @ x


squared_alone.def_vmap(lambda size, batched, x: (x @ x, True))


@pytest.mark.parametrize(
    ("function", "products"),
    [
        (jax.jit(jax.jit(lambda x: x @ x)), 1),
        (dead, 1),
        (scanned, 7),
        (jax.vmap(lambda row: scanned(row[:, None] * row) @ row), 30 * 7 + 1),
        (lambda x: lax.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x @ x), 2),
        (jax.grad(lambda x: halved(x).sum()), 1),
        (jax.grad(lambda x: jnp.sum(jnp.sin(x @ x))), 3),
        (jax.value_and_grad(twice), 2 + 4),
        (jax.value_and_grad(jax.checkpoint(twice)), 2 + 2 + 4),
        (by_platform, 1),
        (lambda x: squared_alone(x), 1),
    ],
)
def test_products_inside(function, products):
    assert count(function, SQUARE).flops == products * PRODUCT


def test_platform_is_the_one_asked_for():
    flops = [count(by_platform, SQUARE, platform=each).flops for each in ("cpu", "cuda", "tpu")]
    assert flops == [PRODUCT, 2 * PRODUCT, 0]


def test_turns_that_nobody_knows_are_said_to_be_uncounted():
    found = count(lambda x: lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ x, x), SQUARE)
    assert found.flops == PRODUCT
    assert found.uncounted == ("while",)


def test_factorisations():
    tall, one = jax.ShapeDtypeStruct((40, 6), np.float32), jax.ShapeDtypeStruct((30, 1), np.float32)
    assert count(lambda a: jnp.linalg.qr(a)[1], tall).flops == pytest.approx(2 * (2 * 40 * 6**2 - 2 / 3 * 6**3))
    assert count(jnp.linalg.cholesky, SQUARE).flops == pytest.approx(30**3 / 3)
    assert count(jnp.linalg.solve, SQUARE, one).flops == pytest.approx(2 / 3 * 30**3 + 2 * 30**2)


def wide_sum(x, *others):
    """Made from five arrays: dearer to make again than to keep."""
    whole = x + sum(others)
    return whole / whole.sum()


@pytest.mark.parametrize(
    ("function", "num_inputs", "moved"),
    [
        (lambda x: jnp.tanh(x) + x, 1, 2),  # read, write
        (lambda x: jnp.exp(x) / jnp.exp(x).sum(), 1, 3),  # read, read again, write
        (lambda x: (x - x.mean(), (x**2).sum()), 1, 3),  # both sums in one reading
        (wide_sum, 5, 5 + 1 + 1 + 1),
        (lambda a, b, c, d: (a + b + c + d, (a + b + c + d) * 2), 4, 6),
        (lambda p, m, g: (p - 0.1 * (0.9 * m + g), 0.9 * m + g), 3, 5),  # momentum: 3 read, 2 written
        (lambda x: x[: N // 10] * 2, 1, 0.2),
        (lambda x: x[jnp.arange(N // 10) ** 2], 1, 0.2),
        (lambda x: x.at[: N // 10].set(1 / x[: N // 10]), 1, 0.1 + 0.1 + 0.2),
        (lambda x: x.reshape(10, -1).T, 1, 0),
    ],
)
def test_bytes(function, num_inputs, moved):
    # Scalars and indices are the slack.
    assert count(function, *[VECTOR] * num_inputs).bytes == pytest.approx(4 * N * moved, abs=40)


def test_memory_is_what_is_alive_at_once():
    tall = jax.ShapeDtypeStruct((100, 30), np.float32)

    def chain(x, w):
        for _ in range(5):
            x = jnp.sin(x @ w)
        return x

    bytes_of = 4 * 100 * 30
    # In turn a product and its sine are alive; for the gradient every product is kept.
    assert count(chain, tall, SQUARE).memory == bytes_of + 4 * 900 + 2 * bytes_of
    kept = count(jax.grad(lambda w, x: chain(x, w).sum()), SQUARE, tall).memory - bytes_of
    assert 5 * bytes_of < kept < 12 * bytes_of


def test_roofline_takes_the_slower_of_both():
    found = count(lambda a: jnp.sin(a @ a), SQUARE)
    seconds = found.seconds(lambda dtype: 1e6, 1e6)
    assert seconds == pytest.approx(max(PRODUCT, 2 * 3600) / 1e6 + 2 * 3600 / 1e6)

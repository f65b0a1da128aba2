"""What the models lower to for GPU and TPU, read from the StableHLO; no such device is needed."""

from __future__ import annotations

import collections
import re

import jax
import jax.export
import jax.numpy as jnp
import optax
import pytest

from jaxmodels import losses, mlp, resnet, train
from jaxmodels.core import Batch, fold_model

CONVOLUTIONS = {18: 20, 34: 36, 50: 53, 101: 104, 152: 155}


def lowered(function, platform, *arguments) -> str:
    return inlined(jax.export.export(jax.jit(function), platforms=(platform,))(*arguments).mlir_module())


def inlined(text: str) -> str:
    """The lines of ``main``, with those of a function in place of each call of it."""
    bodies = dict(re.findall(r"func\.func \w+ @(\w+)\(.*?\{\n(.*?)\n  \}", text, flags=re.DOTALL))

    def lines(name):
        for line in bodies[name].splitlines():
            called = re.search(r" call @(\w+)\(", line)
            yield from lines(called[1]) if called else [line]

    found = "\n".join([re.search(r"func\.func public @main.*", text)[0], *lines("main")])
    assert "call @" not in found
    return found


def operations(text: str) -> collections.Counter:
    return collections.Counter(re.findall(r"stablehlo\.(\w+)", text))


def num_products(text: str) -> int:
    """Matrix products, without those of vectors that give a scalar."""
    lines = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    return sum("-> tensor<f32>" not in line for line in lines)


def a_batch(shape, size=2):
    images = jax.ShapeDtypeStruct((size, *shape), jnp.float32)
    return Batch(images, jax.ShapeDtypeStruct((size,), jnp.int32), jax.ShapeDtypeStruct((size,), jnp.float32))


def training_step(model, batch, platform) -> str:
    trainer = train.trainer(model, loss=losses.softmax_cross_entropy, optimizer=optax.adamw(1e-3))
    return lowered(trainer.step, platform, jax.eval_shape(trainer.init, jax.random.key(0), batch), batch)


def inference(model, images, platform) -> str:
    def predict(params, state, images):
        folded, function = fold_model(model, params, state)
        return function(folded, images)

    return lowered(predict, platform, *jax.eval_shape(model.init, jax.random.key(0), images), images)


def check_plain(text: str) -> collections.Counter:
    """No float64, nothing that calls the host or a library, no branch, nothing rearranged beyond the head's product."""
    found = operations(text)
    assert "f64" not in text
    for name in ("custom_call", "case", "while", "gather", "scatter", "select_and_scatter", "infeed", "outfeed"):
        assert found[name] == 0, name
    assert found["transpose"] <= 1
    return found


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize(("depth", "dtype"), [(18, None), (50, jnp.bfloat16)])
def test_training_step_keeps_native_convolutions(depth, dtype, platform):
    model = resnet.resnet(depth, num_classes=10, dtype=dtype, native=True)
    text = training_step(model, a_batch((64, 64, 3)), platform)
    found = check_plain(text)
    # One forward, one for the kernel and one for the inputs, which the first layer's are spared.
    assert found["convolution"] == 3 * CONVOLUTIONS[depth] - 1
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert all(("bf16>" in line) == (dtype is not None) for line in convolutions)
    # Five sums over the batch a normalisation, of [n] by [n, c], and the head's three; the gradient's norm has scalars.
    assert num_products(text) == 5 * CONVOLUTIONS[depth] + 3


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("depth", sorted(CONVOLUTIONS))
def test_inference_is_convolutions_and_one_product(depth, platform):
    model = resnet.resnet(depth, num_classes=10, dtype=jnp.bfloat16, native=True)
    found = check_plain(inference(model, jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32), platform))
    assert (found["convolution"], found["dot_general"]) == (CONVOLUTIONS[depth], 1)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_perceptrons_step_is_its_products(platform):
    text = training_step(mlp.model(hidden_sizes=(16, 16), num_outputs=3), a_batch((8,)), platform)
    assert num_products(text) == 3 * 3 - 1
    assert "f64" not in text
    assert "custom_call" not in text


@pytest.mark.slow
def test_products_lower_to_the_same_on_cpu_only_when_asked():
    """What ``native`` chooses: small maps become products, and the products are there without it on a CPU alone."""
    batch = a_batch((64, 64, 3))
    counts = {
        native: operations(training_step(resnet.resnet18(num_classes=10, native=native), batch, "cpu"))["convolution"]
        for native in (True, False, None)
    }
    assert counts[False] < counts[True]
    assert counts[None] == counts[jax.default_backend() != "cpu"]

"""The vocabulary: combinators, cached factories, failures on the host, and what importing costs."""

from __future__ import annotations

import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodels
from jaxmodels import mlp
from jaxmodels.core import Model, Solution, Status, cached_factory, chain, fold_model, raise_if_failed, stateless


def test_chain_is_the_models_in_turn():
    first, second = mlp.model(hidden_sizes=(4,), num_outputs=3, dropout=0.5), mlp.model(num_outputs=2)
    whole = chain(stateless(jnp.sin), first, second)
    inputs = jnp.linspace(-1, 1, 10).reshape(5, 2)
    params, state = whole.init(jax.random.key(0), inputs)
    assert [jax.tree.structure(part) for part in params[1:]] == [
        jax.tree.structure(part.init(jax.random.key(0), inputs)[0]) for part in (first, second)
    ]
    outputs, new_state = whole.apply(params, state, inputs)
    expected = mlp.apply(params[2], mlp.apply(params[1], jnp.sin(inputs)))
    np.testing.assert_allclose(outputs, expected, rtol=1e-6)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)


def test_chain_gives_every_model_its_own_key():
    twice = chain(mlp.dropout(0.5), mlp.dropout(0.5))
    kept = twice.apply(((), ()), ({}, {}), jnp.ones((1, 10_000)), train=True, key=jax.random.key(0))[0]
    # With one key for both, half of the units would stay; with two, a quarter.
    assert 0.2 < float((kept > 0).mean()) < 0.3


def test_folding_again_gives_the_same_function():
    """Else every epoch's validation would compile anew."""
    model = chain(stateless(jnp.sin), mlp.model(num_outputs=2))
    params, state = model.init(jax.random.key(0), jnp.ones((1, 3)))
    folded, predict = fold_model(model, params, state)
    assert fold_model(model, params, state)[1] is predict
    np.testing.assert_array_equal(predict(folded, jnp.ones((1, 3))), model.apply(params, state, jnp.ones((1, 3)))[0])


def test_factories_are_cached_on_their_arguments():
    assert mlp.model(num_outputs=2) is mlp.model(hidden_sizes=(), num_outputs=2)
    assert mlp.model(num_outputs=2) is not mlp.model(num_outputs=3)
    with pytest.raises(TypeError, match="unexpected keyword"):
        mlp.model(outputs=2)  # pyright: ignore[reportCallIssue]


def test_factories_do_not_mix_true_and_one():
    make = cached_factory(lambda n: n)
    assert make(1) == 1
    assert make(True) is True


def test_raise_if_failed_counts_and_advises():
    status = np.array([0, Status.max_steps, 0, Status.nonfinite, Status.max_steps])
    with pytest.raises(RuntimeError, match=r"2 of 5: max_steps .*raise max_steps.*1 of 5: nonfinite.*lane: 1") as error:
        raise_if_failed(Solution(None, jnp.asarray(status), None))
    assert "\n" not in str(error.value)


def test_every_status_has_advice():
    assert all(status.advice for status in Status)


def test_models_are_pytrees_of_functions_and_hash():
    assert hash(mlp.model()) == hash(mlp.model())
    assert isinstance(mlp.model(), Model)


def test_one_trace_for_a_model_built_twice():
    chex.clear_trace_counter()
    apply = jax.jit(chex.assert_max_traces(lambda params, x: mlp.model(num_outputs=2).apply(params, {}, x)[0], n=1))
    params, _ = mlp.model(num_outputs=2).init(jax.random.key(0), jnp.ones((3, 2)))
    for _ in range(3):
        apply(params, jnp.ones((3, 2)))


def test_names_are_imported_when_they_are_asked_for():
    assert set(dir(jaxmodels)) >= {"train", "resnet", "metrics"}
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        jaxmodels.trian  # noqa: B018 # pyright: ignore[reportAttributeAccessIssue]


def test_importing_loads_nothing_heavy():
    """No flax, optax, orbax, Pillow or matplotlib, and no device, before a module that needs them is asked for."""
    code = """
import sys, jax, jaxmodels
from jax._src import xla_bridge
def check(allowed):
    heavy = {"flax", "optax", "orbax", "PIL", "matplotlib", "chex", "sklearn", "pyarrow", "rich", "tyro"} - allowed
    assert not heavy & set(sys.modules), heavy & set(sys.modules)
    assert not xla_bridge._backends
assert {name for name in sys.modules if name.startswith("jaxmodels")} == {"jaxmodels"}
check(set())
from jaxmodels import benchmark, checkpoint, core, data, elastic_net, evaluate, glm, images, linear, metrics, mlp
from jaxmodels import nonlinear, plots, streaming, tables, tabular, transfer
check(set())
from jaxmodels import epochs, losses, optimizers, sweeps, train
check({"optax"})
from jaxmodels import pretrained, resnet
check({"optax", "flax", "rich"})
"""
    subprocess.run([sys.executable, "-c", code], check=True)

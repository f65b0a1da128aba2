"""Optimizers by name: against torch's, and what surrounds them against closed forms."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels import optimizers
from jaxmodels.core import InputError

KERNEL = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
TARGET = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)


def loss(params):
    return jnp.sum((params["kernel"] - TARGET) ** 2) + jnp.sum((params["bias"] - 1) ** 4)


def minimise(transform, steps=20):
    params = {"kernel": jnp.asarray(KERNEL), "bias": jnp.zeros(3)}
    state = transform.init(params)

    @jax.jit
    def step(params, state):
        updates, state = transform.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params, state


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_equal_to_torch(name):
    torch = pytest.importorskip("torch")
    kernel, bias = torch.nn.Parameter(torch.tensor(KERNEL)), torch.nn.Parameter(torch.zeros(3))
    groups = [{"params": [kernel], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}]
    theirs = {
        "sgd": lambda: torch.optim.SGD(groups, lr=0.02, momentum=0.9),
        "adam": lambda: torch.optim.Adam(groups, lr=0.02),
        "adamw": lambda: torch.optim.AdamW(groups, lr=0.02),
    }[name]()
    for _ in range(20):
        theirs.zero_grad()
        (((kernel - torch.tensor(TARGET)) ** 2).sum() + ((bias - 1) ** 4).sum()).backward()
        theirs.step()
    ours, _ = minimise(optimizers.optimizer(name, 0.02, weight_decay=0.1))
    np.testing.assert_allclose(ours["kernel"], kernel.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(ours["bias"], bias.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimizer_lowers_the_loss(name):
    start = {"kernel": jnp.asarray(KERNEL), "bias": jnp.zeros(3)}
    params, _ = minimise(optimizers.optimizer(name, 0.02, clip=10.0, ema=0.9))
    assert loss(params) < loss(start) * (0.99999 if name == "adadelta" else 0.9)  # its first steps are of 1e-5


def test_a_mask_of_ones_own_says_what_decays():
    transform = optimizers.optimizer(
        "adamw", 0.1, weight_decay=0.5, decay_mask=lambda params: {"kernel": False, "bias": True}
    )
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    updates, _ = transform.update(jax.tree.map(jnp.zeros_like, params), transform.init(params), params)
    np.testing.assert_allclose(updates["kernel"], 0)
    np.testing.assert_allclose(updates["bias"], -0.05, rtol=1e-6)


def test_accumulated_batches_are_one_update():
    once = optimizers.optimizer("adam", 0.1)
    thrice = optimizers.optimizer("adam", 0.1, accumulate=3)
    one, _ = minimise(once, steps=2)
    three, _ = minimise(thrice, steps=6)
    chex.assert_trees_all_close(one, three, rtol=1e-5)


def test_clipping_bounds_the_global_norm():
    transform = optimizers.optimizer("sgd", 1.0, momentum=0.0, clip=0.5)
    gradients = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 4.0)}
    updates, _ = transform.update(gradients, transform.init(gradients), gradients)
    np.testing.assert_allclose(optax.tree.norm(updates), 0.5, rtol=1e-6)


def test_multipliers_slow_a_part_down():
    params = (jnp.ones((2, 2)), (), jnp.ones((2, 2)))
    transform = optimizers.optimizer("adamw", 0.1, weight_decay=0.3, multipliers=(0.1, 1.0, 1.0))
    updates, _ = transform.update(params, transform.init(params), params)
    np.testing.assert_allclose(updates[0], 0.1 * updates[2], rtol=1e-6)


def test_the_average_is_of_the_parameters():
    transform = optimizers.optimizer("sgd", 0.05, momentum=0.0, ema=0.5)
    params, state = jnp.ones((1, 1)) * 2, None
    average, state = params, transform.init(params)
    for step in range(10):
        updates, state = transform.update(2 * params, state, params)
        params = optax.apply_updates(params, updates)
        rate = min(0.5, (1 + step) / (10 + step))
        average = rate * average + (1 - rate) * params
    np.testing.assert_allclose(optimizers.averaged_params(state, params), average, rtol=1e-5)
    assert optimizers.averaged_params(optax.sgd(0.1).init(params), params) is params


def test_schedules():
    cosine = optimizers.schedule("cosine", 1.0, num_steps=20, warmup_steps=10)
    np.testing.assert_allclose([cosine(0), cosine(10), cosine(15), cosine(20)], [0, 1, 0.5, 0], atol=1e-6)
    stairs = optimizers.schedule("step", 1.0, num_steps=9)
    np.testing.assert_allclose([stairs(0), stairs(2), stairs(3), stairs(6)], [1, 1, 0.1, 0.01], rtol=1e-5)
    assert optimizers.schedule("constant", 0.3, num_steps=9)(8) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimizers.optimizer("adamm", 0.1), "optimizer: 'adamm' is none of sgd, adam"),
        (lambda: optimizers.schedule("lineal", 0.1, num_steps=3), "schedule: 'lineal' is none of constant"),
        (lambda: optimizers.schedule("cosine", 0.1, num_steps=3, warmup_steps=3), "warmup_steps: 3 steps leave none"),
    ],
)
def test_wrong_names_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()

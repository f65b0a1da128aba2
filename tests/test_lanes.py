"""Loops of lanes: each as if alone, and no more work than there is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.numerics import lanes


def halvings(seen):
    """How often each input is to be halved to come below 1; ``seen`` is given those that are looked at."""

    def one(value):
        jax.debug.callback(seen, value)
        return value / 2

    def start(each):
        return each(lambda inputs: inputs), each(lambda inputs: jnp.int32(0))

    def turn(state, each):
        return each(lambda inputs, value: one(value), state[0]), state[1] + 1

    return lanes.loop(start, turn, lambda state: state[0] > 1)


def test_a_lane_is_looked_at_while_it_goes_on(monkeypatch):
    """A few at a time; what fills a group up is never looked at, whatever the last lane does."""
    monkeypatch.setattr(lanes, "CPU_FEW_BYTES", 1)  # 8 lanes at a time
    looks = []
    values = np.ones(17, np.float32)
    values[16] = 1000.0
    result, counts = jax.jit(jax.vmap(halvings(lambda value: looks.append(float(value)))))(values)
    jax.effects_barrier()
    assert counts.tolist() == [0] * 16 + [10]
    np.testing.assert_array_equal(result[16], 1000 / 2**10)
    assert len(looks) == 10 * 8


def test_lanes_are_the_loop():
    values = np.random.default_rng(0).uniform(0.5, 1000, 100).astype(np.float32)
    together = jax.jit(jax.vmap(halvings(lambda value: None)))(values)
    for lane, value in enumerate(values):
        alone = halvings(lambda value: None)(value)
        assert (float(together[0][lane]), int(together[1][lane])) == (float(alone[0]), int(alone[1]))


def test_each_is_computed_where_it_is_wanted(monkeypatch):
    monkeypatch.setattr(lanes, "CPU_FEW_BYTES", 1)
    asked = []

    def turn(state, each):
        wanted = state[1] == 2

        def look(inputs, value):
            jax.debug.callback(lambda value: asked.append(float(value)), value)
            return inputs * 100

        return each(look, state[0], wanted=wanted, otherwise=state[0]), state[1] + 1

    def start(each):
        return each(lambda inputs: inputs), each(lambda inputs: jnp.int32(0))

    loop = lanes.loop(start, turn, lambda state: state[1] < 4)
    assert jax.vmap(loop)(jnp.arange(16.0))[0].tolist() == (100 * np.arange(16)).tolist()
    assert float(loop(jnp.float32(3))[0]) == 300
    jax.effects_barrier()
    assert sorted(asked) == sorted([*range(16), 3])

"""A loop that many lanes run at once, where the slow ones do not hold the others.

Under ``vmap`` a ``while_loop`` runs until its last lane is done, and all lanes pay for every turn. Here lanes run in
groups for a few turns; then those that are not done are moved together, and only the groups that they fill go on.
What a turn needs of a lane is gathered once a round. A group has so many lanes as stay in the caches of a CPU, and
are enough for its cores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

PyTree = Any

TURNS_A_ROUND = 3
# What the inputs of a group's lanes take, and how many there are at most: a group runs on while one lane does.
CPU_GROUP_BYTES, GROUP_BYTES = 2**20, 2**27
CPU_GROUP_LANES, GROUP_LANES = 512, 2**17


def loop(start: Callable, turn: Callable, unfinished: Callable) -> Callable[[PyTree], PyTree]:
    """``state = start(inputs); while unfinished(state): state = turn(inputs, state)``.

    Args:
      start: ``inputs -> state``.
      turn: ``(inputs, state) -> state`` of the same shapes.
      unfinished: ``state -> bool``.

    Returns:
      ``inputs -> state``; under ``vmap``, lanes come and go as said above. None of the three closes over a traced
      value.

    >>> halve = loop(lambda x: (x, 0), lambda x, state: (state[0] / 2, state[1] + 1), lambda state: state[0] > 1)
    >>> [each.tolist() for each in jax.vmap(halve)(jnp.array([1.0, 8.0, 3.0]))]
    [[1.0, 1.0, 0.75], [0, 3, 2]]
    """

    @jax.custom_batching.custom_vmap
    def alone(inputs):
        return lax.while_loop(unfinished, lambda state: turn(inputs, state), start(inputs))

    @alone.def_vmap
    def together(num_lanes, in_batched, inputs):
        leaves, structure = jax.tree.flatten(inputs)
        batched = jax.tree.leaves(in_batched[0])
        lanes = [leaf for leaf, is_batched in zip(leaves, batched, strict=True) if is_batched]

        def whole(lane):
            own = iter(lane)
            return structure.unflatten(
                [next(own) if is_batched else leaf for leaf, is_batched in zip(leaves, batched, strict=True)]
            )

        def advance(lane, state):
            going = unfinished(state)
            after = turn(whole(lane), state)
            return jax.tree.map(lambda new, old: jnp.where(going, new, old), after, state)

        def rounds(group_bytes, group_lanes):
            size = _group_size(lanes, group_bytes, group_lanes)
            return lambda lanes: _rounds(lambda lane: start(whole(lane)), advance, unfinished, lanes, size)

        state = lax.platform_dependent(
            lanes, cpu=rounds(CPU_GROUP_BYTES, CPU_GROUP_LANES), default=rounds(GROUP_BYTES, GROUP_LANES)
        )
        return state, jax.tree.map(lambda _: True, state)

    return alone


def _group_size(lanes: list[Array], group_bytes: int, group_lanes: int) -> int:
    """A multiple of 8 where there are many lanes, so that a lane's arithmetic is that of any other."""
    num_lanes = len(lanes[0])
    bytes_a_lane = max(1, sum(leaf.size * leaf.dtype.itemsize for leaf in lanes) // num_lanes)
    return min(num_lanes, group_lanes, max(8, group_bytes // bytes_a_lane // 8 * 8))


def _rounds(start: Callable, advance: Callable, unfinished: Callable, lanes: list[Array], size: int) -> PyTree:
    num_lanes = len(lanes[0])
    num_groups = -(-num_lanes // size)

    def take(tree, index):
        return jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0, mode="clip"), tree)

    def put(tree, index, group):
        # An index beyond the last lane fills a group up, and is dropped here.
        return jax.tree.map(lambda leaf, new: leaf.at[index].set(new, mode="drop"), tree, group)

    def begin(index):
        return jax.vmap(start)(take(lanes, index))

    def run(index, state):
        own = take(lanes, index)

        def go_on(carry):
            return (carry[0] < TURNS_A_ROUND) & jnp.any(jax.vmap(unfinished)(carry[1]))

        def one_turn(carry):
            return carry[0] + 1, jax.vmap(advance)(own, carry[1])

        return lax.while_loop(go_on, one_turn, (0, take(state, index)))[1]

    def one_round(state):
        active = jax.vmap(unfinished)(state)
        order = jnp.argsort(~active, stable=True)
        order = jnp.where(jnp.arange(num_lanes) < jnp.sum(active), order, num_lanes)
        order = jnp.pad(order, (0, num_groups * size - num_lanes), constant_values=num_lanes)

        def one_group(i, state):
            index = lax.dynamic_slice_in_dim(order, i * size, size)
            return put(state, index, run(index, state))

        return lax.fori_loop(0, (jnp.sum(active) + size - 1) // size, one_group, state)

    first = jnp.arange(num_groups * size).reshape(num_groups, size)
    state = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:num_lanes], lax.map(begin, first))
    return lax.while_loop(lambda state: jnp.any(jax.vmap(unfinished)(state)), one_round, state)


def at_most_once(predicate: Array, function: Callable[..., Any], state: Any, *inputs: Any) -> Any:
    """``function(state, *inputs)`` if ``predicate`` else ``state``; under vmap nothing is computed where no lane needs
    it.

    Work that depends on nothing but what ``function`` closes over would be done for all: XLA moves out of a loop what
    does not change in it. What the work depends on is therefore passed, as ``state`` or as ``inputs``.
    """

    def body(loop):
        (_, state), own = lax.optimization_barrier((loop, inputs))
        return jnp.zeros_like(predicate), function(state, *own)

    return lax.while_loop(lambda loop: loop[0], body, (predicate, state))[1]


@jax.custom_batching.custom_vmap
def is_alone(value: Array) -> Array:
    """True; under ``vmap`` over ``value`` False.

    >>> is_alone(jnp.zeros(2)).item(), jax.vmap(is_alone)(jnp.zeros(2)).tolist()
    (True, [False, False])
    """
    return jnp.bool_(True)


@is_alone.def_vmap
def _(num_lanes, in_batched, value):
    return jnp.bool_(False), False

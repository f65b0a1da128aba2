"""A loop that many lanes run at once, where the slow ones do not hold the others.

Under ``vmap`` a ``while_loop`` runs until its last lane is done, and all lanes pay for every turn. Here lanes run in
groups for a few turns; then those that are not done are moved together, and only the groups that they fill go on.

The state of a group has its lanes last: ``[p, p, lanes]``. What is done with small matrices, entry by entry, is then
done with vectors. What reads a lane's inputs is done for a few lanes at a time, so that on a CPU what it makes of them
stays in the second-level cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

PyTree = Any

TURNS_A_ROUND = 3
# What the inputs take of the lanes that are read at a time, and of a group, and how many lanes a group has at most: it
# runs on while one lane does.
CPU_FEW_BYTES, CPU_GROUP_BYTES, CPU_GROUP_LANES = 2**16, 2**22, 512
FEW_BYTES, GROUP_BYTES, GROUP_LANES = 2**27, 2**27, 2**17


def loop(start: Callable, turn: Callable, unfinished: Callable) -> Callable[[PyTree], PyTree]:
    """``state = start(each); while unfinished(state): state = turn(state, each)``.

    ``each(function, *args, wanted=None, otherwise=None)`` is ``function(inputs, *args)`` for each lane by itself, of
    arrays without an axis of lanes. With ``wanted`` it is that where it is true, else ``otherwise``, and nothing is
    computed where no lane wants it.

    Args:
      start: ``each -> state``.
      turn: ``(state, each) -> state`` of the same shapes.
      unfinished: ``state -> bool``. All three are given arrays that may end in an axis of lanes.

    Returns:
      ``inputs -> state``; under ``vmap``, lanes come and go as said above. None of the three closes over a traced
      value.

    >>> halve = loop(
    ...     lambda each: (each(lambda x: x), each(lambda x: jnp.int32(0))),
    ...     lambda state, each: (state[0] / 2, state[1] + 1),
    ...     lambda state: state[0] > 1,
    ... )
    >>> [each.tolist() for each in jax.vmap(halve)(jnp.array([1.0, 8.0, 3.0]))]
    [[1.0, 1.0, 0.75], [0, 3, 2]]
    """

    @jax.custom_batching.custom_vmap
    def alone(inputs):
        each = each_alone(inputs)
        return lax.while_loop(unfinished, lambda state: turn(state, each), start(each))

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

        def rounds(*limits):
            few, size = _sizes(lanes, *limits)

            def begin(own, real):
                return start(_each(whole, own, few, real))

            def advance(own, state, real):
                going = real & unfinished(state)
                return select(going, turn(state, _each(whole, own, few, going)), state)

            return lambda lanes: _rounds(begin, advance, unfinished, lanes, size)

        state = lax.platform_dependent(
            lanes,
            cpu=rounds(CPU_FEW_BYTES, CPU_GROUP_BYTES, CPU_GROUP_LANES),
            default=rounds(FEW_BYTES, GROUP_BYTES, GROUP_LANES),
        )
        return state, jax.tree.map(lambda _: True, state)

    return alone


def _sizes(lanes: list[Array], few_bytes: int, group_bytes: int, group_lanes: int) -> tuple[int, int]:
    """How many lanes to read at a time, and of a group: so many times as many.

    A multiple of 8 where there are many lanes, so that a lane's arithmetic is that of any other.
    """
    num_lanes = len(lanes[0])
    bytes_a_lane = max(1, sum(leaf.size * leaf.dtype.itemsize for leaf in lanes) // num_lanes)
    few = min(num_lanes, group_lanes, max(8, few_bytes // bytes_a_lane // 8 * 8))
    most = min(-(-num_lanes // few) * few, group_lanes, group_bytes // bytes_a_lane)
    return few, max(1, most // few) * few


def each_alone(inputs: PyTree) -> Callable:
    """``each`` of one lane."""

    def each(function, *args, wanted=None, otherwise=None):
        if wanted is None:
            return function(inputs, *args)
        return at_most_once(wanted, lambda _, *args: function(inputs, *args), otherwise, *args)

    return each


def _each(whole: Callable, own: list[Array], few: int, going: Bool[Array, " lanes"]) -> Callable:
    """``each`` of a group, a few lanes at a time; those that are done have no part in it."""

    def each(function, *args, wanted=None, otherwise=None):
        def of_lane(lane, args):
            return function(whole(lane), *args)

        def of_few(run):
            wanted, *given = run
            shapes = jax.eval_shape(jax.vmap(of_lane), *given)
            nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            return at_most_once(jnp.any(wanted), lambda _, *given: jax.vmap(of_lane)(*given), nothing, *given)

        def of_all(_, *given):
            runs = jax.tree.map(lambda leaf: leaf.reshape(-1, few, *leaf.shape[1:]), given)
            return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), lax.map(of_few, runs))

        given = going if wanted is None else going & wanted, own, _lanes_first(args)
        if wanted is None:
            return _lanes_last(of_all(None, *given))
        found = at_most_once(jnp.any(given[0]), of_all, _lanes_first(otherwise), *given)
        return select(wanted, _lanes_last(found), otherwise)

    return each


def _rounds(begin: Callable, advance: Callable, unfinished: Callable, lanes: list[Array], size: int) -> PyTree:
    num_lanes = len(lanes[0])
    num_groups = -(-num_lanes // size)

    # An index beyond the last lane fills a group up; it is not real, and dropped when the group is put back.
    def inputs(index):
        return [jnp.take(leaf, index, axis=0, mode="clip") for leaf in lanes]

    def run(index, state):
        own, real = inputs(index), index < num_lanes

        def go_on(carry):
            return (carry[0] < TURNS_A_ROUND) & jnp.any(real & unfinished(carry[1]))

        def one_turn(carry):
            return carry[0] + 1, advance(own, carry[1], real)

        group = jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=-1, mode="clip"), state)
        return lax.while_loop(go_on, one_turn, (0, group))[1]

    def one_round(state):
        active = unfinished(state)
        place = jnp.where(active, jnp.cumsum(active) - 1, num_groups * size)
        order = jnp.full(num_groups * size, num_lanes).at[place].set(jnp.arange(num_lanes), mode="drop")

        def one_group(i, state):
            index = lax.dynamic_slice_in_dim(order, i * size, size)
            group = run(index, state)
            return jax.tree.map(lambda leaf, new: leaf.at[..., index].set(new, mode="drop"), state, group)

        return lax.fori_loop(0, (jnp.sum(active) + size - 1) // size, one_group, state)

    first = jnp.arange(num_groups * size).reshape(num_groups, size)
    state = lax.map(lambda index: begin(inputs(index), index < num_lanes), first)
    state = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -2).reshape(*leaf.shape[1:-1], -1)[..., :num_lanes], state)
    return _lanes_first(lax.while_loop(lambda state: jnp.any(unfinished(state)), one_round, state))


def _lanes_first(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), tree)


def _lanes_last(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), tree)


def select(predicate: Bool[Array, "*lanes"], new: PyTree, old: PyTree) -> PyTree:
    """``new`` where ``predicate`` else ``old``; arrays end in the axis of lanes, if there is one."""
    return jax.tree.map(lambda new, old: jnp.where(predicate, new, old), new, old)


def while_loop(unfinished: Callable, turn: Callable, state: PyTree) -> PyTree:
    """``lax.while_loop`` of a state that may end in an axis of lanes, each of which stays as it is once done."""

    def advance(state):
        going = unfinished(state)
        return turn(state) if going.ndim == 0 else select(going, turn(state), state)

    return lax.while_loop(lambda state: jnp.any(unfinished(state)), advance, state)


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

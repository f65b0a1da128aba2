"""Optimizers by name and their schedules: what the command line offers, as optax transformations.

Any other ``optax.GradientTransformation`` goes into ``train.trainer`` just as well.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmodels.core import InputError, PyTree

OPTIMIZERS = ("sgd", "adam", "adamw", "lamb", "lars")
SCHEDULES = ("constant", "cosine", "step")


def schedule(
    name: str, learning_rate: float, *, num_steps: int, warmup_steps: int = 0, decay_every: int | None = None
) -> optax.Schedule:
    """The learning rate as a function of the step, after a linear warmup from 0.

    Args:
      name: "constant"; "cosine", down to 0 at ``num_steps`` (Loshchilov and Hutter 2017); "step",
        a tenth every ``decay_every`` steps (default: a third of ``num_steps``; He et al. 2016).
      learning_rate: the highest rate, reached after ``warmup_steps``.
      num_steps: the steps of the whole run, warmup included.

    >>> rate = schedule("cosine", 0.1, num_steps=100, warmup_steps=10)
    >>> [round(float(rate(step)), 3) for step in (0, 5, 10, 55, 100)]
    [0.0, 0.05, 0.1, 0.05, 0.0]
    """
    if warmup_steps >= num_steps:
        raise InputError(f"warmup_steps: {warmup_steps} steps leave none of num_steps={num_steps}; lower it")
    if name == "constant":
        after = optax.constant_schedule(learning_rate)
    elif name == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, num_steps - warmup_steps)
    elif name == "step":
        after = optax.exponential_decay(learning_rate, decay_every or -(-num_steps // 3), 0.1, staircase=True)
    else:
        raise InputError(f"schedule: {name!r} is none of {', '.join(SCHEDULES)}")
    if warmup_steps == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup_steps), after], [warmup_steps])


def optimizer(
    name: str,
    learning_rate: float | optax.Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    clip: float | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    multipliers: PyTree | None = None,
) -> optax.GradientTransformation:
    """An optimizer with what usually surrounds it.

    Args:
      name: "sgd" (Nesterov's off), "adam", "adamw", "lamb" or "lars".
      learning_rate: a number or a schedule.
      momentum: of sgd and lars; adam, adamw and lamb keep their own 0.9 and 0.999.
      weight_decay: L2 added to the gradient for sgd and adam, decoupled for adamw and lamb, inside the
        trust ratio for lars. Vectors and scalars (biases, norms) are never decayed.
      clip: the largest global norm of the gradient; ``None``: unlimited.
      accumulate: batches averaged into one update.
      ema: decay of an exponential moving average of the parameters, read by ``averaged_params``.
      multipliers: of the learning rate, a prefix of the parameters' tree: ``(0.1, 1.0)`` slows the first of a
        chain of two models down.

    >>> params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    >>> transform = optimizer("adamw", 0.1, weight_decay=0.5)
    >>> zero = jax.tree.map(jnp.zeros_like, params)
    >>> updates, _ = transform.update(zero, transform.init(params), params)
    >>> [float(abs(updates[name]).max().round(3)) for name in ("kernel", "bias")]    # only the kernel decays
    [0.05000000074505806, 0.0]
    """
    coupled = optax.add_decayed_weights(weight_decay, mask=decayed)
    rules = {
        "sgd": lambda: optax.chain(coupled, optax.sgd(learning_rate, momentum=momentum)),
        "adam": lambda: optax.chain(coupled, optax.adam(learning_rate)),
        "adamw": lambda: optax.adamw(learning_rate, weight_decay=weight_decay, mask=decayed),
        "lamb": lambda: optax.lamb(learning_rate, weight_decay=weight_decay, mask=decayed),
        "lars": lambda: optax.lars(
            learning_rate, weight_decay, weight_decay_mask=decayed, trust_ratio_mask=decayed, momentum=momentum
        ),
    }
    if name not in rules:
        raise InputError(f"optimizer: {name!r} is none of {', '.join(OPTIMIZERS)}")
    steps = [optax.clip_by_global_norm(clip)] if clip is not None else []
    steps.append(rules[name]())
    if multipliers is not None:
        steps.append(optax.stateless(lambda updates, params: _multiply(multipliers, updates)))
    if ema is not None:
        steps.append(average_params(ema))
    transform = optax.chain(*steps)
    if accumulate > 1:
        return optax.MultiSteps(transform, accumulate).gradient_transformation()
    return transform


def _multiply(multipliers: PyTree, updates: PyTree) -> PyTree:
    return jax.tree.map(lambda factor, part: jax.tree.map(lambda update: factor * update, part), multipliers, updates)


def decayed(params: PyTree) -> PyTree:
    """True for the leaves that weight decay applies to: matrices and kernels, not biases and norms."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


class AverageState(NamedTuple):
    count: jax.Array
    average: PyTree


def average_params(decay: float) -> optax.GradientTransformation:
    """Keep an exponential moving average of the parameters; put it last in an ``optax.chain``.

    The decay rises from 0.1 as ``min(decay, (1 + t) / (10 + t))``, so a short run is not held at its start.
    """

    def init(params):
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.array, params))

    def update(updates, state, params=None):
        if params is None:
            raise InputError("params: average_params needs them; call update(updates, state, params)")
        rate = jnp.minimum(decay, (1 + state.count) / (10 + state.count))
        new = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: (rate * a + (1 - rate) * p).astype(a.dtype), state.average, new)
        return updates, AverageState(state.count + 1, average)

    return optax.GradientTransformation(init, update)


def averaged_params(opt_state: PyTree, params: PyTree) -> PyTree:
    """The moving average inside ``opt_state`` where ``ema`` was asked for, else ``params``."""
    found = optax.tree_utils.tree_get(opt_state, "average")
    return params if found is None else found

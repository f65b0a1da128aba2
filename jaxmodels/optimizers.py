"""Optimizers by name and their schedules: what the command line offers, as optax transformations.

Any other ``optax.GradientTransformation`` goes into ``train.trainer`` just as well.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmodels.core import InputError, PyTree

OPTIMIZERS = (
    "sgd", "adam", "adamw", "lamb", "lars", "adabelief", "adadelta", "adagrad", "adamax", "adamaxw", "adan", "amsgrad",
    "lion", "nadam", "nadamw", "novograd", "radam", "rmsprop", "sm3", "yogi",
)  # fmt: skip
"""Names of optax."""
SCHEDULES = ("constant", "cosine", "step", "linear")


def schedule(
    name: str, learning_rate: float, *, num_steps: int, warmup_steps: int = 0, decay_every: int | None = None
) -> optax.Schedule:
    """The learning rate as a function of the step, after a linear warmup from 0.

    Args:
      name: "constant"; "cosine", down to 0 at ``num_steps`` (Loshchilov and Hutter 2017); "step",
        a tenth every ``decay_every`` steps (default: a third of ``num_steps``; He et al. 2016); "linear", down to 0.
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
    elif name == "linear":
        after = optax.linear_schedule(learning_rate, 0.0, num_steps - warmup_steps)
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
    decay_mask: Callable[[PyTree], PyTree] | None = None,
    clip: float | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    multipliers: PyTree | None = None,
) -> optax.GradientTransformation:
    """An optimizer with what usually surrounds it.

    Args:
      name: one of ``OPTIMIZERS``.
      learning_rate: a number or a schedule.
      momentum: of sgd (Nesterov's off) and lars; the others keep optax's own.
      weight_decay: decoupled where the optimizer has it so (adamw, lamb, lion, nadamw, ...), inside the trust ratio
        for lars, else the gradient of ``weight_decay / 2 * |params|^2`` (L2) added to the gradient.
      decay_mask: ``params -> `` booleans, which of them decay; default ``decayed``: biases and norms do not.
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
    if name not in OPTIMIZERS:
        raise InputError(f"optimizer: {name!r} is none of {', '.join(OPTIMIZERS)}")
    steps = [optax.clip_by_global_norm(clip)] if clip is not None else []
    steps.append(_rule(name, learning_rate, momentum, weight_decay, decay_mask or decayed))
    if multipliers is not None:
        steps.append(optax.stateless(lambda updates, params: _multiply(multipliers, updates)))
    if ema is not None:
        steps.append(average_params(ema))
    transform = optax.chain(*steps)
    if accumulate > 1:
        return optax.MultiSteps(transform, accumulate).gradient_transformation()
    return transform


def _rule(name, learning_rate, momentum, weight_decay, mask) -> optax.GradientTransformation:
    if name == "lars":
        return optax.lars(
            learning_rate, weight_decay, weight_decay_mask=mask, trust_ratio_mask=decayed, momentum=momentum
        )
    rule = functools.partial(getattr(optax, name), learning_rate)
    if name == "sgd":
        rule = functools.partial(rule, momentum=momentum)
    if "mask" in inspect.signature(rule).parameters:
        return rule(weight_decay=weight_decay, mask=mask)
    return optax.chain(optax.add_decayed_weights(weight_decay, mask=mask), rule())


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

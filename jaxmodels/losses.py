"""Losses, one value an example: ``loss(outputs [n, ...], targets [n, ...]) -> [n]``.

The training step takes their weighted mean, so padded rows work with every one of them.
All are computed in float32 at least, whatever the dtype of the network.
"""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Shaped

from jaxmodels.core import InputError


def squared_error(outputs: Float[Array, "n *k"], targets: Shaped[Array, "n *k"]) -> Float[Array, " n"]:
    """``(outputs - targets)^2``, averaged over the outputs of an example.

    >>> squared_error(jnp.array([1.0, 3.0]), jnp.array([0.0, 3.0])).tolist()
    [1.0, 0.0]
    """
    _same_shape("squared_error", outputs, targets)
    error = _at_least_float32(outputs) - targets
    return _mean_over_outputs(error**2)


def huber(outputs: Float[Array, "n *k"], targets: Shaped[Array, "n *k"], *, delta: float = 1.0) -> Float[Array, " n"]:
    """Quadratic within ``delta`` of the target, linear beyond (Huber 1964), averaged over the outputs.

    >>> huber(jnp.array([0.5, 3.0]), jnp.zeros(2)).tolist()
    [0.125, 2.5]
    """
    _same_shape("huber", outputs, targets)
    return _mean_over_outputs(optax.losses.huber_loss(_at_least_float32(outputs), targets, delta=delta))


def softmax_cross_entropy(
    outputs: Float[Array, "n k"], targets: Shaped[Array, "n *k"], *, label_smoothing: float = 0.0
) -> Float[Array, " n"]:
    """``-sum_k p_k log softmax(outputs)_k``.

    Args:
      outputs: logits ``[n, k]``.
      targets: class indices, integer ``[n]``, or probabilities ``[n, k]`` (mixup, cutmix).
        An index outside ``0 ... k - 1`` gives NaN, never a plausible number.
      label_smoothing: the share of probability spread evenly over the classes, in [0, 1).

    >>> softmax_cross_entropy(jnp.zeros((1, 4)), jnp.array([2])).tolist() == [jnp.log(4.0).item()]
    True
    """
    outputs = _at_least_float32(outputs)
    num_classes = outputs.shape[-1]
    if targets.ndim == outputs.ndim - 1:
        if not jnp.issubdtype(targets.dtype, jnp.integer):
            raise InputError(
                f"targets: class indices must be integers, got {targets.dtype} {targets.shape} for outputs "
                f"{outputs.shape}; cast them with astype('int32'), or give probabilities of the outputs' shape"
            )
        valid = (targets >= 0) & (targets < num_classes)
        one_hot = (targets[..., None] == jnp.arange(num_classes)).astype(outputs.dtype)
        targets = jnp.where(valid[..., None], one_hot, jnp.nan)
    _same_shape("softmax_cross_entropy", outputs, targets)
    if label_smoothing:
        targets = optax.smooth_labels(targets, label_smoothing)
    return optax.losses.softmax_cross_entropy(outputs, targets)


def sigmoid_cross_entropy(outputs: Float[Array, "n *k"], targets: Shaped[Array, "n *k"]) -> Float[Array, " n"]:
    """``-t log s(outputs) - (1 - t) log(1 - s(outputs))`` for targets in [0, 1], averaged over the outputs.

    >>> sigmoid_cross_entropy(jnp.zeros(2), jnp.array([0, 1])).round(4).tolist()
    [0.6930999755859375, 0.6930999755859375]
    """
    _same_shape("sigmoid_cross_entropy", outputs, targets)
    outputs = _at_least_float32(outputs)
    return _mean_over_outputs(optax.losses.sigmoid_binary_cross_entropy(outputs, targets.astype(outputs.dtype)))


def _at_least_float32(outputs: Array) -> Array:
    return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))


def _mean_over_outputs(values: Array) -> Array:
    return values.reshape(values.shape[0], -1).mean(axis=1)


def _same_shape(loss: str, outputs: Array, targets: Array) -> None:
    if outputs.shape != targets.shape:
        raise InputError(
            f"targets: {loss} needs the shape of outputs, {outputs.shape}, got {targets.shape}; reshape one of them"
        )

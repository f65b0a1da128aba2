"""Losses, one value an example: ``loss(outputs [n, ...], targets [n, ...]) -> [n]``.

The training step takes their weighted mean, so padded rows work with every one of them.
All are computed in float32 at least, whatever the dtype of the network.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
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


def absolute_error(outputs: Float[Array, "n *k"], targets: Shaped[Array, "n *k"]) -> Float[Array, " n"]:
    """``|outputs - targets|``, averaged over the outputs of an example; least at the median.

    >>> absolute_error(jnp.array([1.0, 3.0]), jnp.array([0.0, 5.0])).tolist()
    [1.0, 2.0]
    """
    _same_shape("absolute_error", outputs, targets)
    return _mean_over_outputs(jnp.abs(_at_least_float32(outputs) - targets))


def huber(outputs: Float[Array, "n *k"], targets: Shaped[Array, "n *k"], *, delta: float = 1.0) -> Float[Array, " n"]:
    """Quadratic within ``delta`` of the target, linear beyond (Huber 1964), averaged over the outputs.

    >>> huber(jnp.array([0.5, 3.0]), jnp.zeros(2)).tolist()
    [0.125, 2.5]
    """
    _same_shape("huber", outputs, targets)
    return _mean_over_outputs(optax.losses.huber_loss(_at_least_float32(outputs), targets, delta=delta))


def log_cosh(outputs: Float[Array, "n *k"], targets: Shaped[Array, "n *k"]) -> Float[Array, " n"]:
    """``log cosh(outputs - targets)``, averaged over the outputs: a Huber loss with all derivatives.

    >>> log_cosh(jnp.array([0.0, 100.0]), jnp.zeros(2)).round(1)    # 100 - log 2
    Array([ 0. , 99.3], dtype=float32)
    """
    _same_shape("log_cosh", outputs, targets)
    return _mean_over_outputs(optax.losses.log_cosh(_at_least_float32(outputs), targets))


def quantile(outputs: Float[Array, "n *k"], targets: Shaped[Array, "n *k"], *, level: float) -> Float[Array, " n"]:
    """``max(level (t - outputs), (level - 1) (t - outputs))``, averaged over the outputs; least at that quantile.

    Args:
      level: in (0, 1); 0.5 is half the absolute error.

    Source: Koenker and Bassett (1978), Regression quantiles.

    >>> quantile(jnp.zeros(2), jnp.array([1.0, -1.0]), level=0.75).tolist()
    [0.75, 0.25]
    """
    if not 0 < level < 1:
        raise InputError(f"level: needs a share in (0, 1), got {level}")
    _same_shape("quantile", outputs, targets)
    above = targets - _at_least_float32(outputs)
    return _mean_over_outputs(jnp.maximum(level * above, (level - 1) * above))


def poisson(outputs: Float[Array, "n *k"], targets: Shaped[Array, "n *k"]) -> Float[Array, " n"]:
    """``exp(outputs) - targets outputs``, averaged over the outputs: counts, given the log of their rate.

    The negative log-likelihood less ``log targets!``, which no output changes.

    >>> poisson(jnp.zeros(1), jnp.array([3])).item()
    1.0
    """
    _same_shape("poisson", outputs, targets)
    outputs = _at_least_float32(outputs)
    return _mean_over_outputs(jnp.exp(outputs) - targets * outputs)


def gaussian(outputs: Float[Array, "n 2 *k"], targets: Shaped[Array, "n *k"]) -> Float[Array, " n"]:
    """``(log v + (targets - m)^2 / v + log 2 pi) / 2`` with ``m, log v = outputs[:, 0], outputs[:, 1]``.

    The negative log-likelihood of a normal distribution whose mean and variance are both learned, averaged over the
    outputs of an example.

    Source: Nix and Weigend (1994), Estimating the mean and variance of the target probability distribution.

    >>> gaussian(jnp.array([[1.0, 0.0]]), jnp.array([1.0])).item() == (jnp.log(2 * jnp.pi) / 2).item()
    True
    """
    if outputs.ndim < 2 or outputs.shape[1] != 2:
        raise InputError(f"outputs: gaussian needs [n, 2, ...], mean and log variance, got {outputs.shape}")
    outputs = _at_least_float32(outputs)
    mean, log_variance = outputs[:, 0], outputs[:, 1]
    _same_shape("gaussian", mean, targets)
    squares = (targets - mean) ** 2 * jnp.exp(-log_variance)
    return _mean_over_outputs((log_variance + squares + jnp.log(2 * jnp.pi)) / 2)


def hinge(outputs: Float[Array, "n *k"], targets: Shaped[Array, "n *k"]) -> Float[Array, " n"]:
    """``max(0, 1 - s outputs)``, averaged over the outputs; ``s`` is 1 for a target of 1 and -1 for 0.

    >>> hinge(jnp.array([0.5, 0.5, 2.0]), jnp.array([1, 0, 1])).tolist()
    [0.5, 1.5, 0.0]
    """
    _same_shape("hinge", outputs, targets)
    return _mean_over_outputs(optax.losses.hinge_loss(_at_least_float32(outputs), 2 * targets - 1))


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


def sigmoid_cross_entropy(
    outputs: Float[Array, "n *k"], targets: Shaped[Array, "n *k"], *, label_smoothing: float = 0.0
) -> Float[Array, " n"]:
    """``-t log s(outputs) - (1 - t) log(1 - s(outputs))`` for targets in [0, 1], averaged over the outputs.

    Args:
      label_smoothing: the share by which targets move to 1/2, in [0, 1).

    >>> sigmoid_cross_entropy(jnp.zeros(2), jnp.array([0, 1])).round(4).tolist()
    [0.6930999755859375, 0.6930999755859375]
    """
    _same_shape("sigmoid_cross_entropy", outputs, targets)
    outputs = _at_least_float32(outputs)
    targets = (1 - label_smoothing) * targets.astype(outputs.dtype) + label_smoothing / 2
    return _mean_over_outputs(optax.losses.sigmoid_binary_cross_entropy(outputs, targets))


def focal(
    outputs: Float[Array, "n *k"], targets: Shaped[Array, "n *k"], *, gamma: float = 2.0, alpha: float | None = None
) -> Float[Array, " n"]:
    """``-(1 - p)^gamma log p`` with ``p`` the probability given to the target, 0 or 1; averaged over the outputs.

    Examples that are easy by now count for little.

    Args:
      gamma: how little; 0 is ``sigmoid_cross_entropy``.
      alpha: the weight of targets 1, that of targets 0 being ``1 - alpha``; ``None``: both weigh 1.

    Source: Lin et al. (2017), Focal loss for dense object detection.

    >>> focal(jnp.zeros(1), jnp.ones(1), gamma=1.0).item() == (jnp.log(2.0) / 2).item()
    True
    """
    _same_shape("focal", outputs, targets)
    outputs = _at_least_float32(outputs)
    return _mean_over_outputs(
        optax.losses.sigmoid_focal_loss(outputs, targets.astype(outputs.dtype), alpha=alpha, gamma=gamma)
    )


def class_weighted(loss: Callable, weights: Float[Array, " k"]) -> Callable:
    """``loss`` times the weight of each example's class; targets are class indices ``[n]``.

    >>> loss = class_weighted(softmax_cross_entropy, jnp.array([1.0, 3.0]))
    >>> (loss(jnp.zeros((2, 2)), jnp.array([0, 1])) / jnp.log(2.0)).tolist()
    [1.0, 3.0]
    """

    def weighted(outputs, targets):
        if targets.ndim != 1 or not jnp.issubdtype(targets.dtype, jnp.integer):
            raise InputError(f"targets: class weights need integers [n], got {targets.dtype} {targets.shape}")
        # Out of range: NaN, as the cross-entropy says, instead of another class's weight.
        outside = (targets < 0) | (targets >= len(weights))
        return loss(outputs, targets) * jnp.where(outside, jnp.nan, jnp.asarray(weights)[targets])

    return weighted


def balanced_class_weights(targets: Shaped[Array, " n"], *, num_classes: int) -> Float[Array, " k"]:
    """``n / (num_classes count_k)``: every class weighs the same in all; a class without examples weighs 0.

    >>> balanced_class_weights(jnp.array([0, 0, 0, 1]), num_classes=2) * 3
    Array([2., 6.], dtype=float32)
    """
    counts = jax.nn.one_hot(targets, num_classes).sum(axis=0)
    return jnp.where(counts > 0, targets.shape[0] / (num_classes * jnp.maximum(counts, 1)), 0)


def _at_least_float32(outputs: Array) -> Array:
    return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))


def _mean_over_outputs(values: Array) -> Array:
    return values.reshape(values.shape[0], -1).mean(axis=1)


def _same_shape(loss: str, outputs: Array, targets: Array) -> None:
    if outputs.shape != targets.shape:
        raise InputError(
            f"targets: {loss} needs the shape of outputs, {outputs.shape}, got {targets.shape}; reshape one of them"
        )

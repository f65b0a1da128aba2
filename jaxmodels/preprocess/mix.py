"""Mixup and CutMix: rows that are blends of two, with targets to match.

    inputs = lam x_i + (1 - lam) x_j,    targets = lam y_i + (1 - lam) y_j,    lam ~ Beta(alpha, alpha)

Zhang et al. (2018), mixup: beyond empirical risk minimization. Yun et al. (2019), CutMix: a rectangle of ``x_j`` is
pasted over ``x_i`` and ``lam`` is the share of the area that is left.

Padding never leaks: rows of positive weight are partnered among themselves, in a random cycle through all of them,
and a row of weight 0 is its own partner. Weights mix as targets do, so that a row's share of the loss goes where
its pixels go: ``w = lam w_i + (1 - lam) w_j`` with targets ``(lam w_i y_i + (1 - lam) w_j y_j) / w``, which is the
textbook's where weights are equal.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.core import Batch, InputError


def mixup(key: Array, batch: Batch, *, alpha: float, num_classes: int) -> Batch:
    """Blend each row with another; each pair has its own ``lam``.

    Args:
      key: randomness.
      batch: ``inputs`` float ``[n, ...]``; ``targets`` labels ``[n]`` or probabilities ``[n, num_classes]``.
      alpha: of the Beta distribution, above 0; 0.2 blends little, 1 anything.
      num_classes: how many.

    Returns:
      ``Batch`` with ``targets`` ``[n, num_classes]``.

    >>> batch = Batch(jnp.zeros((2, 4, 4, 3)), jnp.array([0, 1]))
    >>> mixup(jax.random.key(0), batch, alpha=1.0, num_classes=2).targets.sum(1).tolist()
    [1.0, 1.0]
    """
    _check_alpha(alpha)
    inputs = batch.inputs
    u, v, ranks = jax.random.uniform(key, (3, inputs.shape[0]))
    share = _symmetric_beta(u, v, alpha).astype(inputs.dtype)
    partners = _partners(ranks, batch.weights)
    weights = share.reshape(-1, *(1,) * (inputs.ndim - 1))
    # A row that is its own partner stays as it is, to the bit.
    inputs = inputs[partners] + weights * (inputs - inputs[partners])
    return _mix_targets(batch._replace(inputs=inputs), partners, share, num_classes)


def cutmix(key: Array, batch: Batch, *, alpha: float, num_classes: int) -> Batch:
    """Paste a rectangle of another row over each; each pair has its own rectangle.

    The rectangle has ``sqrt(1 - lam)`` of each side, a centre anywhere, and is cut off at the border; targets follow
    the area that it really covers, in whole pixels.

    Args:
      key, batch, alpha, num_classes: as in ``mixup``; ``inputs`` ``[n, h, w, c]``.

    Returns:
      ``Batch`` with ``targets`` ``[n, num_classes]``.
    """
    _check_alpha(alpha)
    n, height, width, _ = batch.inputs.shape
    u, v, ranks, y, x = jax.random.uniform(key, (5, n))
    side = jnp.sqrt(1 - _symmetric_beta(u, v, alpha))
    rows, columns = _covered(y, side, height), _covered(x, side, width)
    pasted = rows[:, :, None] & columns[:, None, :]
    share = 1 - pasted.mean((1, 2), dtype=jnp.float32)
    partners = _partners(ranks, batch.weights)
    inputs = jnp.where(pasted[..., None], batch.inputs[partners], batch.inputs)
    return _mix_targets(batch._replace(inputs=inputs), partners, share, num_classes)


def _check_alpha(alpha: float) -> None:
    if not alpha > 0:
        raise InputError(f"alpha={alpha} is not above 0")


def _symmetric_beta(u: Float[Array, "n"], v: Float[Array, "n"], alpha: float) -> Float[Array, "n"]:
    """Uniforms to Beta(alpha, alpha), in closed form; ``jax.random.beta`` takes seconds to compile.

    ``1/2 + T / (2 sqrt(2 alpha + T^2))`` for ``T`` of Student's t with ``2 alpha`` degrees of freedom, which is
    ``sqrt(2 alpha (U^(-1/alpha) - 1)) cos(2 pi V)`` (Bailey 1994; Devroye 1996, one line of code).
    """
    cosine = jnp.cos(2 * jnp.pi * v)
    squared = jnp.expm1(-jnp.log1p(-u) / alpha) * cosine**2
    return 0.5 + 0.5 * jnp.sign(cosine) * jnp.sqrt(1 / (1 + 1 / squared))


def _covered(centers: Array, lengths: Array, size: int) -> Array:
    """``[n, size]``: the pixels of a side whose centres lie within ``length`` of it."""
    pixels = (jnp.arange(size) + 0.5) / size
    return abs(pixels - centers[:, None]) < lengths[:, None] / 2


def _partners(ranks: Float[Array, "n"], weights: Array | None) -> Int[Array, "n"]:
    """The successor of each row in a random cycle through the rows of positive weight; other rows stay alone."""
    n = ranks.shape[0]
    real = jnp.ones(n, bool) if weights is None else weights > 0
    cycle = jnp.argsort(jnp.where(real, ranks, 2.0))
    places, count = jnp.arange(n), real.sum()
    successors = jnp.where(places < count, (places + 1) % jnp.maximum(count, 1), places)
    return jnp.zeros(n, cycle.dtype).at[cycle].set(cycle[successors])


def _mix_targets(batch: Batch, partners: Array, share: Float[Array, "n"], num_classes: int) -> Batch:
    targets = _soft(batch.targets, num_classes)
    if batch.weights is None:
        share = share[:, None].astype(targets.dtype)
        return batch._replace(targets=share * targets + (1 - share) * targets[partners])
    own, other = share * batch.weights, (1 - share) * batch.weights[partners]
    weights = own + other
    fraction = jnp.where(weights > 0, own / jnp.where(weights > 0, weights, 1), 1)[:, None].astype(targets.dtype)
    targets = fraction * targets + (1 - fraction) * targets[partners]
    return batch._replace(targets=targets, weights=weights.astype(batch.weights.dtype))


def _soft(targets: Array, num_classes: int) -> Float[Array, "n num_classes"]:
    if targets.ndim == 1 and jnp.issubdtype(targets.dtype, jnp.integer):
        return jax.nn.one_hot(targets, num_classes)
    if targets.ndim != 2 or targets.shape[1] != num_classes:
        raise InputError(
            f"targets have shape {targets.shape} and dtype {targets.dtype}: "
            f"give labels [n] or probabilities [n, {num_classes}]"
        )
    return targets

"""The layers of networks that read images: convolution, batch normalisation and max-pooling, as pure functions.

    outputs = scale (x - mean) / sqrt(variance + epsilon) + bias

Batch normalisation computes in the dtype of ``scale`` (float32 at least), its moments about a value near the mean.
What training repeats in the same shapes is under ``jit``, so that it is traced once. Images are ``[n, h, w, c]``,
kernels ``[h, w, c, features]``.

Source: Ioffe and Szegedy (2015), Batch normalization, section 3.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def suits_products() -> bool:
    """Whether this backend runs some convolutions and sums faster as products; the one place where that is chosen.

    XLA:CPU does: a sum over pixels takes it some 10 times longer than the same sum as a product.
    """
    return jax.default_backend() == "cpu"


@functools.partial(jax.jit, static_argnames=("stride", "precision", "products"))
def convolve(
    inputs: Float[Array, "n h w c"],
    kernel: Float[Array, "s s c f"],
    *,
    stride: int = 1,
    precision: lax.Precision | None,
    products: bool = False,
) -> Float[Array, "n u v f"]:
    """Square kernel of odd size ``s``, with ``(s - 1) / 2`` zeros on each side.

    Args:
      products: compute the same as a matrix product, or on fewer and deeper pixels, where that is faster, as
        ``suits_products`` says.

    >>> convolve(jnp.ones((1, 5, 5, 1)), jnp.ones((3, 3, 1, 1)), stride=2, precision=None)[0, :, :, 0].tolist()
    [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    size, _, channels, _ = kernel.shape
    _, height, width, _ = inputs.shape
    if products and size == 1:
        return _mix_channels(inputs[:, ::stride, ::stride], kernel[0, 0], precision)
    if products and height * width <= 16:
        return _convolve_by_product(inputs, kernel, stride, precision)
    if products and stride == 2 and size % 4 == 3 and channels < 8 and height % 2 == width % 2 == 0:
        return _convolve_deeper(inputs, kernel, precision)
    return _convolve(inputs, kernel, stride, ((size - 1) // 2, (size - 1) // 2), precision)


def _convolve(inputs, kernel, stride, padding, precision):
    return lax.conv_general_dilated(
        inputs,
        kernel,
        (stride, stride),
        [padding, padding],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def _mix_channels(inputs, kernel, precision):
    """A 1x1 convolution. As a product XLA:CPU does not write its gradient's operands anew, batch last."""
    rows = lax.dot(inputs.reshape(-1, inputs.shape[-1]), kernel, precision=precision)
    return rows.reshape(*inputs.shape[:3], kernel.shape[-1])


def _convolve_deeper(inputs, kernel, precision):
    """Stride 2 over ``c`` channels as stride 1 over ``4 c``: every 2x2 pixels become one (space to depth)."""
    n, height, width, channels = inputs.shape
    size, features = kernel.shape[0] // 2 + 1, kernel.shape[-1]
    pixels = inputs.reshape(n, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))  # an even size, whose first row meets an odd pixel
    kernel = kernel.reshape(size, 2, size, 2, channels, features).transpose(0, 2, 1, 3, 4, 5)
    return _convolve(
        pixels.reshape(n, height // 2, width // 2, 4 * channels),
        kernel.reshape(size, size, 4 * channels, features),
        1,
        (size // 2, size // 2 - 1),
        precision,
    )


def _convolve_by_product(inputs, kernel, stride, precision):
    """``convolve`` as one matrix product; XLA:CPU's own gradient is several times slower on maps of a few pixels."""
    _, height, width, _ = inputs.shape
    size, reach = kernel.shape[0], (kernel.shape[0] - 1) // 2
    padded = jnp.pad(inputs, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    rows, columns = (height - 1) // stride + 1, (width - 1) // stride + 1
    shifted = [
        padded[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
        for i in range(size)
        for j in range(size)
    ]
    return _mix_channels(jnp.concatenate(shifted, axis=-1), kernel.reshape(-1, kernel.shape[-1]), precision)


def standardise(
    inputs: Float[Array, "n h w c"],
    mean: Float[Array, " c"],
    variance: Float[Array, " c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    epsilon: float,
) -> Float[Array, "n h w c"]:
    """Batch normalisation by given moments, in the dtype of ``inputs``."""
    wide = jnp.promote_types(inputs.dtype, scale.dtype)
    return ((inputs.astype(wide) - mean) * (scale * lax.rsqrt(variance + epsilon)) + bias).astype(inputs.dtype)


def batch_norm(
    inputs: Float[Array, "n h w c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    shares: Float[Array, " n"],
    epsilon: float,
    products: bool = False,
) -> tuple[Float[Array, "n h w c"], Float[Array, " c"], Float[Array, " c"]]:
    """Batch normalisation by the moments of the inputs themselves.

    The gradient is written out: autodiff's reads the images more often. There is no forward-mode derivative.

    Args:
      shares: of the images in the moments; they sum to 1, and padding has 0.
      products: sum over pixels by matrix products, as ``suits_products`` says.

    Returns:
      Outputs, and the mean and variance of each channel. The variance divides by the count; torch's running average
      holds count / (count - 1) of it.

    >>> images = jnp.array([1.0, 3.0]).reshape(2, 1, 1, 1)
    >>> outputs, mean, variance = batch_norm(images, jnp.ones(1), jnp.zeros(1), jnp.full(2, 0.5), 1e-9)
    >>> outputs.ravel().tolist(), mean.tolist(), variance.tolist()
    ([-1.0, 1.0], [2.0], [1.0])
    """
    return _batch_norm(inputs, scale, bias, shares, epsilon, products)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _normalised(inputs, scale, bias, shares, epsilon, products):
    """Both moments in one reading, about the mean of the middle row of pixels.

    That is a share 1 / h of all pixels, so that (mean - near)^2 <= (h - 1) variance, whatever they hold: of the digits
    of the variance at most log10(h) cancel, and none as a rule.
    """
    wide = inputs.astype(scale.dtype)
    near = jnp.matmul(shares, wide[:, wide.shape[1] // 2].mean(axis=1), precision=lax.Precision.HIGHEST)
    shift, square = _channel_sums(wide - near, wide - near, _pixel_shares(inputs, shares), products)
    mean, variance = near + shift, jnp.maximum(square - shift**2, 0)
    return standardise(inputs, mean, variance, scale, bias, epsilon), mean, variance


def _normalised_forward(inputs, scale, bias, shares, epsilon, products):
    outputs, mean, variance = _normalised(inputs, scale, bias, shares, epsilon, products)
    return (outputs, mean, variance), (inputs, scale, shares, mean, variance)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _normalised_backward(epsilon, products, residuals, gradients):
    """``mean = sum_i share_i x_i``; ``variance = sum_i share_i (x_i - mean)^2``, whose derivative by the mean is 0."""
    inputs, scale, shares, mean, variance = residuals
    above, for_mean, for_variance = gradients
    wide, above, each = inputs.astype(scale.dtype), above.astype(scale.dtype), jnp.ones_like(shares)
    centred, inverse = wide - mean, lax.rsqrt(variance + epsilon)
    for_bias, for_scale = _channel_sums(above, centred, each, products)
    for_scale = for_scale * inverse
    for_mean = for_mean - scale * inverse * for_bias
    for_variance = for_variance - scale * inverse**2 / 2 * for_scale
    pixel_shares = _pixel_shares(inputs, shares)[:, None, None, None]
    for_inputs = above * (scale * inverse) + pixel_shares * (for_mean + 2 * for_variance * centred)
    for_shares = jnp.mean((for_mean * wide + for_variance * centred**2).sum(-1), axis=(1, 2))
    return for_inputs.astype(inputs.dtype), for_scale, for_bias, for_shares


_batch_norm = jax.custom_vjp(_normalised, nondiff_argnums=(4, 5))
_batch_norm.defvjp(_normalised_forward, _normalised_backward)


def _pixel_shares(inputs, shares):
    return shares / (inputs.shape[1] * inputs.shape[2])


def _channel_sums(inputs, factors, weights, products):
    """``sum_i weights_i inputs_i`` and ``sum_i weights_i inputs_i factors_i`` over images and pixels, ``[c]`` each.

    Each image on its own first, which rounds less. By products: a few pixels are added while the inputs are computed,
    both sums in one reading, so that a fraction is written and multiplied.
    """
    n, height, width, channels = inputs.shape
    terms = (inputs, inputs * factors)
    if products:
        pixels = height * width
        count = next(each for each in range(8, 0, -1) if pixels % each == 0)
        terms = [each.reshape(n, count, pixels // count, channels) for each in terms]
        zero = jnp.zeros((), inputs.dtype)
        sums = lax.reduce(terms, [zero, zero], lambda some, more: [*map(lax.add, some, more)], (1,))
        ones = jnp.ones((n, 1, pixels // count), inputs.dtype)
        sums = [jnp.matmul(ones, each, precision=lax.Precision.HIGHEST)[:, 0] for each in sums]
    else:
        sums = [each.sum(axis=(1, 2)) for each in terms]
    return [jnp.matmul(weights, each, precision=lax.Precision.HIGHEST) for each in sums]


@functools.partial(jax.jit, static_argnames="products")
def rectify(inputs: Float[Array, "..."], *, products: bool = False) -> Float[Array, "..."]:
    """``max(inputs, 0)``.

    Args:
      products: keep outputs and gradient in memory on XLA:CPU, which else computes whatever is cheap again in each
        place that reads it, and a sum of residuals from all blocks before it. It never does so with a division.

    >>> rectify(jnp.array([-1.0, 2.0]), products=True).tolist()
    [-0.0, 2.0]
    """
    return _rectify_by_division(inputs) if products else jax.nn.relu(inputs)


@jax.custom_jvp
def _rectify_by_division(inputs):
    return _pass_positive(inputs, inputs)


@_rectify_by_division.defjvp
def _(primals, tangents):
    outputs = _rectify_by_division(*primals)
    return outputs, _pass_positive(tangents[0], outputs)


def _pass_positive(values, signs):
    """``values`` where ``signs`` are above 0, else 0."""
    return values / jnp.where(signs > 0, 1, jnp.inf).astype(values.dtype)


def max_pool(inputs: Float[Array, "n h w c"]) -> Float[Array, "n u v c"]:
    """3x3, stride 2, one pixel of minus infinity around; among equals the first in reading order takes the gradient.

    This is ``lax.reduce_window`` one axis at a time, whose own gradient is 4 times slower on CPU.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    return _max_pool_along(_max_pool_along(inputs, 2), 1)


def _max_pool_along(inputs, axis):
    """``outputs_i = max(inputs_(2i-1), inputs_(2i), inputs_(2i+1))``."""

    def pad(values, low, high):
        edges = [(low, high, 0) if index == axis else (0, 0, 0) for index in range(4)]
        return lax.pad(values, jnp.array(-jnp.inf, values.dtype), edges)

    whole = pad(inputs, 0, inputs.shape[axis] % 2)
    pairs = whole.reshape(*whole.shape[:axis], whole.shape[axis] // 2, 2, *whole.shape[axis + 1 :])
    even, odd = (lax.index_in_dim(pairs, index, axis + 1, keepdims=False) for index in (0, 1))
    return _first_max(_first_max(pad(odd, 1, -1), even), odd)


def _first_max(first, second):
    return jnp.where((second > first) | jnp.isnan(second), second, first)

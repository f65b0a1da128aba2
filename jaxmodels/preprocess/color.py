"""Brightness, contrast, saturation and hue of images on the scale 0 to 255, as torchvision and Pillow define them.

The first three blend an image with a degenerate one, ``factor * image + (1 - factor) * degenerate``: black, its mean
grey, its own grey. Hue turns the hexcone of HSV. Results are clipped to 0..255.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.core import InputError

# ITU-R 601-2, as in Pillow's conversion to "L".
_LUMA = (0.299, 0.587, 0.114)


def grey(images: Float[Array, "n h w 3"]) -> Float[Array, "n h w 1"]:
    """Luma of RGB."""
    red, green, blue = _LUMA
    return red * images[..., 0:1] + green * images[..., 1:2] + blue * images[..., 2:3]


def adjust_brightness(images: Float[Array, "n h w 3"], factors: Float[Array, "n"]) -> Float[Array, "n h w 3"]:
    """Multiply; 1 changes nothing, 0 is black (``ImageEnhance.Brightness``).

    >>> adjust_brightness(jnp.full((1, 1, 1, 3), 100.0), jnp.array([1.5])).tolist()
    [[[[150.0, 150.0, 150.0]]]]
    """
    return _blend(images, jnp.zeros((), images.dtype), factors)


def adjust_contrast(images: Float[Array, "n h w 3"], factors: Float[Array, "n"]) -> Float[Array, "n h w 3"]:
    """Move away from the image's mean grey; 1 changes nothing (``ImageEnhance.Contrast``)."""
    return _blend(images, grey(images).mean((1, 2, 3), keepdims=True), factors)


def adjust_saturation(images: Float[Array, "n h w 3"], factors: Float[Array, "n"]) -> Float[Array, "n h w 3"]:
    """Move away from grey; 1 changes nothing, 0 is grey (``ImageEnhance.Color``)."""
    return _blend(images, grey(images), factors)


def adjust_hue(images: Float[Array, "n h w 3"], turns: Float[Array, "n"]) -> Float[Array, "n h w 3"]:
    """Add to HSV's hue, in turns: 0 and 1 change nothing, 1/3 makes red green (``adjust_hue`` of torchvision).

    >>> adjust_hue(jnp.array([[[[255.0, 0, 0]]]]), jnp.array([1 / 3])).round().astype(int).tolist()
    [[[[0, 255, 0]]]]
    """
    highest = images.max(-1)
    chroma = highest - images.min(-1)
    red, green, blue = (images[..., channel] for channel in range(3))
    divisor = jnp.where(chroma > 0, chroma, 1)
    sextant = jnp.where(
        highest == red,
        (green - blue) / divisor,
        jnp.where(highest == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sextant = sextant + 6 * turns[:, None, None]

    def channel(offset: int) -> Array:
        k = jnp.mod(offset + sextant, 6)
        return highest - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)], -1)


def color_jitter(
    key: Array,
    images: Float[Array, "n h w 3"],
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> Float[Array, "n h w 3"]:
    """Change colours at random: torchvision's ``ColorJitter``, with factors of their own for each image.

    The four changes come in a random order, one order a call: an order an image would compute every change at
    every place. A strength of 0 leaves its change out.

    Args:
      key: randomness.
      images: float ``[n, h, w, 3]`` on the scale 0 to 255.
      brightness, contrast, saturation: the factor is uniform in ``[max(0, 1 - strength), 1 + strength]``.
      hue: turns uniform in ``[-hue, hue]``; at most 0.5.

    Returns:
      float ``[n, h, w, 3]`` in 0 to 255.
    """
    strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
    for name, strength in strengths.items():
        if not 0 <= strength <= (0.5 if name == "hue" else float("inf")):
            raise InputError(f"{name}={strength} is not in 0 to {'0.5' if name == 'hue' else 'infinity'}")
    adjust = {
        "brightness": adjust_brightness,
        "contrast": adjust_contrast,
        "saturation": adjust_saturation,
        "hue": adjust_hue,
    }
    active = {name: strength for name, strength in strengths.items() if strength > 0}
    if not active:
        return images
    # The last column orders the changes.
    uniform = jax.random.uniform(key, (len(active), images.shape[0] + 1), images.dtype)

    def change(index: int, name: str, strength: float):
        low, high = (-strength, strength) if name == "hue" else (max(0.0, 1 - strength), 1 + strength)
        return lambda images: adjust[name](images, low + (high - low) * uniform[index, :-1])

    changes = [change(index, *item) for index, item in enumerate(active.items())]
    order = jnp.argsort(uniform[:, -1])
    return jax.lax.fori_loop(0, len(changes), lambda i, images: jax.lax.switch(order[i], changes, images), images)


def _blend(images: Array, degenerate: Array, factors: Array) -> Array:
    factors = factors[:, None, None, None]
    return jnp.clip(factors * images + (1 - factors) * degenerate, 0, 255)

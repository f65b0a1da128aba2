"""One decoded image to what a batch holds of it: a crop for evaluation, or a canvas for random crops.

    example(decode("cat.jpg"), recipe("crop", 224))       # uint8 [224, 224, 3]
    example(decode("cat.jpg"), recipe("canvas", 224))     # Canvas(uint8 [256, 256, 3], width over height)

The canvas is larger than what is cut from it, as the image that a crop is cut from was.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxmodels.core import InputError, PyTree, check_count
from jaxmodels.data import decode

MODES = ("crop", "canvas")


class Canvas(NamedTuple):
    """Whole images squeezed on to squares, and the shape that they had."""

    pixels: UInt8[Array | np.ndarray, "n size size 3"]
    aspect: Float[Array | np.ndarray, "n"]
    """Width over height, before the squeeze."""


class Recipe(NamedTuple):
    """What, beside the file, decides an example's pixels."""

    mode: str
    """``"crop"`` or ``"canvas"``."""
    image_size: int | None
    """Side of the crop; ``None`` for a canvas, on which it has no bearing."""
    resize_size: int
    """Short side before the crop, or side of the canvas."""
    interpolation: str

    @property
    def side(self) -> int:
        """Of the example's square, pixels."""
        return self.image_size or self.resize_size

    def __str__(self) -> str:
        if self.mode == "canvas":
            return f"canvases of {self.side} px"
        return f"crops of {self.side} px after a {self.interpolation} resize to {self.resize_size}"


def recipe(mode: str, image_size: int = 224, resize_size: int | None = None, interpolation: str = "bilinear") -> Recipe:
    """A checked ``Recipe``; ``resize_size`` is 256/224 of ``image_size`` by default.

    >>> print(recipe("crop", 112), "|", recipe("canvas", 112))
    crops of 112 px after a bilinear resize to 128 | canvases of 128 px
    """
    resize_size = round(image_size * 256 / 224) if resize_size is None else resize_size
    if mode not in MODES:
        raise InputError(f"mode={mode!r} is not 'crop' or 'canvas'")
    if interpolation not in decode.INTERPOLATIONS:
        raise InputError(f"interpolation={interpolation!r} is not one of {', '.join(decode.INTERPOLATIONS)}")
    check_count("image_size", image_size)
    check_count("resize_size", resize_size)
    if mode == "canvas":
        return Recipe(mode, None, resize_size, "bilinear")
    return Recipe(mode, image_size, resize_size, interpolation)


def example(pixels: UInt8[np.ndarray, "h w 3"], recipe: Recipe) -> PyTree:
    """Follow the recipe: a crop, or a ``Canvas`` of one."""
    if recipe.mode == "canvas":
        aspect = np.asarray(pixels.shape[1] / pixels.shape[0], np.float32)
        return Canvas(decode.canvas(pixels, size=recipe.side), aspect)
    return decode.resize_and_crop(
        pixels, resize_size=recipe.resize_size, crop_size=recipe.side, interpolation=recipe.interpolation
    )

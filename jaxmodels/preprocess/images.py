"""Images on the device: what evaluation needs (resize, crop, normalise) and what training adds (augmentation).

    inputs = IMAGENET(pixels)                                   # uint8 [n, 224, 224, 3] -> normalised float32
    augment = augmentation(image_size=224, color_jitter=0.4)
    batch = augment(key, batch)                                 # Canvas or pixels -> float pixels, 0 to 255

Pixels are NHWC, RGB, uint8 or float on the scale 0 to 255, until ``Preprocess`` normalises them. Every function is
pure, runs under jit with static shapes, and draws its randomness from an explicit key, anew for each image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from jaxmodels.core import Batch, InputError, cached_factory
from jaxmodels.data.example import Canvas
from jaxmodels.preprocess import resample
from jaxmodels.preprocess.color import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    color_jitter,
)
from jaxmodels.preprocess.mix import cutmix, mixup

__all__ = [
    "IMAGENET",
    "KERAS_CAFFE",
    "KERAS_TF",
    "Preprocess",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "augmentation",
    "center_crop",
    "color_jitter",
    "cutmix",
    "mixup",
    "normalize",
    "random_crop",
    "random_erasing",
    "random_flip",
    "random_resized_crop",
    "resize",
]


def resize(
    images: Num[Array, "n h w c"], size: int | tuple[int, int], *, method: str = "bilinear", antialias: bool = True
) -> Float[Array, "n new_h new_w c"]:
    """Resize, with Pillow's filters (PyTorch's and TensorFlow's defaults do not antialias, so shrink differently).

    Args:
      images: ``[n, h, w, c]``, 0 to 255.
      size: side of a square, or ``(height, width)``, pixels.
      method: ``"bilinear"`` or ``"bicubic"`` (a = -1/2; clipped to 0..255, as it overshoots at edges).
      antialias: widen the filter when shrinking; ``False`` samples points.

    Returns:
      float ``[n, height, width, c]``: within 1 of Pillow's, which rounds after each axis.

    >>> resize(jnp.arange(4.0).reshape(1, 2, 2, 1), 1).tolist()
    [[[[1.5]]]]
    """
    height, width = (size, size) if isinstance(size, int) else size
    rows, columns = (
        resample.whole(old, new, method, antialias) for old, new in zip(images.shape[1:3], (height, width), strict=True)
    )
    return resample.resample(_to_float(images), rows, columns, method)


def center_crop(images: Num[Array, "n h w c"], size: int) -> Num[Array, "n size size c"]:
    """The central square; zeros surround a smaller image. torchvision's rounding.

    >>> center_crop(jnp.arange(5).reshape(1, 1, 5, 1), 2).ravel().tolist()
    [2, 3, 0, 0]
    """
    missing = [max(size - side, 0) for side in images.shape[1:3]]
    images = jnp.pad(images, [(0, 0), *((extra // 2, (extra + 1) // 2) for extra in missing), (0, 0)])
    top, left = (round((side - size) / 2.0) for side in images.shape[1:3])
    return images[:, top : top + size, left : left + size]


def random_resized_crop(
    key: Array,
    images: Num[Array, "n h w c"],
    size: int,
    *,
    aspect: Float[Array | np.ndarray, "n"] | None = None,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    method: str = "bilinear",
) -> Float[Array, "n size size c"]:
    """Resize a random part of each image to a square: the "Inception" crop, torchvision's ``RandomResizedCrop``.

    A box has a share of the image's area uniform in ``scale`` and a width over height log-uniform in ``ratio``; the
    first of ten draws that fits is taken, else the largest central box of an admitted ratio. Boxes are fractions
    of pixels, and resized with antialiasing.

    Args:
      key: randomness.
      images: ``[n, h, w, c]``, 0 to 255.
      size: side of the result, pixels.
      aspect: width over height that each image had before it was squeezed into ``[h, w]`` (``Canvas.aspect``): the
        box is drawn in that geometry. Default: ``w / h``.
      scale: least and greatest share of the area.
      ratio: least and greatest width over height.
      method: ``"bilinear"`` or ``"bicubic"``.

    Returns:
      float ``[n, size, size, c]``.

    Source: Szegedy et al. (2015), Going deeper with convolutions, section 6.
    """
    _check_range("scale", scale, 1.0)
    _check_range("ratio", ratio, np.inf)
    resample.check_method(method)
    n, height, width, _ = images.shape
    images = _to_float(images)
    aspect = jnp.full(n, width / height) if aspect is None else jnp.asarray(aspect)
    top, left, box_height, box_width = _random_boxes(key, aspect.astype(jnp.float32), scale, ratio)
    rows = resample.boxes(top * height, box_height * height, height, size, method)
    columns = resample.boxes(left * width, box_width * width, width, size, method)
    return resample.resample(images, rows, columns, method)


def random_crop(
    key: Array, images: Num[Array, "n h w c"], size: int, *, padding: int = 0
) -> Num[Array, "n size size c"]:
    """A square from a random place of each image, with ``padding`` zeros around it first (CIFAR: 4)."""
    images = jnp.pad(images, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    n, height, width, channels = images.shape
    if size > min(height, width):
        raise InputError(f"size={size} is more than the {height} x {width} pixels of images with padding={padding}")
    starts = jax.random.randint(key, (n, 2), 0, jnp.array([height - size + 1, width - size + 1]))

    def crop(image: Array, start: Array) -> Array:
        return jax.lax.dynamic_slice(image, (start[0], start[1], 0), (size, size, channels))

    return jax.vmap(crop)(images, starts)


def random_flip(key: Array, images: Num[Array, "n h w c"], *, probability: float = 0.5) -> Num[Array, "n h w c"]:
    """Mirror images left to right, each with ``probability``.

    >>> random_flip(jax.random.key(0), jnp.arange(3).reshape(1, 1, 3, 1), probability=1.0).ravel().tolist()
    [2, 1, 0]
    """
    flipped = jax.random.bernoulli(key, probability, images.shape[:1])
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)


def random_erasing(
    key: Array,
    images: Num[Array, "n h w c"],
    *,
    probability: float = 0.5,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
    value: tuple[float, ...] | float = (123.675, 116.28, 103.53),
) -> Float[Array, "n h w c"]:
    """Paint a random rectangle over images, each with ``probability``.

    Args:
      key: randomness.
      images: ``[n, h, w, c]``, 0 to 255.
      probability: of a rectangle.
      scale: least and greatest share of the area.
      ratio: least and greatest width over height.
      value: the colour, one number a channel; default: ImageNet's mean, which normalises to 0.

    Returns:
      float ``[n, h, w, c]``.

    Source: Zhong et al. (2020), Random erasing data augmentation.
    """
    _check_range("scale", scale, 1.0)
    _check_range("ratio", ratio, np.inf)
    images = _to_float(images)
    n, height, width, _ = images.shape
    box_key, coin_key = jax.random.split(key)
    boxes = _random_boxes(box_key, jnp.full(n, width / height, jnp.float32), scale, ratio)
    erased = _inside(boxes, height, width) & jax.random.bernoulli(coin_key, probability, (n, 1, 1))
    return jnp.where(erased[..., None], jnp.asarray(value, images.dtype), images)


def normalize(
    images: Num[Array, "n h w c"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "n h w c"]:
    """``(images - mean) / std``, a number a channel.

    >>> normalize(jnp.full((1, 1, 1, 3), 6.0), (5.0, 4.0, 2.0), (1.0, 2.0, 4.0)).tolist()
    [[[[1.0, 1.0, 1.0]]]]
    """
    images = _to_float(images)
    return (images - jnp.asarray(mean, images.dtype)) / jnp.asarray(std, images.dtype)


class Preprocess(NamedTuple):
    """What published weights expect of their pixels; hashable, travels with the weights, and is called on pixels.

    Calling it normalises ``[n, h, w, 3]`` of RGB, uint8 or float on 0..255: channel order, then ``pixels * scale``,
    then ``(... - mean) / std``. It does not resize: ``image_size``, ``resize_size`` and ``interpolation`` are for
    ``data.batches`` (or ``decode.resize_and_crop``), which give Pillow's pixels.

    >>> np.testing.assert_allclose(IMAGENET(np.full((1, 1, 1, 3), 255)), [[[[2.249, 2.429, 2.640]]]], atol=1e-3)
    """

    mean: tuple[float, float, float]
    """In ``channel_order``, after ``scale``."""
    std: tuple[float, float, float]
    scale: float = 1 / 255
    channel_order: str = "RGB"
    """``"RGB"`` or ``"BGR"``: of the result; pixels come as RGB."""
    image_size: int = 224
    """Side of the crop, pixels."""
    resize_size: int = 256
    """Short side before the crop, pixels."""
    interpolation: str = "bilinear"

    def __call__(self, images: Num[Array, "n h w 3"]) -> Float[Array, "n h w 3"]:
        if self.channel_order not in ("RGB", "BGR"):
            raise InputError(f"channel_order={self.channel_order!r} is not 'RGB' or 'BGR'")
        images = _to_float(jnp.asarray(images))
        images = images[..., ::-1] if self.channel_order == "BGR" else images
        return normalize(images * self.scale, self.mean, self.std)


IMAGENET = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""torchvision's and timm's."""
KERAS_CAFFE = Preprocess(mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), scale=1.0, channel_order="BGR")
"""Keras' ResNet50, ResNet101, ResNet152: BGR less its mean, not scaled."""
KERAS_TF = Preprocess(mean=(1.0, 1.0, 1.0), std=(1.0, 1.0, 1.0), scale=1 / 127.5)
"""Keras' ResNetV2s: -1 to 1."""


@cached_factory
def augmentation(
    *,
    image_size: int = 224,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
    color_jitter: float = 0.0,
    erasing: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    num_classes: int | None = None,
) -> Callable[[Array, Batch], Batch]:
    """Compose a training augmentation: random resized crop, flip, colours, erasing, then mixup or CutMix.

    Args:
      image_size: side of the result, pixels.
      crop_scale, crop_ratio: ``scale`` and ``ratio`` of ``random_resized_crop``.
      flip: mirror half of the images.
      color_jitter: strength of brightness, contrast and saturation; a quarter of it for hue. 0: off.
      erasing: probability of ``random_erasing``. 0: off.
      mixup, cutmix: their ``alpha``; with both, one of them is tossed for each batch. 0: off.
      num_classes: needed by mixup and CutMix, which make targets ``[n, num_classes]``.

    Returns:
      ``(key, batch) -> batch``, pure: ``inputs`` a ``Canvas`` or pixels in, float ``[n, image_size, image_size, 3]``
      on 0..255 out. The same arguments give the same function, so that nothing compiles twice.

    >>> augment = augmentation(image_size=8)
    >>> batch = Batch(np.zeros((2, 16, 16, 3), np.uint8), np.zeros(2, np.int32), np.ones(2, np.float32))
    >>> augment(jax.random.key(0), batch).inputs.shape
    (2, 8, 8, 3)
    """
    mixers = _mixers(mixup, cutmix, num_classes)
    jitter = _jitter(color_jitter)

    def augment(key: Array, batch: Batch) -> Batch:
        crop_key, flip_key, color_key, erase_key, mix_key = jax.random.split(key, 5)
        pixels, aspect = batch.inputs if isinstance(batch.inputs, Canvas) else (batch.inputs, None)
        images = random_resized_crop(
            crop_key, jnp.asarray(pixels), image_size, aspect=aspect, scale=crop_scale, ratio=crop_ratio
        )
        images = random_flip(flip_key, images) if flip else images
        images = jitter(color_key, images)
        images = random_erasing(erase_key, images, probability=erasing) if erasing else images
        return _mix(mixers, mix_key, batch._replace(inputs=images))

    return augment


def _jitter(strength: float) -> Callable[[Array, Array], Array]:
    """Outside ``augmentation``, whose argument hides the function's name."""
    if strength == 0:
        return lambda key, images: images
    return lambda key, images: color_jitter(
        key, images, brightness=strength, contrast=strength, saturation=strength, hue=min(strength / 4, 0.5)
    )


def _mixers(mixup_alpha: float, cutmix_alpha: float, num_classes: int | None) -> list[Callable[[Array, Batch], Batch]]:
    chosen = [(mix, alpha) for mix, alpha in ((mixup, mixup_alpha), (cutmix, cutmix_alpha)) if alpha]
    if not chosen:
        return []
    if num_classes is None:
        raise InputError("mixup and cutmix need num_classes: their targets are shares of classes")
    return [partial(mix, alpha=alpha, num_classes=num_classes) for mix, alpha in chosen]


def _mix(mixers: list[Callable[[Array, Batch], Batch]], key: Array, batch: Batch) -> Batch:
    if len(mixers) < 2:
        return mixers[0](key, batch) if mixers else batch
    coin_key, mix_key = jax.random.split(key)
    return jax.lax.cond(jax.random.bernoulli(coin_key), *mixers, mix_key, batch)


def _to_float(images: Array) -> Array:
    images = jnp.asarray(images)
    return images if jnp.issubdtype(images.dtype, jnp.floating) else images.astype(jnp.float32)


def _check_range(name: str, values: tuple[float, float], greatest: float) -> None:
    low, high = values
    if not 0 < low <= high <= greatest:
        raise InputError(f"{name}={values} is not a range (low, high) within 0 to {greatest}")


def _random_boxes(
    key: Array, aspect: Float[Array, "n"], scale: tuple[float, float], ratio: tuple[float, float], attempts: int = 10
) -> tuple[Array, Array, Array, Array]:
    """``(top, left, height, width)`` as fractions of the image's sides, ``[n]`` each."""
    # One draw for all: compiling random bits is what takes the time.
    uniform = jax.random.uniform(key, (2 * attempts + 2, aspect.shape[0]))
    area = aspect * (scale[0] + (scale[1] - scale[0]) * uniform[:attempts])
    ratios = ratio[0] * jnp.exp(np.log(ratio[1] / ratio[0]) * uniform[attempts:-2])
    # In units of the image's height: it is `aspect` wide and 1 high.
    widths, heights = jnp.sqrt(area * ratios) / aspect, jnp.sqrt(area / ratios)
    fits = (widths <= 1) & (heights <= 1)
    first = fits.argmax(0), jnp.arange(aspect.shape[0])
    width = jnp.where(fits.any(0), widths[first], jnp.minimum(1, ratio[1] / aspect))
    height = jnp.where(fits.any(0), heights[first], jnp.minimum(1, aspect / ratio[0]))
    # The largest central box where none of the draws fits.
    top, left = jnp.where(fits.any(0), uniform[-2:], 0.5)
    return top * (1 - height), left * (1 - width), height, width


def _inside(boxes: tuple[Array, Array, Array, Array], height: int, width: int) -> Bool[Array, "n h w"]:
    """The pixels whose centres lie in the box."""
    top, left, box_height, box_width = (side[:, None] for side in boxes)
    rows, columns = ((jnp.arange(size) + 0.5) / size for size in (height, width))
    inside_rows = (rows >= top) & (rows < top + box_height)
    inside_columns = (columns >= left) & (columns < left + box_width)
    return inside_rows[:, :, None] & inside_columns[:, None, :]

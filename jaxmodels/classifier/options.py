"""What a classifier is trained with: every option of ``jaxmodels train``, with its default."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from jaxmodels.core import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of a training run; the docstring of each is its help on the command line."""

    model: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet50"
    """Architecture of the backbone."""
    variant: Literal["v1.5", "v1"] = "v1.5"
    """Where a bottleneck strides: in its 3x3 convolution (v1.5) or its first 1x1 (v1)."""
    weights: str | None = None
    """Published weights (.pth in torchvision's layout). Without them the network is trained from scratch."""
    head: Literal["linear", "dense"] = "linear"
    """What stands on the backbone: Dense(classes), or Dense(256), relu, Dense(classes)."""
    pooling: Literal["average", "flatten"] = "average"
    """What the head sees: the average over the last feature map, or all of it."""
    frozen_epochs: int | None = None
    """Epochs that train the head alone, before everything is trained. Default: all of them, where weights are given."""
    backbone_rate: float = 0.1
    """After the frozen epochs, learning rate of the pretrained backbone over that of the head."""

    image_size: int = 224
    """Side of the square that the network sees, in pixels."""
    batch_size: int = 32
    """Images in a step."""
    epochs: int = 100
    """Passes over the training images."""
    steps: int | None = None
    """Steps to train for, rounded up to whole epochs, in place of --epochs."""
    validation_fraction: float = 0.2
    """Share of each class held out, where the folder has no train/ and val/."""

    optimizer: Literal["sgd", "adam", "adamw", "lamb", "lars"] = "adamw"
    """sgd and lars have momentum 0.9."""
    learning_rate: float = 1e-3
    """The highest learning rate, for the head and for training from scratch."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """How the learning rate falls after the warmup."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate rises from 0."""
    weight_decay: float = 1e-4
    """Decay of kernels; biases and norms are left alone."""
    clip: float | None = None
    """Largest global norm of the gradient."""
    accumulate: int = 1
    """Batches averaged into one update."""
    ema: float | None = None
    """Decay of a moving average of the parameters, which is then what is evaluated and kept (0.999, say)."""

    label_smoothing: float = 0.0
    """Share of the target's probability spread over all classes."""
    dropout: float = 0.0
    """Share of the head's inputs (linear) or hidden units (dense) dropped in training."""
    augment: Literal["auto", "always", "never"] = "auto"
    """Random crops and mirroring. auto: the frozen epochs see each image and its mirror image, computed once."""
    crop_scale: float = 0.25
    """Smallest share of the photograph's area that a random crop covers."""
    color_jitter: float = 0.0
    """Strength of random brightness, contrast and saturation."""
    mixup: float = 0.0
    """Alpha of mixup; 0 is off."""
    cutmix: float = 0.0
    """Alpha of CutMix; 0 is off."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters, statistics and loss stay in float32."""
    seed: int = 0
    """Of everything random: the split, the order, the parameters, the augmentation."""


_POSITIVE = (lambda value: value > 0, "must be positive")
_NOT_NEGATIVE = (lambda value: value >= 0, "must not be negative")
_SHARE = (lambda value: 0 <= value < 1, "must be in [0, 1)")
_PART = (lambda value: 0 < value <= 1, "must be in (0, 1]")
_BOUNDS = {
    "image_size": _POSITIVE,
    "batch_size": _POSITIVE,
    "epochs": _POSITIVE,
    "steps": _POSITIVE,
    "learning_rate": _POSITIVE,
    "clip": _POSITIVE,
    "accumulate": _POSITIVE,
    "frozen_epochs": _NOT_NEGATIVE,
    "backbone_rate": _NOT_NEGATIVE,
    "warmup_epochs": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "color_jitter": _NOT_NEGATIVE,
    "mixup": _NOT_NEGATIVE,
    "cutmix": _NOT_NEGATIVE,
    "seed": _NOT_NEGATIVE,
    "label_smoothing": _SHARE,
    "dropout": _SHARE,
    "ema": _SHARE,
    "validation_fraction": _SHARE,
    "crop_scale": _PART,
}


def check(options: Options) -> None:
    """Raise ``InputError`` for values that no run can use; names the option and the fix."""
    for name, (admits, rule) in _BOUNDS.items():
        value = getattr(options, name)
        if value is not None and not admits(value):
            raise InputError(f"--{name.replace('_', '-')}: {rule}, got {value}")
    if options.frozen_epochs and options.weights is None:
        raise InputError("--frozen-epochs: a network without published weights is trained as a whole; add --weights")
    if options.augment == "never" and (options.mixup or options.cutmix):
        raise InputError("--augment never: leaves mixup and cutmix without effect; set them to 0 or allow augmentation")


def as_json(options: Options) -> dict[str, Any]:
    return dataclasses.asdict(options)


def from_json(content: dict[str, Any]) -> Options:
    return Options(**content)


def changed(options: Options) -> dict[str, Any]:
    """The options that differ from their defaults."""
    default = Options()
    return {name: value for name, value in as_json(options).items() if value != getattr(default, name)}

"""The classifier's network: preprocessing, backbone and head as one ``Model``, from its options or from a run.

pixels -> extractor -> features [n, d] -> standardize -> head -> logits [n, k]
"""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmodels import checkpoint, runs, transfer
from jaxmodels.classifier.options import Options
from jaxmodels.core import InputError, Model, PyTree, cached_factory, chain, stateless
from jaxmodels.networks import resnet
from jaxmodels.preprocess.images import Preprocess


class Classifier(NamedTuple):
    """A trained classifier of photographs."""

    model: Model
    """uint8 or float pixels in [0, 255] ``[n, s, s, 3]`` -> logits ``[n, k]``."""
    params: PyTree
    state: PyTree
    classes: tuple[str, ...]
    preprocess: Preprocess
    """Its ``image_size`` and ``resize_size`` say how photographs become the model's pixels."""
    options: Options


@cached_factory
def extractor(options: Options, preprocess: Preprocess) -> Model:
    """Pixels -> features ``[n, d]``: what pretrained weights fill and what frozen epochs leave alone."""
    architecture = getattr(resnet, options.model)
    dtype = jnp.dtype(options.precision)
    if options.pooling == "average":
        backbone = architecture(num_classes=0, variant=options.variant, dtype=dtype)
        return chain(stateless(preprocess), backbone)
    maps = architecture(num_classes=0, variant=options.variant, dtype=dtype, features=("stage4",))
    return chain(stateless(preprocess), maps, stateless(_last_map), transfer.flatten())


def _last_map(outputs: dict[str, jax.Array]) -> jax.Array:
    return outputs["stage4"].astype(jnp.float32)


def head(options: Options, num_classes: int) -> Model:
    """Features -> logits."""
    return transfer.head(options.head, num_classes=num_classes, dropout=options.dropout)


@cached_factory
def whole(options: Options, preprocess: Preprocess, num_classes: int) -> Model:
    """Pixels -> logits; the constants of ``standardize`` are read from its state."""
    width = num_features(options, preprocess)
    standard = transfer.standardize(jnp.zeros(width), jnp.ones(width))
    return chain(extractor(options, preprocess), standard, head(options, num_classes))


@cached_factory
def num_features(options: Options, preprocess: Preprocess) -> int:
    """Columns of the extractor's features."""
    body = extractor(options, preprocess)

    def features(key, pixels):
        return body.apply(*body.init(key, pixels), pixels)[0]

    return jax.eval_shape(features, jax.random.key(0), one_image(options)).shape[1]


def one_image(options: Options) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a batch of one."""
    return jax.ShapeDtypeStruct((1, options.image_size, options.image_size, 3), jnp.uint8)


def save(run: runs.Run, params: PyTree, state: PyTree) -> None:
    """Write the trained network of a run."""
    checkpoint.save(run.model, (params, state))


def load(path: str | pathlib.Path) -> Classifier:
    """The classifier that a run left.

    Raises:
      InputError: no run there, one that has not finished, or one that is damaged.
    """
    run, config = runs.open_run(path)
    if not checkpoint.exists(run.model):
        raise InputError(f"run: {run.path} has no trained model yet; finish it with jaxmodels train ... --resume")
    options, preprocess, classes = read_config(run, config)
    model = whole(options, preprocess, len(classes))
    like = jax.eval_shape(lambda key: model.init(key, one_image(options)), jax.random.key(0))
    params, state = checkpoint.restore(run.model, like)
    return Classifier(model, params, state, classes, preprocess, options)


def read_config(run: runs.Run, config: dict[str, Any]) -> tuple[Options, Preprocess, tuple[str, ...]]:
    """Options, preprocessing and classes of a run's config."""
    try:
        options = Options(**config["options"])
        preprocess = {name: _hashable(value) for name, value in config["preprocess"].items()}
        return options, Preprocess(**preprocess), tuple(config["classes"])
    except (KeyError, TypeError) as error:
        raise InputError(f"run: {run.config} is not a classifier's ({error}); train it again") from error


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value

"""Residual networks: ``x <- relu(x + f(x))``, with ``f`` two 3x3 convolutions or a 1x1, 3x3, 1x1 bottleneck.

    model = resnet50(num_classes=1000)
    params, state = model.init(key, images)                                    # float images [n, h, w, 3], normalised
    logits, state = model.apply(params, state, images, train=True)             # state: running batch statistics
    predict = inference(model, params, state)                                  # compiled, batch norms folded

Paddings are explicit and those of the original (a stride-2 3x3 pads one pixel on each side, where SAME would pad one
side only), so that published weights compute what they were trained to compute. Layout NHWC, kernels HWIO.

Sources: He et al. (2016), Deep residual learning for image recognition, table 1 (variant "v1"); Goyal et al. (2017),
Accurate, large minibatch SGD, section 5.1 (stride in the 3x3, "v1.5"; zero-initialised residuals).
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxmodels.core import InputError, Model, PyTree, fold_model
from jaxmodels.networks.initial import draw
from jaxmodels.networks.layers import batch_norm, convolve, max_pool, rectify, standardise, suits_products

FEATURES = ("stem", "stage1", "stage2", "stage3", "stage4", "pooled")
_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_WIDTHS = (64, 128, 256, 512)


class _Settings(NamedTuple):
    """What every layer of a network shares."""

    variant: str
    momentum: float
    epsilon: float
    dtype: Any
    precision: Any
    native: bool | None
    folded: bool
    param_dtype: Any = None

    @property
    def products(self) -> bool:
        """Whether layers compute by products what this backend does slowly otherwise; asked while tracing."""
        return suits_products() if self.native is None else not self.native


class _ConvNorm(nn.Module):
    """Convolution without bias, then batch normalisation; folded: convolution with bias."""

    features: int
    size: int
    stride: int
    settings: _Settings

    @nn.compact
    def __call__(self, inputs, shares):
        dtype, param_dtype = self.settings.dtype or inputs.dtype, self.settings.param_dtype
        shape = (self.size, self.size, inputs.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.zeros, shape, param_dtype)
        outputs = convolve(
            inputs.astype(dtype),
            kernel.astype(dtype),
            stride=self.stride,
            precision=self.settings.precision,
            products=self.settings.products,
        )
        bias = self.param("bias", nn.initializers.zeros, (self.features,), param_dtype)
        if self.settings.folded:
            return outputs + bias.astype(dtype)
        scale = self.param("scale", nn.initializers.ones, (self.features,), param_dtype)
        return self._normalise(outputs, scale, bias, shares)

    def _normalise(self, inputs, scale, bias, shares):
        """By the running statistics, or in training by the batch's, which then enter the running ones."""
        mean = self.variable("batch_stats", "mean", jnp.zeros, (self.features,), scale.dtype)
        variance = self.variable("batch_stats", "var", jnp.ones, (self.features,), scale.dtype)
        if shares is None:
            return standardise(inputs, mean.value, variance.value, scale, bias, self.settings.epsilon)
        outputs, *moments = batch_norm(inputs, scale, bias, shares, self.settings.epsilon, self.settings.products)
        keep = jnp.where(shares.sum() > 0, self.settings.momentum, 1.0)  # a batch of padding alone changes nothing
        mean.value, variance.value = (
            keep * old.value + (1 - keep) * new for old, new in zip((mean, variance), moments, strict=True)
        )
        return outputs


class _Block(nn.Module):
    """One residual block; the shortcut is a 1x1 convolution where the shape changes."""

    width: int
    stride: int
    bottleneck: bool
    settings: _Settings

    @nn.compact
    def __call__(self, inputs, shares):
        layer = functools.partial(_ConvNorm, settings=self.settings)
        features = self.width * (4 if self.bottleneck else 1)
        if self.bottleneck:
            strides = (self.stride, 1, 1) if self.settings.variant == "v1" else (1, self.stride, 1)
            plan = zip((self.width, self.width, features), (1, 3, 1), strides, strict=True)
        else:
            plan = zip((self.width, features), (3, 3), (self.stride, 1), strict=True)
        outputs, shortcut = inputs, inputs
        layers = [layer(*each, name=f"conv{index}") for index, each in enumerate(plan, start=1)]
        for each in layers[:-1]:
            outputs = nn.relu(each(outputs, shares))
        outputs = layers[-1](outputs, shares)
        if inputs.shape != outputs.shape:
            shortcut = layer(features, 1, self.stride, name="shortcut")(inputs, shares)
        return rectify(outputs + shortcut, products=self.settings.products)


class _ResNet(nn.Module):
    depth: int
    num_classes: int
    stem: str
    dropout: float
    features: tuple[str, ...]
    settings: _Settings

    @nn.compact
    def __call__(self, inputs, shares=None):
        """``shares`` ``[n]`` of the images in the batch's statistics; ``None``: inference."""
        found, dtype = {}, _wide(inputs.dtype)
        settings = self.settings._replace(param_dtype=dtype)
        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        stem = _ConvNorm(_WIDTHS[0], size, stride, settings, name="stem")
        outputs = found["stem"] = nn.relu(stem(inputs, shares))
        if self.stem == "imagenet":
            outputs = max_pool(outputs)
        for stage, (width, count) in enumerate(zip(_WIDTHS, _STAGES[self.depth], strict=True), start=1):
            for block in range(1, count + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                name = f"stage{stage}_block{block}"
                outputs = _Block(width, stride, self.depth >= 50, settings, name=name)(outputs, shares)
            found[f"stage{stage}"] = outputs
        outputs = found["pooled"] = outputs.astype(dtype).mean(axis=(1, 2))
        if self.features:
            return {name: found[name].astype(dtype) for name in self.features}
        outputs = nn.Dropout(self.dropout, deterministic=shares is None)(outputs)
        if self.num_classes == 0:
            return outputs
        head = nn.Dense(self.num_classes, name="head", precision=settings.precision, param_dtype=dtype)
        return head(outputs)


def resnet(
    depth: int,
    num_classes: int = 1000,
    *,
    variant: str = "v1.5",
    stem: str = "imagenet",
    momentum: float = 0.9,
    epsilon: float = 1e-5,
    zero_init_residual: bool = True,
    dropout: float = 0.0,
    dtype: Any = None,
    precision: Any = None,
    features: tuple[str, ...] = (),
    native: bool | None = None,
) -> Model:
    """A residual network; ``resnet18``, ``34``, ``50``, ``101`` and ``152`` are this with the depth filled in.

    Args:
      depth: 18, 34, 50, 101 or 152.
      num_classes: logits an image; 0: no head, the outputs are the pooled features (512 or 2048).
      variant: a bottleneck's stride is in its 3x3 convolution ("v1.5", torchvision and timm) or in its first 1x1
        ("v1", the paper and Keras).
      stem: "imagenet": 7x7 convolution and max-pool, both of stride 2; "small": one 3x3 of stride 1, for images
        below some 64 pixels.
      momentum: of the running statistics, ``running <- momentum running + (1 - momentum) batch`` (torch's 0.1 is 0.9).
      epsilon: added to the variance.
      zero_init_residual: start every block as the identity, by a scale of 0 in its last normalisation.
      dropout: share of the pooled features dropped in training, before the head.
      dtype: of the computation, bfloat16 say; parameters, statistics and outputs stay in float32. Default: that of
        the inputs.
      precision: ``jax.lax.Precision`` of convolutions and head.
      features: names among ``FEATURES``; the outputs are then a dict of these.
      native: ``True`` leaves every convolution and sum to the backend; say it to export for a GPU from a CPU.
        ``False`` computes the same with matrix products where XLA:CPU needs them to be fast. Default: that on a CPU.

    Returns:
      ``Model`` from normalised float images ``[n, h, w, 3]``, of any size, to logits ``[n, num_classes]``;
      ``state`` is ``{"batch_stats": ...}``. In training an image counts in the statistics by its weight, and one of
      weight 0 not at all. The same arguments give the same ``Model``, which compiles once. ``train=True`` has no
      forward-mode derivative of its own (``jax.jvp``; ``jvp`` of ``grad`` works).

    Raises:
      InputError: an argument outside what is said above; images of the wrong rank, channels or dtype.

    >>> images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    >>> params, state = resnet50(num_classes=1000).init(jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    25557032
    """
    _check_names(depth=depth, variant=variant, stem=stem, features=features)
    if native not in (True, False, None):
        raise InputError(f"native: needs True, False or None, got {native!r}")
    _check_numbers(num_classes=num_classes, momentum=momentum, epsilon=epsilon, dropout=dropout)
    settings = _Settings(variant, momentum, epsilon, _floating(dtype), _precision(precision), native, folded=False)
    module = _ResNet(depth, num_classes, stem, dropout, tuple(features), settings, parent=None)
    return _model(module, bool(zero_init_residual))  # pyright: ignore[reportArgumentType]: it is hashable


@functools.cache
def _model(module: _ResNet, zero_init_residual: bool) -> Model:
    settings = module.settings
    folded = module.clone(settings=settings._replace(folded=True))

    def init(key, inputs):
        _n, *image_shape = _checked(inputs).shape
        image = jax.ShapeDtypeStruct((1, *image_shape), jax.dtypes.canonicalize_dtype(inputs.dtype))
        shapes = jax.eval_shape(module.init, jax.random.key(0), image)
        statistics = {"mean": jnp.zeros, "var": jnp.ones}
        return draw(key, shapes["params"], zero_init_residual), {
            "batch_stats": jax.tree_util.tree_map_with_path(
                lambda path, leaf: statistics[path[-1].key](leaf.shape, leaf.dtype), shapes["batch_stats"]
            )
        }

    def apply(params, state, inputs, *, train=False, key=None, weights=None):
        inputs = _checked(jnp.asarray(inputs))
        if "batch_stats" not in state:
            raise InputError(f"state: needs the 'batch_stats' that init gave, got {sorted(state)}")
        variables = {"params": params, "batch_stats": state["batch_stats"]}
        if not train:
            return module.apply(variables, inputs), state
        drops = module.dropout > 0 and not module.features
        if drops and key is None:
            raise InputError("key: dropout needs one when train=True; pass key=jax.random.key(seed)")
        inputs, shares = _shared(inputs, weights)
        rngs: Any = {"dropout": key} if drops else {}
        return module.apply(variables, inputs, shares, rngs=rngs, mutable=["batch_stats"])

    @jax.jit
    def folding(params, state):
        return _fold(params, state["batch_stats"], settings)

    def predict(params, inputs):
        return folded.apply({"params": params}, _checked(jnp.asarray(inputs)))

    return Model(init, apply, lambda params, state: (folding(params, state), predict))


def _wide(dtype: Any) -> Any:
    """What parameters, statistics and outputs have: float32, or float64 for float64."""
    return jnp.promote_types(dtype, jnp.float32)


def _shared(inputs: Array, weights: Any) -> tuple[Array, Array]:
    """Images, zeros for padding (a NaN there would spread), and each one's share of the statistics."""
    n, dtype = inputs.shape[0], _wide(inputs.dtype)
    if weights is None:
        return inputs, jnp.full(n, 1 / max(n, 1), dtype)
    weights = jnp.asarray(weights, dtype)
    if weights.shape != (n,):
        raise InputError(f"weights: needs one an image, {(n,)}, got {weights.shape}")
    kept = (weights > 0)[:, None, None, None]
    return jnp.where(kept, inputs, 0), weights / jnp.maximum(weights.sum(), jnp.finfo(dtype).tiny)


resnet18 = functools.partial(resnet, 18)
resnet34 = functools.partial(resnet, 34)
resnet50 = functools.partial(resnet, 50)
resnet101 = functools.partial(resnet, 101)
resnet152 = functools.partial(resnet, 152)


def inference(
    model: Model, params: PyTree, state: PyTree, *, fast: bool = True
) -> Callable[[Float[Array, "n h w c"]], Array]:
    """The fastest compiled ``inputs -> outputs`` of a model that is no longer trained.

    Batch norms are folded into the convolutions before them. Works for every ``Model``: what cannot be folded runs
    as it is. Calling this again with other values of the same model does not compile again.

    Args:
      fast: ``False`` compiles ``model.apply`` as it stands, for comparison.

    >>> from jaxmodels import mlp
    >>> model = mlp.model(num_outputs=2)
    >>> inference(model, *model.init(jax.random.key(0), jnp.ones((1, 3))))(jnp.ones((5, 3))).shape
    (5, 2)
    """
    if not fast:
        return functools.partial(_compiled(_as_it_stands(model), False), (params, state))
    folded, predict = fold_model(model, params, state)
    return functools.partial(_compiled(predict, True), folded)


@functools.cache
def _as_it_stands(model: Model) -> Callable:
    return lambda values, inputs: model.apply(*values, inputs)[0]


@functools.cache
def _compiled(predict: Callable, fast: bool) -> Callable:
    return jax.jit(predict, compiler_options=compiler_options() if fast else None)


def compiler_options() -> dict[str, str] | None:
    """What convolutions are compiled with on this backend; the one place where that is chosen."""
    # XLA:CPU hands convolutions to YNNPACK, which is slower than its own for them.
    return {"xla_cpu_experimental_ynn_fusion_type": ""} if jax.default_backend() == "cpu" else None


def _fold(params: PyTree, statistics: PyTree, settings: _Settings) -> PyTree:
    """``scale (W x - mean) / deviation + bias = (W scale / deviation) x + (bias - mean scale / deviation)``."""
    if "mean" not in statistics:
        return {
            name: _fold(part, statistics[name], settings) if name in statistics else part
            for name, part in params.items()
        }
    factor = params["scale"] * lax.rsqrt(statistics["var"] + settings.epsilon)
    kernel, bias = params["kernel"] * factor, params["bias"] - statistics["mean"] * factor
    dtype = settings.dtype or kernel.dtype
    return {"kernel": kernel.astype(dtype), "bias": bias.astype(dtype)}


def _check_names(*, depth: Any, variant: Any, stem: Any, features: Any) -> None:
    options = (
        ("depth", depth, tuple(_STAGES)),
        ("variant", variant, ("v1.5", "v1")),
        ("stem", stem, ("imagenet", "small")),
    )
    for name, value, known in options:
        if value not in known:
            raise InputError(f"{name}: {value!r} is none of {', '.join(map(str, known))}")
    if not isinstance(features, (tuple, list)) or not all(name in FEATURES for name in features):
        raise InputError(f"features: {features!r} must be a tuple of names among {', '.join(FEATURES)}")


def _check_numbers(*, num_classes: Any, momentum: Any, epsilon: Any, dropout: Any) -> None:
    if not isinstance(num_classes, numbers.Integral) or num_classes < 0:
        raise InputError(f"num_classes: needs a whole number, or 0 for no head, got {num_classes!r}")
    ranges = (
        ("momentum", momentum, lambda value: 0 <= value <= 1, "a number in [0, 1]"),
        ("epsilon", epsilon, lambda value: 0 < value < math.inf, "a number above 0"),
        ("dropout", dropout, lambda value: 0 <= value < 1, "a share in [0, 1)"),
    )
    for name, value, admits, need in ranges:
        if not isinstance(value, numbers.Real) or not admits(value):
            raise InputError(f"{name}: needs {need}, got {value!r}")


def _floating(dtype: Any) -> Any:
    try:
        known = None if dtype is None else jnp.dtype(dtype)
    except TypeError:
        known = jnp.dtype(bool)
    if known is not None and not jnp.issubdtype(known, jnp.floating):
        raise InputError(f"dtype: needs a floating one, jnp.bfloat16 say, got {dtype!r}")
    return known


def _precision(precision: Any) -> lax.Precision | None:
    try:
        return None if precision is None else lax.Precision(precision)
    except ValueError:
        raise InputError(
            f"precision: needs a jax.lax.Precision ('default', 'high', 'highest'), got {precision!r}"
        ) from None


def _checked(inputs: Any) -> Any:
    if len(inputs.shape) != 4 or inputs.shape[-1] != 3 or 0 in inputs.shape[1:]:
        raise InputError(f"inputs: a ResNet needs images [n, h, w, 3], got {tuple(inputs.shape)}")
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise InputError(
            f"inputs: a ResNet needs normalised floats, got {inputs.dtype}; put the preprocessing in front"
        )
    return inputs

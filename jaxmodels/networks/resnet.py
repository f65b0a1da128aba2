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
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxmodels.core import InputError, Model, PyTree, cached_factory, fold_model

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
    folded: bool


class _ConvNorm(nn.Module):
    """Convolution without bias, then batch normalisation; folded: convolution with bias."""

    features: int
    size: int
    stride: int
    settings: _Settings

    @nn.compact
    def __call__(self, inputs, train, weights):
        dtype = self.settings.dtype or inputs.dtype
        param_dtype = jnp.promote_types(inputs.dtype, jnp.float32)
        shape = (self.size, self.size, inputs.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.zeros, shape, param_dtype)
        outputs = _convolve(inputs.astype(dtype), kernel.astype(dtype), self.stride, self.settings.precision)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), param_dtype)
        if self.settings.folded:
            return outputs + bias.astype(dtype)
        scale = self.param("scale", nn.initializers.ones, (self.features,), param_dtype)
        return self._normalise(outputs, scale, bias, train, weights)

    def _normalise(self, inputs, scale, bias, train, weights):
        """``scale (x - mean) / sqrt(variance + epsilon) + bias`` (Ioffe and Szegedy 2015), in float32 at least."""
        wide = inputs.astype(scale.dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (self.features,), scale.dtype)
        variance = self.variable("batch_stats", "var", jnp.ones, (self.features,), scale.dtype)
        used = (mean.value, variance.value)
        if train:
            used = _moments(wide, weights)
            if not self.is_initializing():
                keep = self.settings.momentum
                mean.value = keep * mean.value + (1 - keep) * used[0]
                variance.value = keep * variance.value + (1 - keep) * used[1]
        factor = scale * lax.rsqrt(used[1] + self.settings.epsilon)
        return ((wide - used[0]) * factor + bias).astype(inputs.dtype)


def _convolve(inputs, kernel, stride, precision):
    padding = (kernel.shape[0] - 1) // 2
    return lax.conv_general_dilated(
        inputs,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def _moments(inputs, weights):
    """Mean and variance of a channel over the rows of weight above 0, in two passes.

    The variance divides by the count, as Flax's does; torch keeps count / (count - 1) of it in its running average.
    """
    n, height, width, _ = inputs.shape
    weights = jnp.ones(n, inputs.dtype) if weights is None else weights.astype(inputs.dtype)
    share = (weights / (jnp.maximum(weights.sum(), 1e-30) * height * width))[:, None, None, None]
    mean = jnp.sum(share * inputs, axis=(0, 1, 2))
    return mean, jnp.sum(share * (inputs - mean) ** 2, axis=(0, 1, 2))


def _max_pool(inputs):
    """3x3, stride 2, one pixel of minus infinity around."""
    window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return lax.reduce_window(inputs, -jnp.inf, lax.max, window, strides, padding)


class _Block(nn.Module):
    """One residual block; the shortcut is a 1x1 convolution where the shape changes."""

    width: int
    stride: int
    bottleneck: bool
    settings: _Settings

    @nn.compact
    def __call__(self, inputs, train, weights):
        layer = functools.partial(_ConvNorm, settings=self.settings)
        features = self.width * (4 if self.bottleneck else 1)
        if self.bottleneck:
            first = self.settings.variant == "v1"
            strides = (self.stride, 1, 1) if first else (1, self.stride, 1)
            plan = zip((self.width, self.width, features), (1, 3, 1), strides, strict=True)
        else:
            plan = zip((self.width, features), (3, 3), (self.stride, 1), strict=True)
        outputs, shortcut = inputs, inputs
        layers = [layer(*each, name=f"conv{index}") for index, each in enumerate(plan, start=1)]
        for each in layers[:-1]:
            outputs = nn.relu(each(outputs, train, weights))
        outputs = layers[-1](outputs, train, weights)
        if inputs.shape != outputs.shape:
            shortcut = layer(features, 1, self.stride, name="shortcut")(inputs, train, weights)
        return nn.relu(outputs + shortcut)


class _ResNet(nn.Module):
    depth: int
    num_classes: int
    stem: str
    dropout: float
    features: tuple[str, ...]
    settings: _Settings

    @nn.compact
    def __call__(self, inputs, train=False, weights=None):
        found = {}
        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        stem = _ConvNorm(_WIDTHS[0], size, stride, self.settings, name="stem")
        outputs = found["stem"] = nn.relu(stem(inputs, train, weights))
        if self.stem == "imagenet":
            outputs = _max_pool(outputs)
        for stage, (width, count) in enumerate(zip(_WIDTHS, _STAGES[self.depth], strict=True), start=1):
            for block in range(1, count + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                name = f"stage{stage}_block{block}"
                outputs = _Block(width, stride, self.depth >= 50, self.settings, name=name)(outputs, train, weights)
            found[f"stage{stage}"] = outputs
        wide = outputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))
        outputs = found["pooled"] = wide.mean(axis=(1, 2))
        if self.features:
            return {name: found[name] for name in self.features}
        if self.num_classes == 0:
            return outputs
        outputs = nn.Dropout(self.dropout, deterministic=not train)(outputs)
        return nn.Dense(self.num_classes, name="head", precision=self.settings.precision, param_dtype=outputs.dtype)(
            outputs
        )


@cached_factory
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
      dropout: share of the pooled features dropped before the head in training.
      dtype: of the computation, bfloat16 say; parameters, statistics and outputs stay in float32. Default: that of
        the inputs.
      precision: ``jax.lax.Precision`` of convolutions and head.
      features: names among ``FEATURES``; the outputs are then a dict of these.

    Returns:
      ``Model`` from normalised float images ``[n, h, w, 3]``, of any size, to logits ``[n, num_classes]``;
      ``state`` is ``{"batch_stats": ...}``. In training, rows of weight 0 are left out of the statistics.

    Raises:
      InputError: an unknown depth, variant, stem or feature; images of the wrong rank, channels or dtype.

    >>> images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    >>> params, state = resnet50(num_classes=1000).init(jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    25557032
    """
    _check(depth, variant, stem, features, dropout)
    settings = _Settings(variant, momentum, epsilon, None if dtype is None else jnp.dtype(dtype), precision, False)
    module = _ResNet(depth, num_classes, stem, dropout, features, settings)
    folded = module.clone(settings=settings._replace(folded=True))

    def init(key, inputs):
        image = jax.ShapeDtypeStruct((1, *_checked(inputs).shape[1:]), inputs.dtype)
        shapes = jax.eval_shape(module.init, jax.random.key(0), image)
        params = _draw(key, shapes["params"], zero_init_residual)
        statistics = {"mean": jnp.zeros, "var": jnp.ones}
        return params, {
            "batch_stats": jax.tree_util.tree_map_with_path(
                lambda path, leaf: statistics[path[-1].key](leaf.shape, leaf.dtype), shapes["batch_stats"]
            )
        }

    def apply(params, state, inputs, *, train=False, key=None, weights=None):
        variables = {"params": params, **state}
        if not train:
            return module.apply(variables, _checked(inputs)), state
        if dropout and key is None:
            raise InputError("key: dropout needs one when train=True; pass key=jax.random.key(seed)")
        rngs = {"dropout": key} if dropout else {}
        return module.apply(variables, _checked(inputs), True, weights, rngs=rngs, mutable=["batch_stats"])

    def fold(params, state):
        return _fold(params, state["batch_stats"], epsilon), predict

    def predict(params, inputs):
        return folded.apply({"params": params}, _checked(inputs))

    return Model(init, apply, fold)


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


def _draw(key: Array, shapes: PyTree, zero_init_residual: bool) -> PyTree:
    """Initial parameters, cut from one vector of normal deviates: compiling a draw a layer would take 20 s.

    Kernels have variance 2 / fan_out (He et al. 2015, as torchvision), the head 1 / fan_in; scales are 1, biases 0.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    total = sum(leaf.size for path, leaf in leaves if path[-1].key == "kernel")
    deviates = jax.random.normal(key, (total,), leaves[0][1].dtype)
    if not isinstance(deviates, jax.core.Tracer):
        deviates = np.asarray(deviates)  # cutting views on the host compiles nothing
    start, drawn = 0, []
    for path, leaf in leaves:
        layer, name = path[-2].key, path[-1].key
        if name == "kernel":
            part = deviates[start : start + leaf.size].reshape(leaf.shape)
            fan = leaf.shape[0] if layer == "head" else leaf.size // leaf.shape[2] / 2
            drawn.append(jnp.asarray(part * np.asarray(math.sqrt(1 / fan), leaf.dtype)))
            start += leaf.size
        elif name == "scale" and not (zero_init_residual and _ends_block(shapes, path)):
            drawn.append(jnp.ones(leaf.shape, leaf.dtype))
        else:
            drawn.append(jnp.zeros(leaf.shape, leaf.dtype))
    return jax.tree.unflatten(structure, drawn)


def _ends_block(shapes: PyTree, path: tuple) -> bool:
    """Whether a leaf belongs to the last convolution of a residual branch."""
    block, layer = path[0].key, path[1].key
    return block.startswith("stage") and layer == max(name for name in shapes[block] if name != "shortcut")


def _fold(params: PyTree, statistics: PyTree, epsilon: float) -> PyTree:
    """``scale (W x - mean) / deviation + bias = (W scale / deviation) x + (bias - mean scale / deviation)``."""
    if "mean" not in statistics:
        return {
            name: _fold(part, statistics[name], epsilon) if name in statistics else part
            for name, part in params.items()
        }
    factor = params["scale"] * lax.rsqrt(statistics["var"] + epsilon)
    return {"kernel": params["kernel"] * factor, "bias": params["bias"] - statistics["mean"] * factor}


def _check(depth: int, variant: str, stem: str, features: tuple[str, ...], dropout: float) -> None:
    options = (
        ("depth", depth, tuple(_STAGES)),
        ("variant", variant, ("v1.5", "v1")),
        ("stem", stem, ("imagenet", "small")),
    )
    for name, value, known in options:
        if value not in known:
            raise InputError(f"{name}: {value!r} is none of {', '.join(map(str, known))}")
    if isinstance(features, str) or not set(features) <= set(FEATURES):
        raise InputError(f"features: {features!r} must be a tuple of names among {', '.join(FEATURES)}")
    if not 0 <= dropout < 1:
        raise InputError(f"dropout: needs a share in [0, 1), got {dropout}")


def _checked(inputs: Any) -> Any:
    if len(inputs.shape) != 4 or inputs.shape[-1] != 3 or 0 in inputs.shape[1:]:
        raise InputError(f"inputs: a ResNet needs images [n, h, w, 3], got {tuple(inputs.shape)}")
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise InputError(
            f"inputs: a ResNet needs normalised floats, got {inputs.dtype}; put the preprocessing in front"
        )
    return inputs

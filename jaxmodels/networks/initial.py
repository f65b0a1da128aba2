"""Initial parameters of a residual network.

    kernels ~ normal(0, 2 / fan_out),  the head's ~ normal(0, 1 / fan_in),  scales 1 (or 0 at a block's end),  biases 0

Sources: He et al. (2015), Delving deep into rectifiers, section 2.2, by fan_out as torchvision; Goyal et al. (2017),
Accurate, large minibatch SGD, section 5.1.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from jaxmodels.core import PyTree


def draw(key: Array, shapes: PyTree, zero_init_residual: bool) -> PyTree:
    """Parameters of these shapes, cut from one vector of normal deviates: compiling a draw a layer would take 20 s."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    total = sum(leaf.size for path, leaf in leaves if path[-1].key == "kernel")
    deviates = jax.random.normal(key, (total,), leaves[0][1].dtype)
    if not isinstance(deviates, Tracer):
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

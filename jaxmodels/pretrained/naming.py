"""Whose weights a file holds: torchvision's names for a ResNet's tensors, beside ours.

    conv1.weight [64, 3, 7, 7]           ->  params/stem/kernel [7, 7, 3, 64]
    bn1.running_mean [64]                ->  batch_stats/stem/mean [64]
    layer3.0.downsample.1.running_var    ->  batch_stats/stage3_block1/shortcut/var

timm names them the same; so do checkpoints that put a prefix before them (``module.``, ``state_dict.backbone.``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.core import PyTree

HEAD = "fc."
_FIRST = "conv1.weight"
# torch counts batches there, and nothing reads the count.
_IGNORED = "num_batches_tracked"
_BATCH_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


class Slot(NamedTuple):
    """A leaf of ours, as the file has it."""

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    """The file's axes in our order."""


class Match(NamedTuple):
    """How the names of a file meet those of a model; all are the file's, with their prefix."""

    prefix: str
    matched: tuple[str, ...]
    """Those that are read."""
    missing: tuple[str, ...]
    """Those that the model needs and the file lacks."""
    misshapen: tuple[str, ...]
    """``name: the file's shape, the model's``."""
    strange: tuple[str, ...]
    """Those within the model's own layers that it has no place for: a deeper or another network."""
    unused: tuple[str, ...]
    """Others behind the same prefix: another head, say."""
    beside: tuple[str, ...]
    """Those without the prefix: an optimizer's, another network's."""


def slots(shapes: PyTree) -> PyTree:
    """A ``Slot`` for every leaf of (params, state), which may be shapes alone."""
    return jax.tree_util.tree_map_with_path(_slot, shapes)


def leaves(slots: PyTree) -> list[Slot]:
    """The slots of a tree of slots."""
    return jax.tree.leaves(slots, is_leaf=is_slot)


def is_slot(node: object) -> bool:
    """For ``jax.tree``'s ``is_leaf``."""
    return isinstance(node, Slot)


def match(found: Mapping[str, np.ndarray], wanted: list[Slot], prefix: str) -> Match:
    """Account for every tensor of a file, and for every slot of a model."""
    matched, missing, misshapen = [], [], []
    for slot in wanted:
        name = prefix + slot.name
        if name not in found:
            missing.append(name)
        elif not jnp.issubdtype(found[name].dtype, jnp.floating):
            misshapen.append(f"{name}: {found[name].dtype}, the model has floats")
        elif found[name].shape != slot.shape:
            misshapen.append(f"{name}: {found[name].shape}, the model has {slot.shape}")
        else:
            matched.append(name)
    known = {prefix + slot.name for slot in wanted}
    own = tuple({prefix + slot.name.split(".")[0] + "." for slot in wanted if not slot.name.startswith(HEAD)})
    rest = [name for name in found if name not in known and not name.endswith(_IGNORED)]
    strange = [name for name in rest if name.startswith(own)]
    unused = [name for name in rest if name.startswith(prefix) and not name.startswith(own)]
    beside = [name for name in rest if not name.startswith(prefix)]
    return Match(prefix, *map(tuple, (matched, missing, misshapen, strange, unused, beside)))


def candidates(found: Mapping[str, np.ndarray], wanted: list[Slot]) -> list[Match]:
    """Matches with every prefix that may be the network's; best first, the file's order where they are equal."""
    prefixes = [name.removesuffix(_FIRST) for name in found if name.endswith(_FIRST)] or [""]
    matches = [match(found, wanted, prefix) for prefix in prefixes]
    return sorted(matches, key=lambda each: (-len(each.matched), len(each.strange)))


def fits(match: Match) -> bool:
    """Whether the file has all that the model needs, and nothing more in the model's own layers."""
    return not (match.missing or match.misshapen or match.strange)


def num_classes(found: Mapping[str, np.ndarray], prefix: str) -> int | None:
    """Classes of the file's head, ``None`` where it has none."""
    kernel = found.get(f"{prefix}{HEAD}weight")
    return kernel.shape[0] if kernel is not None and kernel.ndim == 2 else None


def ours(array: np.ndarray, slot: Slot) -> np.ndarray:
    """A tensor of the file in our axis order and float32, in memory of its own."""
    return np.array(array.transpose(slot.axes), np.float32, order="C")


def _slot(path: tuple, leaf) -> Slot:
    *layers, name = [entry.key for entry in path if hasattr(entry, "key") and entry.key != "batch_stats"]
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(leaf.ndim, tuple(range(leaf.ndim)))
    shape = tuple(leaf.shape[axes.index(axis)] for axis in range(leaf.ndim))
    kind = "weight" if name == "kernel" else _BATCH_NORM[name]
    return Slot(f"{_torch_layer(layers, name == 'kernel')}.{kind}", shape, axes)


def _torch_layer(layers: list[str], is_kernel: bool) -> str:
    """torchvision keeps a convolution and its normalisation apart, where ours are one layer."""
    if layers == ["head"]:
        return "fc"
    if layers == ["stem"]:
        return "conv1" if is_kernel else "bn1"
    stage, block = re.findall(r"\d+", layers[0])
    if layers[1] == "shortcut":
        inside = "downsample.0" if is_kernel else "downsample.1"
    else:
        inside = layers[1] if is_kernel else layers[1].replace("conv", "bn")
    return f"layer{stage}.{int(block) - 1}.{inside}"

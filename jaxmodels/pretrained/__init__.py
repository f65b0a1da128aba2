"""Published weights: a file to ``(model, params, state, preprocess)``, every name accounted for.

model, params, state, preprocess = load("resnet50.pth", model="resnet50", num_classes=0)
features, _ = model.apply(params, state, preprocess(pixels))           # uint8 [n, 224, 224, 3] -> [n, 2048]
print(inspect("resnet50.pth", model="resnet50"))                       # what was read, and what was not
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxmodels.core import InputError, Model, PyTree
from jaxmodels.networks import resnet
from jaxmodels.preprocess.images import IMAGENET, Preprocess
from jaxmodels.pretrained import naming, torch_pickle

__all__ = ["MODELS", "Pretrained", "Report", "inspect", "load"]

MODELS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


class Pretrained(NamedTuple):
    """A network with published weights, and the preprocessing they were trained with."""

    model: Model
    params: PyTree
    state: PyTree
    preprocess: Preprocess


class Report(NamedTuple):
    """How the names of a file meet those of a model; all names are the file's."""

    model: str
    prefix: str
    """What stands before the network's names in the file."""
    other_prefixes: tuple[str, ...]
    """Those that would fit as well: a second network in the file."""
    matched: tuple[str, ...]
    """Names that are read."""
    missing: tuple[str, ...]
    """Names that the model needs and the file lacks."""
    misshapen: tuple[str, ...]
    """``name: the file's shape, the model has its shape``."""
    strange: tuple[str, ...]
    """Names within the model's own layers that it has no place for: a deeper or another network."""
    unused: tuple[str, ...]
    """Other names with the prefix, those of a head that is left out among them."""
    beside: tuple[str, ...]
    """Names without the prefix: an optimizer's, another network's."""
    file_classes: int | None
    """Classes of the file's head, ``None`` where it has none."""
    num_classes: int
    """Classes of the model's head; where the file's are not as many, the head is drawn anew."""

    @property
    def fits(self) -> bool:
        """Whether ``load`` would read the file."""
        return not (self.missing or self.misshapen or self.strange)

    def __str__(self) -> str:
        """One line."""
        parts = [f"{self.model}: {len(self.matched)} tensors read"]
        parts += [f"prefix {self.prefix!r} stripped"] if self.prefix else []
        parts += [f"{', '.join(map(repr, self.other_prefixes))} would fit as well"] if self.other_prefixes else []
        parts += _counted(self, "missing", "misshapen", "strange", "unused", "beside")
        if self.num_classes and self.num_classes != self.file_classes:
            parts += [f"head of {self.num_classes} classes drawn anew (the file's has {self.file_classes or 'none'})"]
        return ", ".join(parts)


def load(
    path: str | os.PathLike,
    *,
    model: str = "resnet50",
    num_classes: int | None = None,
    variant: str = "v1.5",
    prefix: str | None = None,
    strict: bool = False,
    key: Array | None = None,
) -> Pretrained:
    """Read published weights into a model.

    The parameters, float32, fit every ``resnet`` of that depth and head, whatever its ``dtype``, ``dropout`` or
    ``features``.

    Args:
      path: a ``.pth`` or ``.pt`` file with torchvision's names, whatever stands before them and beside them.
      model: one of ``MODELS``.
      num_classes: of the head; 0: features, no head; default: the file's. Where the file's are not as many, its head
        is left out and a new one drawn.
      variant: where the network that was trained strides, "v1.5" (torchvision, timm) or "v1"; a file does not tell.
      prefix: before the network's names in the file; default: that which makes most names match, the first in the
        file where several do.
      strict: refuse a file with more tensors behind the prefix than the model has (its head, where ``num_classes=0``
        leaves it out, apart), and never draw a new head.
      key: draws a new head; default: ``jax.random.key(0)``.

    Returns:
      ``(model, params, state, preprocess)``; ``preprocess`` belongs to the weights: other preprocessing makes them
      wrong. ``inspect`` tells what was read and what was not.

    Raises:
      InputError: the file is none that can be read (``torch_pickle.read``), lacks tensors of the backbone, has them
        in other shapes, or has more of them; says which architecture it looks like.
    """
    found = _tensors(path)
    report = _report(found, model, num_classes, prefix)
    _refuse_misfits(path, found, report)
    if strict:
        _refuse_leftovers(path, report)
    from_file = naming.slots(_shapes(model, report.num_classes if _keeps_head(report) else 0))
    params, state = jax.tree.map(
        lambda slot: jnp.asarray(naming.ours(found[report.prefix + slot.name], slot)), from_file, is_leaf=naming.is_slot
    )
    network = _network(model, report.num_classes, variant)
    if report.num_classes and not _keeps_head(report):
        drawn, _ = network.init(jax.random.key(0) if key is None else key, _IMAGE)
        params = {**params, "head": drawn["head"]}
    return Pretrained(network, params, state, IMAGENET)


def inspect(
    path: str | os.PathLike, *, model: str = "resnet50", num_classes: int | None = None, prefix: str | None = None
) -> Report:
    """How a file's names meet a model's; arguments as ``load``'s.

    Raises:
      InputError: for files that cannot be read, not for those that do not fit.
    """
    return _report(_tensors(path), model, num_classes, prefix)


_IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)


def _network(model: str, num_classes: int, variant: str = "v1.5") -> Model:
    if model not in MODELS:
        raise InputError(f"model: {model!r} is none of {', '.join(MODELS)}")
    return getattr(resnet, model)(num_classes=num_classes, variant=variant)


@functools.cache
def _shapes(model: str, num_classes: int) -> PyTree:
    return jax.eval_shape(lambda key: _network(model, num_classes).init(key, _IMAGE), jax.random.key(0))


def _tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    found = torch_pickle.tensors(torch_pickle.read(path))
    if not found:
        raise InputError(f"weights: {os.fspath(path)!r} holds no named tensors; save the model's state_dict()")
    return found


def _report(found: Mapping[str, np.ndarray], model: str, num_classes: int | None, prefix: str | None) -> Report:
    backbone = naming.leaves(naming.slots(_shapes(model, 0)))
    matches = [naming.match(found, backbone, prefix)] if prefix is not None else naming.candidates(found, backbone)
    best, *others = matches
    file_classes = naming.num_classes(found, best.prefix)
    classes = (file_classes or 0) if num_classes is None else num_classes
    if classes and classes == file_classes:
        best = naming.match(found, naming.leaves(naming.slots(_shapes(model, classes))), best.prefix)
    also = tuple(each.prefix for each in others if naming.fits(each))
    return Report(model, best.prefix, also, *best[1:], file_classes, classes)


def _keeps_head(report: Report) -> bool:
    return report.num_classes == report.file_classes


def _refuse_misfits(path: str | os.PathLike, found: Mapping[str, np.ndarray], report: Report) -> None:
    if report.fits:
        return
    problems = ", ".join(_counted(report, "missing", "misshapen", "strange"))
    alike = [each for each in MODELS if each != report.model and _report(found, each, 0, None).fits]
    if alike:
        hint = f"it looks like {alike[0]}: pass model={alike[0]!r}"
    else:
        hint = f"it is none of {', '.join(MODELS)}; its names begin with {_some(tuple(found))}"
    raise InputError(f"weights: {os.fspath(path)!r} does not fit {report.model}: {problems}; {hint}")


def _refuse_leftovers(path: str | os.PathLike, report: Report) -> None:
    head = report.prefix + naming.HEAD
    extra = tuple(name for name in report.unused if report.num_classes or not name.startswith(head))
    if extra:
        raise InputError(
            f"weights: {os.fspath(path)!r} has {len(extra)} tensors that {report.model} with "
            f"num_classes={report.num_classes} does not ({_some(extra)}); pass strict=False to leave them out"
        )
    if report.num_classes and not _keeps_head(report):
        raise InputError(
            f"weights: {os.fspath(path)!r} has no head, num_classes={report.num_classes} would draw one; "
            "pass strict=False to have it drawn"
        )


def _counted(report: Report, *kinds: str) -> list[str]:
    named = ((kind, getattr(report, kind)) for kind in kinds)
    return [f"{len(names)} {kind} ({_some(names)})" for kind, names in named if names]


def _some(names: Sequence[str]) -> str:
    return "; ".join(names[:3]) + ("; ..." if len(names) > 3 else "")

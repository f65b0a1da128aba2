"""What the target of a table asks of a model, and what a model answers with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxmodels import families, losses
from jaxmodels.core import InputError, PyTree
from jaxmodels.families import Family


class Task(NamedTuple):
    """What is asked of a model."""

    classes: list[str] | None
    """``None``: a regression."""
    family: Family

    @property
    def num_outputs(self) -> int:
        """0 for one number a row, else a logit a class."""
        return 0 if self.classes is None or len(self.classes) == 2 else len(self.classes)

    @property
    def loss(self) -> Callable:
        """``(outputs, targets) -> [n]`` by which a network learns: squared error, or cross-entropy from logits."""
        if self.classes is None:
            return losses.squared_error
        return losses.softmax_cross_entropy if self.num_outputs else losses.sigmoid_cross_entropy


class Fitted(NamedTuple):
    """A fit."""

    params: PyTree
    solution: Any
    """What standard errors are computed from; ``None`` for a model that has none."""
    remark: str | None
    """What a reader of the report must know."""


def task_of(target: np.ndarray, classes: list[str] | None, family: str | None) -> Task:
    """The task that a target sets.

    Raises:
      InputError: a family that does not go with it.
    """
    if classes is not None:
        if family not in (None, "bernoulli", "categorical"):
            raise InputError(f"family: {family!r} is for numbers, but the target holds categories; leave it out")
        return Task(classes, families.bernoulli() if len(classes) == 2 else families.categorical(len(classes)))
    found = families.get("gaussian" if family is None else family)
    outside = ~np.asarray(found.kind.supports(jnp.asarray(target)))
    if outside.any():
        raise InputError(
            f"family: {family!r} does not admit {int(outside.sum())} values of the target, the first "
            f"{target[outside][0]:g}; it needs {found.kind.support}"
        )
    return Task(None, found)

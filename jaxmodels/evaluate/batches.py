"""A model over batches: its metrics in one pass, or its outputs on the host.

``evaluate`` keeps accumulators alone; ``collect`` gathers outputs, targets and weights for reports, curves and plots.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from jaxmodels.core import Batch, InputError, Model, PyTree
from jaxmodels.metrics import Metric


class Collected(NamedTuple):
    """A model's outputs beside what they should be, on the host, in the order of the batches, without padding."""

    outputs: np.ndarray
    """``[n, ...]``."""
    targets: np.ndarray
    """``[n, ...]``."""
    weights: np.ndarray
    """``[n]``."""


def evaluate(
    model: Model, params: PyTree, state: PyTree, batches: Iterable[Batch], metrics: Mapping[str, Metric]
) -> dict[str, Any]:
    """Metrics of a model over batches, in one pass that keeps nothing but the accumulators.

    Args:
      model: its ``apply`` runs with ``train=False``.
      params: its parameters.
      state: its state, which stays unchanged.
      batches: of one shape, the last padded with rows of weight 0; each new shape compiles once more.
      metrics: ``{name: metric}`` of ``jaxmodels.metrics``; the same metrics are compiled once in a process.

    Returns:
      ``{name: value}``: a float where the value is a number, else NumPy arrays.

    Raises:
      InputError: there are no batches.

    >>> import jax.numpy as jnp
    >>> from jaxmodels import metrics
    >>> from jaxmodels.core import stateless
    >>> batch = Batch(jnp.array([2.0, -1.0, 9.0]), jnp.array([1, 1, 0]), jnp.array([1.0, 1.0, 0.0]))
    >>> evaluate(stateless(lambda inputs: inputs), (), {}, [batch], {"accuracy": metrics.accuracy()})
    {'accuracy': 0.5}
    """
    functions = tuple(metrics.items())
    accumulators, count = tuple(metric.init() for _, metric in functions), 0
    for count, batch in enumerate(batches, start=1):  # noqa: B007
        accumulators = _update(model, functions, accumulators, params, state, batch)
    if count == 0:
        raise InputError("batches is empty: give one batch or more (an iterator is used up after one pass)")
    values = {name: metric.compute(acc) for (name, metric), acc in zip(functions, accumulators, strict=True)}
    return jax.tree.map(lambda value: value.item() if value.ndim == 0 else value, jax.device_get(values))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _update(model, functions, accumulators, params, state, batch):
    outputs, _ = model.apply(params, state, batch.inputs, train=False)
    pairs = zip(functions, accumulators, strict=True)
    return tuple(metric.update(acc, outputs, batch) for (_, metric), acc in pairs)


def collect(predict: Callable[[PyTree], Array], batches: Iterable[Batch]) -> Collected:
    """Run a model over batches and gather outputs, targets and weights on the host, padding dropped.

    The device computes a batch while the one before it is fetched.

    Args:
      predict: ``inputs -> outputs``, compiled: what ``resnet.inference`` gives for any model.
      batches: as those of ``evaluate``.

    Raises:
      InputError: there are no batches.

    >>> import jax.numpy as jnp
    >>> batch = Batch(jnp.array([1.0, 2.0]), jnp.array([10.0, 0.0]), jnp.array([1.0, 0.0]))
    >>> collect(lambda inputs: inputs * 2, [batch]).outputs.tolist()
    [2.0]
    """
    rows, running = [], None
    for batch in batches:
        following = (predict(batch.inputs), batch)
        if running is not None:
            rows.append(_fetch(*running))
        running = following
    if running is None:
        raise InputError("batches is empty: give one batch or more (an iterator is used up after one pass)")
    rows.append(_fetch(*running))
    return Collected(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))


def _fetch(outputs: Array, batch: Batch) -> Collected:
    """One batch's rows on the host."""
    targets = np.asarray(batch.targets)
    weights = np.ones(targets.shape[0], np.float32) if batch.weights is None else np.asarray(batch.weights)
    kept = weights != 0
    return Collected(np.asarray(outputs)[kept], targets[kept], weights[kept])

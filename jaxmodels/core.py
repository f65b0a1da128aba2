"""The vocabulary: what a model, a batch, a solution and a training state are.

A model is a pair of pure functions, as an optax transformation is:

    params, state = model.init(key, inputs)
    outputs, state = model.apply(params, state, inputs, train=False, key=None, weights=None)

``params`` is differentiated, ``state`` is carried and never differentiated
(``{}`` for regression and MLPs, batch statistics for ResNets).
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import numpy as np
from jax.core import Tracer

P = ParamSpec("P")
R = TypeVar("R")
PyTree = Any


class InputError(ValueError):
    """What the caller gave cannot be used; the message names it and says the fix, in one line."""


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Python's integer for one of Python, NumPy or jax; raise unless ``value`` is one and not less.

    >>> check_count("batch_size", 2.5)
    Traceback (most recent call last):
    jaxmodels.core.InputError: batch_size: got 2.5, needs an integer of at least 1
    """
    _check_known(name, value)
    try:
        count = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = least - 1
    if count < least:
        raise InputError(f"{name}: got {value!r}, needs an integer of at least {least}")
    return count


def check_positive(name: str, value: Any, unit: str = "number") -> float:
    """Python's number for one of Python, NumPy or jax; raise unless ``value`` is one and above 0.

    >>> check_positive("tolerance", 0.0, "number of standard errors")
    Traceback (most recent call last):
    jaxmodels.core.InputError: tolerance: got 0.0, needs a number of standard errors above 0
    """
    _check_known(name, value)
    number = np.asarray(value if np.isscalar(value) or isinstance(value, np.ndarray | jax.Array) else "")
    if number.shape or number.dtype.kind not in "fiu" or not number > 0:
        raise InputError(f"{name}: got {value!r}, needs a {unit} above 0")
    return float(number)


def _check_known(name: str, value: Any) -> None:
    if isinstance(value, Tracer):
        raise InputError(f"{name}: got a traced value, needs a number that is known when the program is compiled")


class Model(NamedTuple):
    """A pair of pure functions; the twin of optax's ``(init, update)``."""

    init: Callable[..., tuple[PyTree, PyTree]]
    """``(key, inputs) -> (params, state)``; ``inputs`` ``[n, ...]`` gives shapes and dtypes only."""
    apply: Callable[..., tuple[PyTree, PyTree]]
    """``(params, state, inputs, *, train=False, key=None, weights=None) -> (outputs, state)``.

    ``train=False`` returns ``state`` unchanged. ``key`` and ``weights`` ``[n]`` are used only when
    ``train=True``: dropout draws from the one, batch statistics leave out rows where the other is 0."""
    fold: Callable[[PyTree, PyTree], tuple[PyTree, Callable]] | None = None
    """``(params, state) -> (folded, predict)`` for inference alone: ``predict(folded, inputs)``
    computes ``apply(..., train=False)``'s outputs with less work (batch norms folded into
    convolutions). ``None``: there is nothing to fold."""


class Batch(NamedTuple):
    """Examples that travel together; a row of weight 0 is padding and changes nothing."""

    inputs: PyTree
    """``[n, ...]``."""
    targets: PyTree
    """``[n, ...]``."""
    weights: Any = None
    """``[n]``, or ``None`` for all ones."""


class TrainState(NamedTuple):
    """All that training carries, as one pytree to save, shard and donate."""

    step: jax.Array
    """int32 ``[]``: optimizer steps taken."""
    params: PyTree
    state: PyTree
    opt_state: PyTree
    key: jax.Array
    """The run's key; the key of a step is ``fold_in(key, step)``."""


class Status(IntEnum):
    """How a fit ended, one value a lane; ``advice`` says what to do about it."""

    ok = 0
    max_steps = 1
    nonfinite = 2
    rank_deficient = 3
    underdetermined = 4
    separated = 5
    stalled = 6
    invalid_input = 7

    @property
    def advice(self) -> str:
        return _ADVICE[self]


_ADVICE = {
    Status.ok: "converged",
    Status.max_steps: "stopped before it converged: raise max_steps, scale the columns or start closer",
    Status.nonfinite: "met NaN or infinity: look for them in the data, or mask or impute those rows",
    Status.rank_deficient: "columns depend on each other: drop some, or add a penalty (l2)",
    Status.underdetermined: "fewer rows than coefficients: add rows, drop columns or add a penalty (l2)",
    Status.separated: "the classes are separated, so no finite estimate exists: add a penalty",
    Status.stalled: "no step improves the objective: scale the columns, start elsewhere or use float64",
    Status.invalid_input: "values outside what the model admits (a negative weight, say): correct them",
}


class Solution(NamedTuple):
    """What a fit returns; it never holds the data."""

    params: PyTree
    status: jax.Array
    """int32, a ``Status`` for each lane of a batched fit."""
    stats: PyTree


def raise_if_failed(solution: Solution) -> Solution:
    """Return ``solution`` where every lane is ``Status.ok``; raise on the host otherwise.

    Raises:
      RuntimeError: counts the lanes of each failure, names the first and gives the advice.

    >>> import jax.numpy as jnp
    >>> raise_if_failed(Solution(params=1.0, status=jnp.int32(0), stats=None)).params
    1.0
    """
    status = np.asarray(solution.status)
    failed = np.flatnonzero(status)
    if failed.size == 0:
        return solution
    counts = {Status(value): int((status == value).sum()) for value in np.unique(status[status != 0])}
    parts = [f"{count} of {status.size}: {kind.name} ({kind.advice})" for kind, count in counts.items()]
    raise RuntimeError(f"fit failed in {'; '.join(parts)}; first failing lane: {failed[0]}")


def cached_factory(function: Callable[P, R]) -> Callable[P, R]:
    """Cache a factory on its arguments, so that building a model twice does not compile it twice.

    Unlike ``functools.cache``, ``f(2)``, ``f(n=2)`` and a spelled-out default are one key.

    >>> make = cached_factory(lambda n=2: object())
    >>> make() is make(2) is make(n=2)
    True
    """
    signature = inspect.signature(function)
    cached = functools.lru_cache(maxsize=None, typed=True)(function)  # typed: f(1) is not f(True)

    @functools.wraps(function)
    def factory(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return cached(*bound.args, **bound.kwargs)

    return factory


@cached_factory
def chain(*models: Model) -> Model:
    """Run models one after the other: preprocessing, then a backbone, then a head.

    ``params`` and ``state`` are tuples with an entry a model, as in ``optax.chain``.

    >>> import jax.numpy as jnp
    >>> double = stateless(lambda inputs: 2 * inputs)
    >>> outputs, _ = chain(double, double).apply(((), ()), ({}, {}), jnp.ones(3))
    >>> outputs.tolist()
    [4.0, 4.0, 4.0]
    """

    def init(key, inputs):
        pairs = []
        for model, model_key in zip(models, jax.random.split(key, len(models)), strict=True):
            params, state = model.init(model_key, inputs)
            inputs = jax.eval_shape(lambda p, s, x, apply=model.apply: apply(p, s, x)[0], params, state, inputs)
            pairs.append((params, state))
        return tuple(params for params, _ in pairs), tuple(state for _, state in pairs)

    def apply(params, state, inputs, *, train=False, key=None, weights=None):
        new_state = []
        for index, model in enumerate(models):
            model_key = None if key is None else jax.random.fold_in(key, index)
            inputs, carried = model.apply(
                params[index], state[index], inputs, train=train, key=model_key, weights=weights
            )
            new_state.append(carried)
        return inputs, tuple(new_state)

    def fold(params, state):
        pairs = [fold_model(*each) for each in zip(models, params, state, strict=True)]
        folded, predicts = zip(*pairs, strict=True)
        return folded, _in_turn(predicts)

    return Model(init, apply, fold)


def fold_model(model: Model, params: PyTree, state: PyTree) -> tuple[PyTree, Callable]:
    """``model.fold`` where the model has one, else its ``apply`` without training, in the same form."""
    if model.fold is not None:
        return model.fold(params, state)
    return (params, state), _unfolded(model)


# Cached, so that folding again after an epoch gives the same function and `jit` does not trace it again.
@functools.cache
def _in_turn(predicts: tuple[Callable, ...]) -> Callable:
    def predict(folded, inputs):
        for one, params in zip(predicts, folded, strict=True):
            inputs = one(params, inputs)
        return inputs

    return predict


@functools.cache
def _unfolded(model: Model) -> Callable:
    return lambda folded, inputs: model.apply(*folded, inputs)[0]


@cached_factory
def stateless(function: Callable) -> Model:
    """A pure ``inputs -> outputs`` function, such as a preprocessing step, as a ``Model``."""
    return Model(
        init=lambda key, inputs: ((), {}),
        apply=lambda params, state, inputs, *, train=False, key=None, weights=None: (function(inputs), state),
    )

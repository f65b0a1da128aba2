"""Training on arrays that fit on the device, an epoch at a time, until the validation stops getting better.

    state_{t+1} = step(state_t, rows_t of the arrays)

An epoch is a loop of programs, one a step, or one program that scans over the steps. Both take the same rows in the
same order, a pure function of ``(seed, epoch)`` and that of ``data.array_batches``, and give the same numbers; which
is faster depends on the size of the network and on the device, so it is measured.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.core import Batch, InputError, PyTree, Status, TrainState
from jaxmodels.data.loader import order, steps_per_epoch
from jaxmodels.train import Best, DivergenceError, Progress, StepInfo, Trainer

LOOPS = ("auto", "step", "scan")


class Trained(NamedTuple):
    """What ``fit`` leaves."""

    state: TrainState
    """After the best epoch where there is a validation, else after the last."""
    epoch: int
    """Epochs that ``state`` has seen in this call."""
    losses: np.ndarray
    """``[epochs]``: weighted mean training loss of each epoch that was run."""
    validation: np.ndarray
    """``[epochs]``: values of ``validation``; empty where there is none."""
    loop: str
    """How the last epoch was run, "step" or "scan"."""


class Plan(NamedTuple):
    """The rows of an epoch's steps."""

    rows: np.ndarray
    """int32 ``[steps, batch_size]``; what fills the last batch up is row 0."""
    real: np.ndarray
    """float32 ``[steps, batch_size]``: 0 for what fills up, else 1."""


def plan(num_examples: int, *, batch_size: int, seed: int, epoch: int) -> Plan:
    """Rows in the order of ``data.array_batches``.

    >>> plan(3, batch_size=2, seed=0, epoch=0).real.tolist()
    [[1.0, 1.0], [1.0, 0.0]]
    """
    steps = steps_per_epoch(num_examples, batch_size)
    rows = np.zeros(steps * batch_size, np.int32)
    rows[:num_examples] = order(num_examples, seed=seed, epoch=epoch)
    real = (np.arange(steps * batch_size) < num_examples).astype(np.float32)
    return Plan(rows.reshape(steps, batch_size), real.reshape(steps, batch_size))


def take(examples: Batch, rows: jax.Array, real: jax.Array) -> Batch:
    """The batch of these rows, inside a program."""
    inputs, targets, weights = jax.tree.map(lambda leaf: leaf[rows], tuple(examples))
    return Batch(inputs, targets, real if weights is None else real * weights)


def fit(
    trainer: Trainer,
    state: TrainState,
    examples: Batch,
    *,
    batch_size: int,
    num_epochs: int,
    seed: int = 0,
    validation: Callable[[PyTree, PyTree], Any] | None = None,
    patience: int | None = None,
    min_delta: float = 0.0,
    loop: str = "auto",
    on_epoch: Callable[[Progress, TrainState], None] | None = None,
    compiler_options: dict[str, Any] | None = None,
) -> Trained:
    """Train on ``examples`` for ``num_epochs``, or until ``validation`` has not improved for ``patience`` epochs.

    Args:
      trainer: from ``train.trainer``.
      state: from ``trainer.init``; its memory is reused, and it cannot be read afterwards.
      examples: all rows; ``weights=None`` weighs them alike.
      batch_size: rows a step; the last batch of an epoch is padded with weight 0.
      seed: of the order of the rows.
      validation: ``(params, state) -> []``, asked after each epoch; less is better, and the best state is returned.
      patience: epochs without improvement after which to stop; needs ``validation``.
      min_delta: by how much less a value must be to be better.
      loop: "step", "scan", or "auto": the first epoch by steps, the second by scan where its compilation can pay
        itself back, the rest by the faster.
      on_epoch: called with each epoch's means and its state.
      compiler_options: passed to ``jax.jit``.

    Raises:
      DivergenceError: a loss or gradient is not finite; names the step, and its ``state`` is the best by ``validation``
        where there is one, else that before the epoch.

    >>> import optax
    >>> from jaxmodels import losses, mlp, train
    >>> x = np.linspace(-1, 1, 50, dtype=np.float32)[:, None]
    >>> examples = Batch(x, 3 * x[:, 0] + 1)
    >>> linear = train.trainer(mlp.model(num_outputs=0), loss=losses.squared_error, optimizer=optax.sgd(0.5))
    >>> trained = fit(linear, linear.init(jax.random.key(0), examples), examples, batch_size=10, num_epochs=20)
    >>> bool(trained.losses[-1] < 1e-6), int(trained.state.step)
    (True, 100)
    """
    _check(batch_size, num_epochs, patience, validation, loop)
    count = num_examples(examples)
    examples = jax.device_put(examples)
    runner = _Runner(trainer, loop, num_epochs, compiler_options)
    seen: list[Progress] = []
    values: list[float] = []
    best, ahead = Best(), plan(count, batch_size=batch_size, seed=seed, epoch=0)
    for epoch in range(1, num_epochs + 1):
        before, first = jax.tree.map(jnp.copy, state), int(state.step)
        started = time.perf_counter()
        state, infos = runner.epoch(state, examples, ahead)
        if epoch < num_epochs:  # while the device is at work
            ahead = plan(count, batch_size=batch_size, seed=seed, epoch=epoch)
        infos = _stacked(jax.device_get(infos))
        _raise_if_diverged(infos, first, before if best.state is None else best.state)
        seen.append(_progress(infos, epoch, first, time.perf_counter() - started))
        if on_epoch is not None:
            on_epoch(seen[-1], state)
        if validation is not None:
            values.append(float(validation(state.params, state.state)))
            best = best.seen(values[-1], epoch, state, min_delta=min_delta)
            if best.is_stale(epoch, patience=patience):
                break
    last = Best(epoch=len(seen), state=state) if best.state is None else best
    losses = np.array([progress.loss for progress in seen])
    return Trained(last.state, last.epoch, losses, np.array(values), runner.last)


def num_examples(examples: Batch) -> int:
    """The number of rows, one in all arrays."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(examples)]
    lengths = {shape[:1] for shape in shapes}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise InputError(f"examples: need one number of rows, at least 1, in all arrays; their shapes are {shapes}")
    return shapes[0][0]


def _check(batch_size, num_epochs, patience, validation, loop) -> None:
    for name, value in (("batch_size", batch_size), ("num_epochs", num_epochs)):
        if value < 1:
            raise InputError(f"{name}: needs at least 1, got {value}")
    if patience is not None and validation is None:
        raise InputError(f"patience: {patience} epochs without improvement of what? Pass validation too")
    if loop not in LOOPS:
        raise InputError(f"loop: {loop!r} is none of {', '.join(LOOPS)}")


class _Runner:
    """Runs epochs, by steps or by scan; under "auto" it times one of each and keeps to the faster."""

    def __init__(self, trainer: Trainer, loop: str, num_epochs: int, compiler_options: dict[str, Any] | None):
        options = None if compiler_options is None else tuple(sorted(compiler_options.items()))
        self.by_step, self.by_scan = programs(trainer.step, options)
        self.loop, self.left, self.last = loop, num_epochs, "step"
        self.seconds: dict[str, float] = {}

    def epoch(self, state: TrainState, examples: Batch, plan: Plan) -> tuple[TrainState, Any]:
        self.last = self._choose()
        self.left -= 1
        run = self._scan if self.last == "scan" else self._steps
        return run(state, examples, jax.device_put(plan))

    def _choose(self) -> str:
        if self.loop != "auto":
            return self.loop
        if "step" not in self.seconds:
            return "step"
        if "scan" not in self.seconds:
            # Compiling the scan takes about as long as compiling the step did.
            return "scan" if self.seconds["step"] * self.left > self.seconds["compile"] else "step"
        return min(("step", "scan"), key=self.seconds.__getitem__)

    def _steps(self, state: TrainState, examples: Batch, plan: Plan):
        started, infos = time.perf_counter(), []
        first = jnp.copy(state.step)
        for index in range(plan.rows.shape[0]):
            state, info = self.by_step(state, first, examples, plan)
            infos.append(info)
            if index == 0 and self._is_trying("step"):
                jax.block_until_ready(info)
                self.seconds["compile"] = time.perf_counter() - started
                started = time.perf_counter()
        if self._is_trying("step"):
            jax.block_until_ready(state)
            self.seconds["step"] = time.perf_counter() - started
        return state, infos

    def _scan(self, state: TrainState, examples: Batch, plan: Plan):
        if not self._is_trying("scan"):
            return self.by_scan(state, examples, plan)
        self.by_scan = self.by_scan.lower(state, examples, plan).compile()
        started = time.perf_counter()
        answer = jax.block_until_ready(self.by_scan(state, examples, plan))
        self.seconds["scan"] = time.perf_counter() - started
        return answer

    def _is_trying(self, loop: str) -> bool:
        return self.loop == "auto" and loop not in self.seconds


@functools.lru_cache(maxsize=64)
def programs(step: Callable, options: tuple[tuple[str, Any], ...] | None) -> tuple[Any, Any]:
    """One step, and an epoch of steps, as compiled programs over examples and a plan."""
    pure = step.__wrapped__  # without jit: a compiled function inside another could not have compiler options

    def by_step(state, first, examples, plan):
        rows, real = (jax.lax.dynamic_index_in_dim(leaf, state.step - first, keepdims=False) for leaf in plan)
        return pure(state, take(examples, rows, real))

    def by_scan(state, examples, plan):
        return jax.lax.scan(lambda state, chosen: pure(state, take(examples, *chosen)), state, plan)

    compiled = functools.partial(
        jax.jit, donate_argnums=(0,), compiler_options=None if options is None else dict(options)
    )
    return compiled(by_step), compiled(by_scan)


def _stacked(infos: Sequence[StepInfo] | StepInfo) -> StepInfo:
    return (
        infos if isinstance(infos, StepInfo) else StepInfo(*(np.array(values) for values in zip(*infos, strict=True)))
    )


def _raise_if_diverged(infos: StepInfo, first: int, state: TrainState) -> None:
    failed = np.flatnonzero(infos.status != Status.ok)
    if failed.size:
        at = failed[0]
        raise DivergenceError(first + int(at) + 1, float(infos.loss[at]), float(infos.gradient_norm[at]), state)


def _progress(infos: StepInfo, epoch: int, first: int, seconds: float) -> Progress:
    weight = infos.weight.sum(dtype=np.float64)
    loss = (infos.loss * infos.weight.astype(np.float64)).sum() / weight
    return Progress(epoch, first + len(infos.loss), float(loss), float(infos.gradient_norm[-1]), float(weight), seconds)

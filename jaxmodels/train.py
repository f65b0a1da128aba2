"""One pure step and one loop, for every model.

    gradient_t = d/dparams  sum_i w_i loss(model(params, x_i), y_i) / sum_i w_i

``gradient_descent`` is the method in its plainest form. ``trainer`` makes the two pure functions ``init`` and
``step``; ``iterate`` is the loop as a generator, which the caller owns; ``fit`` drives it over epochs with progress,
validation, stopping and resumption. ``epochs.fit`` does so for arrays that fit on the device.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmodels.core import Batch, InputError, Model, PyTree, Status, TrainState


class StepInfo(NamedTuple):
    """What a step reports, still on the device."""

    loss: jax.Array
    """``[]``: the weighted mean over the batch, before the update."""
    gradient_norm: jax.Array
    """``[]``: global norm, before clipping."""
    weight: jax.Array
    """``[]``: sum of the batch's weights: the number of examples that are not padding."""
    status: jax.Array
    """int32 ``[]``: ``Status.ok``, or ``Status.nonfinite`` for a loss or gradient that is not finite."""


class Trainer(NamedTuple):
    """Two pure functions, the twin of optax's ``(init, update)`` for a whole model."""

    init: Callable[[jax.Array, Batch], TrainState]
    """``(key, batch) -> TrainState``; the batch gives shapes and dtypes only."""
    step: Callable[[TrainState, Batch], tuple[TrainState, StepInfo]]
    """``(state, batch) -> (state, info)``, jitted; the old state's memory is reused (donated)."""


class DivergenceError(RuntimeError):
    """The loss or its gradient stopped being finite.

    ``step`` is the first at which it was not; ``state`` the last good state that is still at hand, or ``None``.
    """

    def __init__(self, step: int, loss: float, gradient_norm: float, state: TrainState | None = None):
        self.step, self.state = step, state
        super().__init__(
            f"step {step}: loss {loss}, gradient norm {gradient_norm}; lower the learning rate, clip the gradient, "
            "warm up, or look for NaN and extreme values in the data"
        )


def gradient_descent(
    objective: Callable[[PyTree], jax.Array], params: PyTree, *, learning_rate: float, num_steps: int
) -> tuple[PyTree, jax.Array]:
    """``params <- params - learning_rate * gradient of objective``, ``num_steps`` times (Cauchy 1847).

    Args:
      objective: ``params -> []``.
      params: where to start.

    Returns:
      The last parameters, and the objective before each step ``[num_steps]``.

    >>> params, values = gradient_descent(lambda x: (x - 3.0) ** 2, jnp.array(0.0), learning_rate=0.25, num_steps=3)
    >>> params.item(), values.tolist()
    (2.625, [9.0, 2.25, 0.5625])
    """

    def step(params, _):
        value, gradient = jax.value_and_grad(objective)(params)
        return jax.tree.map(lambda p, g: p - learning_rate * g, params, gradient), value

    return jax.lax.scan(step, params, length=num_steps)


def trainer(
    model: Model,
    *,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    augment: Callable[[jax.Array, Batch], Batch] | None = None,
    donate: bool = True,
    compiler_options: dict[str, Any] | None = None,
) -> Trainer:
    """Make ``init`` and ``step`` for a model, a loss and an optimizer.

    Args:
      model: any ``Model``: linear, MLP and ResNet50 alike.
      loss: ``(outputs [n, ...], targets [n, ...]) -> [n]``, one value an example.
      optimizer: any optax transformation, those that ask for the value, the gradient or the function included
        (``lbfgs``, ``polyak_sgd``, ``reduce_on_plateau``).
      augment: ``(key, batch) -> batch``, run on the device inside the step, training only.
      donate: reuse the memory of the state passed in, which cannot be read afterwards.
      compiler_options: passed to ``jax.jit``.

    Returns:
      A ``Trainer``. The step's key is ``fold_in(state.key, state.step)``, so a resumed run repeats its stream.

    >>> from jaxmodels import losses, mlp
    >>> x = jnp.linspace(-1, 1, 20)[:, None]
    >>> batch = Batch(inputs=x, targets=3 * x[:, 0] + 1)
    >>> init, step = trainer(mlp.model(num_outputs=0), loss=losses.squared_error, optimizer=optax.sgd(0.5))
    >>> state = init(jax.random.key(0), batch)
    >>> for _ in range(100):
    ...     state, info = step(state, batch)
    >>> bool(info.loss < 1e-6), int(state.step)
    (True, 100)
    """

    transform = optax.with_extra_args_support(optimizer)

    def init(key, batch):
        shapes = batch if augment is None else jax.eval_shape(augment, key, batch)
        params, state = model.init(key, shapes.inputs)
        # Copies, because some optimizers hold one array twice, which cannot be donated.
        opt_state = jax.tree.map(jnp.copy, optimizer.init(params))
        return TrainState(jnp.zeros((), jnp.int32), params, state, opt_state, jnp.copy(key))

    def step(state, batch):
        augment_key, model_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        if augment is not None:
            batch = augment(augment_key, batch)
        batch = _without_padding(batch)

        def objective(params):
            outputs, carried = model.apply(
                params, state.state, batch.inputs, train=True, key=model_key, weights=batch.weights
            )
            values = loss(outputs, batch.targets)
            weights = jnp.ones_like(values) if batch.weights is None else batch.weights.astype(values.dtype)
            return _weighted_mean(values, weights), (carried, weights.sum())

        (value, (carried, weight)), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt_state = transform.update(
            gradients, state.opt_state, state.params, value=value, grad=gradients, value_fn=lambda p: objective(p)[0]
        )
        params = optax.apply_updates(state.params, updates)
        norm = _norm(gradients)
        status = jnp.where(jnp.isfinite(value) & jnp.isfinite(norm), Status.ok, Status.nonfinite).astype(jnp.int32)
        return TrainState(state.step + 1, params, carried, opt_state, state.key), StepInfo(value, norm, weight, status)

    return Trainer(init, jax.jit(step, donate_argnums=(0,) if donate else (), compiler_options=compiler_options))


def _norm(gradients: PyTree) -> jax.Array:
    """The global norm. Leaves are joined: on small networks the launches of a sum a leaf cost 7 % of a step on CPU."""
    leaves = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in jax.tree.leaves(gradients)]
    small = [leaf.ravel() for leaf in leaves if leaf.size <= 2**18]
    parts = [leaf for leaf in leaves if leaf.size > 2**18] + ([jnp.concatenate(small)] if small else [])
    squares = [jnp.tensordot(part, part, axes=part.ndim, precision=jax.lax.Precision.HIGHEST) for part in parts]
    return jnp.sqrt(sum(squares, jnp.zeros(())))


def _weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    if values.shape != weights.shape:
        raise InputError(f"loss: must give one value an example, {weights.shape}, got {values.shape}; average the rest")
    # A batch of padding alone has loss 0.
    return jnp.sum(values * weights) / jnp.maximum(weights.sum(), jnp.finfo(values.dtype).tiny)


def _without_padding(batch: Batch) -> Batch:
    """Zeros for what padded rows hold: a NaN there would reach the gradient, whatever its weight."""
    if batch.weights is None:
        return batch

    def keep(leaf):
        kept = (batch.weights > 0).reshape(-1, *[1] * (leaf.ndim - 1))
        return jnp.where(kept, leaf, jnp.zeros_like(leaf))

    return Batch(jax.tree.map(keep, batch.inputs), jax.tree.map(keep, batch.targets), batch.weights)


def iterate(trainer: Trainer, state: TrainState, batches: Iterable[Batch]) -> Iterator[tuple[TrainState, StepInfo]]:
    """Step through ``batches``, yielding after each; the caller owns the loop and stops when it likes.

    >>> from jaxmodels import losses, mlp
    >>> batch = Batch(jnp.ones((4, 2)), jnp.ones(4))
    >>> tiny = trainer(mlp.model(num_outputs=0), loss=losses.squared_error, optimizer=optax.sgd(0.1))
    >>> [int(state.step) for state, info in iterate(tiny, tiny.init(jax.random.key(0), batch), [batch] * 3)]
    [1, 2, 3]
    """
    for batch in batches:
        state, info = trainer.step(state, batch)
        yield state, info


class Progress(NamedTuple):
    """Where a run stands; what ``fit`` gives to its hooks, on the host."""

    epoch: int
    """Epochs begun, from 1."""
    step: int
    """Steps taken in the whole run."""
    loss: float
    """Of the step; for a finished epoch, the weighted mean over its steps."""
    gradient_norm: float
    """Of the step, before clipping."""
    weight: float
    """Examples in the step that are not padding; for a finished epoch, in all its steps."""
    seconds: float
    """Since the step before it ended or the epoch began; for a finished epoch, the sum."""


class Best(NamedTuple):
    """The best state so far and when it was met, for early stopping in any loop.

    >>> best = Best()
    >>> for epoch, value in enumerate([3.0, 1.0, 2.0, 1.5], start=1):
    ...     best = best.seen(value, epoch, state=value)
    >>> float(best.state), best.epoch, best.is_stale(4, patience=2)
    (1.0, 2, True)
    """

    value: float = float("inf")
    """The least value seen."""
    epoch: int = 0
    state: Any = None
    """A copy, because the next step donates the state."""

    def seen(self, value: float, epoch: int, state: PyTree, *, min_delta: float = 0.0) -> Best:
        """With this epoch's value, which is better where it is less by more than ``min_delta``; NaN never is."""
        if value < self.value - min_delta:
            return Best(value, epoch, jax.tree.map(jnp.copy, state))
        return self

    def is_stale(self, epoch: int, *, patience: int | None) -> bool:
        """Whether ``patience`` epochs went by without a better value."""
        return patience is not None and epoch - self.epoch >= patience


def fit(
    trainer: Trainer,
    state: TrainState,
    batches: Callable[[int, int], Iterable[Batch]],
    *,
    num_epochs: int,
    steps_per_epoch: int,
    first_step: int = 0,
    earlier: Sequence[Progress] = (),
    on_step: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[Progress, TrainState], None] | None = None,
    save: Callable[[TrainState], None] | None = None,
    save_seconds: float = 60.0,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainState:
    """Train for ``num_epochs``, from wherever ``state`` stands.

    Args:
      batches: ``(epoch, step) -> iterable`` over the batches of an epoch (counted from 0) from that step on; a
        pure function of its arguments, such as ``data.batches``, makes an interrupted run repeat exactly.
      num_epochs: counted from ``first_step``, those before ``state`` included.
      steps_per_epoch: batches in an epoch.
      first_step: value of ``state.step`` at which epoch 0 began.
      earlier: the steps that this epoch took before ``state``, for the epoch's mean.
      on_step: called with each step's values, one step late so that the device never waits for the host.
      on_epoch: called with each epoch's mean loss and the state: validate, print.
      save: called with the state every ``save_seconds`` and at the end, also when stopped early; ``on_step`` has
        seen all steps up to that state, and their losses and gradients were finite.
      should_stop: asked before each step; True ends the run there.

    Returns:
      The last state, also when stopped early.

    Raises:
      DivergenceError: a loss or gradient is not finite; names the step and what to try.
    """
    first_epoch, offset = divmod(int(state.step) - first_step, steps_per_epoch)
    seen, saved = list(earlier), time.monotonic()
    for epoch in range(first_epoch, num_epochs):
        ledger = _Ledger(epoch + 1, first_step + epoch * steps_per_epoch + offset, seen, on_step)
        steps = iterate(trainer, state, _until(should_stop, batches(epoch, offset)))
        for state, info in steps:
            due = save is not None and time.monotonic() - saved > save_seconds
            ledger.enter(info, settle=due)
            if save is not None and due:
                save(state)
                saved = time.monotonic()
        ledger.settle()
        if ledger.step != first_step + (epoch + 1) * steps_per_epoch:
            if should_stop():
                break
            raise InputError(
                f"steps_per_epoch: {steps_per_epoch}, but epoch {epoch} ended at step {ledger.step}; count again"
            )
        if on_epoch is not None:
            on_epoch(_mean(ledger.seen), state)
        seen, offset = [], 0
    if save is not None:
        save(state)
    return state


def _until(should_stop: Callable[[], bool], batches: Iterable[Batch]) -> Iterator[Batch]:
    return itertools.takewhile(lambda _: not should_stop(), batches)


class _Ledger:
    """The steps of an epoch; each is read from the device after the next was dispatched, so that it never waits."""

    def __init__(self, epoch: int, step: int, seen: list[Progress], on_step: Callable[[Progress], None] | None):
        self.epoch, self.step, self.seen, self.on_step = epoch, step, seen, on_step
        self.waiting: StepInfo | None = None
        self.clock = time.perf_counter()

    def enter(self, info: StepInfo, *, settle: bool) -> None:
        self.settle()
        self.waiting = info
        if settle:
            self.settle()

    def settle(self) -> None:
        """Read the step that waits, if one does, and pass it on."""
        if self.waiting is None:
            return
        loss, norm, weight, status = (np.asarray(value).item() for value in self.waiting)
        self.waiting, self.step = None, self.step + 1
        if status != Status.ok:
            raise DivergenceError(self.step, loss, norm)
        now = time.perf_counter()
        self.seen.append(Progress(self.epoch, self.step, loss, norm, weight, now - self.clock))
        self.clock = now
        if self.on_step is not None:
            self.on_step(self.seen[-1])


def _mean(seen: Sequence[Progress]) -> Progress:
    weight = sum(progress.weight for progress in seen)
    loss = sum(progress.loss * progress.weight for progress in seen) / weight
    return seen[-1]._replace(loss=loss, weight=weight, seconds=sum(progress.seconds for progress in seen))

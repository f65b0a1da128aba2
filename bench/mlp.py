"""How fast do perceptrons train here, beside torch (eager and compiled), Keras and scikit-learn on the same machine?

    python bench/mlp.py [--rows 100000] [--rounds 5] [--only epoch|sweep|step]

One JSON line a candidate. Candidates of a question take turns in one process, and ``ratio`` is the median over the
rounds of its time over torch's, or over that of the step written by hand, with an interval of 95 %.

* epoch: 100,000 rows of 50 columns, three hidden layers of 128 or 1024 units (then 10,000 rows), batches of 256, Adam,
  least squares; an epoch with its shuffle, by ``epochs.fit`` in both loops, by torch as it comes and by
  ``torch.compile``, by Keras (torch backend) and by scikit-learn's ``MLPRegressor``.
* sweep: 32 perceptrons 20-32-32-1 on 10,000 rows, batches of 64, AdamW, by ``sweeps.fit`` in one program, and 32 runs
  of torch one after the other (one is timed and multiplied by 32).
* step: ``trainer.step`` over the same step written out by hand with optax, on the network of 128 units, and the first
  call of both, which compiles.

A framework that is not installed is left out.

Last run, two shared virtual cores under load, jax 0.10.2, torch 2.13.0 on one thread, --rows 20000 --rounds 3, ratios:
epoch of 128 units by scan 0.40, by steps 0.61, torch compiled 1.04, Keras 2.7, scikit-learn 0.95; of 1024 units and
2,000 rows 0.62, 0.67, 0.97, 1.3, 0.84. Sweep on 2,000 rows 0.02 (0.003 to 0.12) and 7 seconds of compilation. Step
0.98 (0.77 to 1.3), its compilation 1.08 (0.99 to 1.4).
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmodels import benchmark, epochs, losses, mlp, sweeps, train
from jaxmodels.core import Batch

LEARNING_RATE = 1e-3


def rows(count: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    inputs = np.random.default_rng(0).normal(size=(count, columns)).astype(np.float32)
    return inputs, inputs[:, 0] * inputs[:, 1] + np.sin(inputs[:, 2])


def trainer_of(hidden: tuple[int, ...], learning_rate: Any = LEARNING_RATE) -> train.Trainer:
    model = mlp.model(hidden_sizes=hidden, num_outputs=0)
    return train.trainer(model, loss=losses.squared_error, optimizer=optax.adam(learning_rate))


Epoch = Callable[[], Any]
"""Trains for one more epoch, and has finished when it returns."""


def ours(examples: Batch, hidden: tuple[int, ...], batch_size: int, loop: str) -> Epoch:
    """``epochs.fit``, an epoch at a time; it goes on from the state before."""
    trainer = trainer_of(hidden)
    examples = jax.device_put(examples)
    carried, seeds = [trainer.init(jax.random.key(0), examples)], itertools.count()

    def epoch():
        options: Any = {"batch_size": batch_size, "num_epochs": 1, "seed": next(seeds), "loop": loop}
        carried[0] = epochs.fit(trainer, carried[0], examples, **options).state
        jax.block_until_ready(carried[0].params)

    return epoch


def torch_network(columns: int, hidden: tuple[int, ...]) -> Any:
    import torch

    sizes = (columns, *hidden)
    layers = [
        part for m, k in zip(sizes[:-1], hidden, strict=True) for part in (torch.nn.Linear(m, k), torch.nn.ReLU())
    ]
    return torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], 1))


def torchs(examples: Batch, hidden: tuple[int, ...], batch_size: int, *, compiled: bool, decay: bool = False) -> Epoch:
    import torch

    network = torch_network(examples.inputs.shape[1], hidden)
    optimizer = (torch.optim.AdamW if decay else torch.optim.Adam)(network.parameters(), LEARNING_RATE)
    inputs, targets = torch.from_numpy(examples.inputs), torch.from_numpy(examples.targets)

    def loss_of(x, y):
        return torch.nn.functional.mse_loss(network(x)[:, 0], y)

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def epoch():
        order = torch.randperm(len(targets))
        for start in range(0, len(targets), batch_size):
            chosen = order[start : start + batch_size]
            optimizer.zero_grad()
            loss_of(inputs[chosen], targets[chosen]).backward()
            optimizer.step()

    return epoch


def kerass(examples: Batch, hidden: tuple[int, ...], batch_size: int) -> Epoch:
    import keras

    layers = [keras.layers.Dense(units, activation="relu") for units in hidden]
    network = keras.Sequential([*layers, keras.layers.Dense(1)])
    network.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE), loss="mse")
    inputs, targets = examples.inputs, examples.targets
    return lambda: network.fit(inputs, targets, batch_size=batch_size, epochs=1, verbose=0)


def scikit_learns(examples: Batch, hidden: tuple[int, ...], batch_size: int) -> Epoch:
    from sklearn.neural_network import MLPRegressor

    network = MLPRegressor(
        hidden_layer_sizes=hidden, batch_size=batch_size, learning_rate_init=LEARNING_RATE, alpha=0.0
    )
    return lambda: network.partial_fit(examples.inputs, examples.targets)


def frameworks(examples: Batch, hidden: tuple[int, ...], batch_size: int) -> dict[str, Epoch]:
    them: dict[str, Epoch] = {
        f"jaxmodels, {loop}": ours(examples, hidden, batch_size, loop) for loop in ("step", "scan")
    }
    if importlib.util.find_spec("torch"):
        them["torch"] = torchs(examples, hidden, batch_size, compiled=False)
        them["torch, compiled"] = torchs(examples, hidden, batch_size, compiled=True)
        if importlib.util.find_spec("keras"):
            them["keras, torch"] = kerass(examples, hidden, batch_size)
    if importlib.util.find_spec("sklearn"):
        them["scikit-learn"] = scikit_learns(examples, hidden, batch_size)
    return them


def tell(question: str, timed: dict[str, benchmark.Timing], peer: str = "torch") -> None:
    for name, timing in timed.items():
        line: dict[str, Any] = {"question": question, "candidate": name, "seconds": round(timing.median, 4)}
        if peer in timed:
            ratio = timing.over(timed[peer])
            line |= {
                "peer": peer,
                "ratio": round(ratio.value, 3),
                "interval": [round(ratio.low, 3), round(ratio.high, 3)],
            }
        line |= {"first_seconds": round(timing.first_seconds, 2), "rounds": len(timing.seconds)}
        print(json.dumps(line | benchmark.around()), flush=True)


def ask_epoch(width: int, count: int, rounds: int) -> None:
    examples, hidden = Batch(*rows(count, 50)), (width,) * 3
    timed = benchmark.take_turns(frameworks(examples, hidden, 256), rounds=rounds)
    tell(f"epoch: {count} rows, 50-{width}-{width}-{width}-1, batches of 256", timed)


def ask_sweep(count: int, rounds: int) -> None:
    """Seconds an epoch: that of a sweep is the difference between a long and a short one, without the compilation."""
    examples = Batch(*rows(count, 20))

    def make_trainer(learning_rate, weight_decay):
        model = mlp.model(hidden_sizes=(32, 32), num_outputs=0)
        optimizer = optax.adamw(learning_rate, weight_decay=weight_decay)
        return train.trainer(model, loss=losses.squared_error, optimizer=optimizer)

    grid = {"learning_rate": [3e-4, 1e-3, 3e-3, 1e-2], "weight_decay": [0.0, 1e-2]}

    def run(num_epochs):
        options: Any = {"seeds": range(4), "batch_size": 64, "num_epochs": num_epochs}
        jax.block_until_ready(sweeps.fit(make_trainer, grid, examples, **options).losses)

    extra = 20
    short, long = "jaxmodels, 1 epoch and compilation", "jaxmodels"
    candidates: dict[str, Epoch] = {long: lambda: run(1 + extra), short: lambda: run(1)}
    if importlib.util.find_spec("torch"):
        candidates["torch"] = torchs(examples, (32, 32), 64, compiled=False, decay=True)
    timed = benchmark.take_turns(candidates, rounds=rounds)
    pairs = zip(timed[long].seconds, timed[short].seconds, strict=True)
    timed[long] = timed[long]._replace(seconds=tuple((more - less) / extra for more, less in pairs))
    if "torch" in timed:
        timed["torch"] = timed["torch"]._replace(seconds=tuple(32 * each for each in timed["torch"].seconds))
    tell(f"sweep: an epoch of 32 perceptrons 20-32-32-1, {count} rows, batches of 64", timed)


def by_hand() -> Callable:
    optimizer, model = optax.adam(LEARNING_RATE), mlp.model(hidden_sizes=(128,) * 3, num_outputs=0)

    def step(params, opt_state, inputs, targets):
        def objective(params):
            return jnp.mean((model.apply(params, {}, inputs)[0] - targets) ** 2)

        value, gradients = jax.value_and_grad(objective)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    return jax.jit(step, donate_argnums=(0, 1))


def ask_step(rounds: int, count: int) -> None:
    """Blocks of ``count`` steps on one batch."""
    inputs, targets = jax.device_put(rows(256, 50))
    batch, trainer, hand = Batch(inputs, targets), trainer_of((128,) * 3), by_hand()
    state = trainer.init(jax.random.key(0), batch)
    opt_state = optax.adam(LEARNING_RATE).init(state.params)
    carried: list[Any] = [state, *jax.tree.map(jnp.copy, (state.params, opt_state))]

    def step_ours():
        for _ in range(count):
            carried[0], _ = trainer.step(carried[0], batch)
        jax.block_until_ready(carried[0].params)

    def step_by_hand():
        for _ in range(count):
            carried[1], carried[2], _ = hand(carried[1], carried[2], inputs, targets)
        jax.block_until_ready(carried[1])

    def compile_ours():
        trainer_of((128,) * 3).step.lower(state, batch).compile()  # pyright: ignore[reportFunctionMemberAccess]

    def compile_by_hand():
        by_hand().lower(state.params, opt_state, inputs, targets).compile()

    state, opt_state = jax.eval_shape(lambda: (carried[0], carried[2]))
    timed = benchmark.take_turns({"jaxmodels": step_ours, "by hand": step_by_hand}, rounds=rounds)
    tell(f"step: {count} steps", timed, "by hand")
    jax.config.update("jax_enable_compilation_cache", False)
    timed = benchmark.take_turns({"jaxmodels": compile_ours, "by hand": compile_by_hand}, rounds=rounds)
    tell("step: compilation, anew each time", timed, "by hand")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000, help="a tenth of them in the sweep and the wide network")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--torch-threads", type=int, help="1 where other work keeps the cores busy: torch's threads spin"
    )
    parser.add_argument("--only", choices=("epoch", "sweep", "step"))
    arguments = parser.parse_args()
    rounds, count = arguments.rounds, arguments.rows
    if arguments.torch_threads:
        import torch

        torch.set_num_threads(arguments.torch_threads)
    if arguments.only in (None, "step"):
        ask_step(max(rounds, 5), 500)
    if arguments.only in (None, "sweep"):
        ask_sweep(count // 10, rounds)
    if arguments.only in (None, "epoch"):
        ask_epoch(128, count, rounds)
        ask_epoch(1024, count // 10, rounds)


if __name__ == "__main__":
    main()

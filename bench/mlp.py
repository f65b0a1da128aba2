"""How fast do perceptrons train here, beside torch (eager and compiled), Keras and scikit-learn on the same machine?

    python bench/mlp.py [--rows 100000] [--rounds 5] [--only epoch|sweep|step]

One JSON line a question: the median and best seconds of the rounds and the ratio of the medians to torch's.

* epoch: 100,000 rows of 50 columns, three hidden layers of 128 or 1024 units (then 10,000 rows), batches of 256, Adam,
  least squares; an epoch with its shuffle, by ``epochs.fit`` in both loops, by torch as it comes and by
  ``torch.compile``, by Keras (torch backend) and by scikit-learn's ``MLPRegressor``. They take turns, epoch by epoch.
* sweep: 32 perceptrons 20-32-32-1 on 10,000 rows, batches of 64, AdamW, by ``sweeps.fit`` in one program, and 32 runs
  of torch one after the other (one is timed and multiplied by 32).
* step: ``trainer.step`` over the same step written out by hand with optax, on the network of 128 units, and the first
  call of both, which compiles. The steps take turns.

A framework that is not installed is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmodels import epochs, losses, mlp, sweeps, train
from jaxmodels.core import Batch, TrainState

LEARNING_RATE = 1e-3


def rows(count: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    inputs = np.random.default_rng(0).normal(size=(count, columns)).astype(np.float32)
    return inputs, inputs[:, 0] * inputs[:, 1] + np.sin(inputs[:, 2])


def trainer_of(hidden: tuple[int, ...], learning_rate: Any = LEARNING_RATE) -> train.Trainer:
    model = mlp.model(hidden_sizes=hidden, num_outputs=0)
    return train.trainer(model, loss=losses.squared_error, optimizer=optax.adam(learning_rate))


Epoch = Callable[[int], Any]
"""Trains for the epoch of that number, and has finished when it returns."""


def ours(examples: Batch, hidden: tuple[int, ...], batch_size: int, loop: str) -> Epoch:
    """``epochs.fit``, an epoch at a time; it goes on from the state before."""
    trainer = trainer_of(hidden)
    examples = jax.device_put(examples)
    carried = [trainer.init(jax.random.key(0), examples)]

    def epoch(number):
        options: Any = {"batch_size": batch_size, "num_epochs": 1, "seed": number, "loop": loop}
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

    def epoch(number):
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
    return lambda number: network.fit(inputs, targets, batch_size=batch_size, epochs=1, verbose=0)


def scikit_learns(examples: Batch, hidden: tuple[int, ...], batch_size: int) -> Epoch:
    from sklearn.neural_network import MLPRegressor

    network = MLPRegressor(
        hidden_layer_sizes=hidden, batch_size=batch_size, learning_rate_init=LEARNING_RATE, alpha=0.0
    )
    return lambda number: network.partial_fit(examples.inputs, examples.targets)


def rounds_of(epochs_of: dict[str, Epoch], rounds: int) -> dict[str, list[float]]:
    """Seconds an epoch, the frameworks taking turns; the first, which compiles, is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in epochs_of}
    for number in range(rounds + 1):
        for name, epoch in epochs_of.items():
            start = time.perf_counter()
            epoch(number)
            seconds[name].append(time.perf_counter() - start)
    return {name: each[1:] for name, each in seconds.items()}


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


def tell(question: str, seconds: dict[str, list[float]], rounds: int) -> None:
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    against = medians.get("torch")
    answer = {
        name: {
            "median_s": round(medians[name], 4),
            "best_s": round(min(each), 4),
            **({"of_torch": round(medians[name] / against, 3)} if against else {}),
        }
        for name, each in seconds.items()
    }
    versions = {name: __import__(name).__version__ for name in ("jax", "torch") if importlib.util.find_spec(name)}
    machine = f"{os.cpu_count()} cores {platform.machine()}, {jax.devices()[0].device_kind}"
    print(
        json.dumps({"question": question, **answer, "rounds": rounds, "machine": machine, "versions": versions}),
        flush=True,
    )


def ask_epoch(width: int, count: int, rounds: int) -> None:
    examples, hidden = Batch(*rows(count, 50)), (width,) * 3
    them = frameworks(examples, hidden, 256)
    tell(f"epoch: {count} rows, 50-{width}-{width}-{width}-1, batches of 256", rounds_of(them, rounds), rounds)


def ask_sweep(count: int, rounds: int) -> None:
    """Seconds an epoch: that of a sweep is the difference between a long and a short one, without the compilation."""
    examples = Batch(*rows(count, 20))

    def make_trainer(learning_rate, weight_decay):
        model = mlp.model(hidden_sizes=(32, 32), num_outputs=0)
        optimizer = optax.adamw(learning_rate, weight_decay=weight_decay)
        return train.trainer(model, loss=losses.squared_error, optimizer=optimizer)

    grid = {"learning_rate": [3e-4, 1e-3, 3e-3, 1e-2], "weight_decay": [0.0, 1e-2]}

    def run(num_epochs):
        start = time.perf_counter()
        sweep = sweeps.fit(make_trainer, grid, examples, seeds=range(4), batch_size=64, num_epochs=num_epochs)
        jax.block_until_ready(sweep.losses)
        return time.perf_counter() - start

    run(1)
    extra = 20
    pairs = [(run(1), run(1 + extra)) for _ in range(rounds)]
    seconds = {
        "jaxmodels": [(long - short) / extra for short, long in pairs],
        "jaxmodels, 1 epoch and compilation": [short for short, _ in pairs],
    }
    if importlib.util.find_spec("torch"):
        one = rounds_of({"torch": torchs(examples, (32, 32), 64, compiled=False, decay=True)}, rounds)["torch"]
        seconds["torch"] = [32 * each for each in one]
    tell(f"sweep: an epoch of 32 perceptrons 20-32-32-1, {count} rows, batches of 64", seconds, rounds)


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

    def step_ours(number):
        for _ in range(count):
            carried[0], _ = trainer.step(carried[0], batch)
        jax.block_until_ready(carried[0].params)

    def step_by_hand(number):
        for _ in range(count):
            carried[1], carried[2], _ = hand(carried[1], carried[2], inputs, targets)
        jax.block_until_ready(carried[1])

    tell(f"step: {count} steps", rounds_of({"jaxmodels": step_ours, "by hand": step_by_hand}, rounds), rounds)
    tell("step: compilation", compilations(carried, trainer, batch, rounds), rounds)


def compilations(carried: list[Any], trainer: train.Trainer, batch: Batch, rounds: int) -> dict[str, list[float]]:
    """Traced and compiled anew each time, without the persistent cache."""
    jax.config.update("jax_enable_compilation_cache", False)
    seconds: dict[str, list[float]] = {"jaxmodels": [], "by hand": []}
    state: TrainState = carried[0]
    for _ in range(rounds):
        for name, jitted, arguments in (
            ("jaxmodels", trainer_of((128,) * 3).step, (state, batch)),
            ("by hand", by_hand(), (carried[1], carried[2], batch.inputs, batch.targets)),
        ):
            start = time.perf_counter()
            jitted.lower(*arguments).compile()  # pyright: ignore[reportFunctionMemberAccess]
            seconds[name].append(time.perf_counter() - start)
    return seconds


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

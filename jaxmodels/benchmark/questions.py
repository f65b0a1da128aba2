"""Quick comparisons with other libraries, on data and sizes that take seconds: what ``jaxmodels bench`` asks.

Each answers the same problem as its peers, on float32, to the accuracy that float32 allows. Peers that are not
installed are left out. The scripts in ``bench/`` ask the same at full size.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jaxmodels import epochs, glm, linear, losses, mlp, resnet, train
from jaxmodels.benchmark.measure import Measurement, measure
from jaxmodels.core import Batch, InputError


class Question(NamedTuple):
    """What is timed, beside what."""

    function: Callable
    args: tuple
    peers: dict[str, Callable[[], Any]]
    pause: float = 0.0
    """Seconds before a turn: torch's threads spin for a while after theirs."""


def ask(
    name: str, *, rounds: int = 7, peers: Mapping[str, Callable[[], Any]] | None = None, pause: float = 0.0
) -> Measurement:
    """Measure one of ``QUESTIONS``.

    Args:
      peers: further ones.
      pause: seconds before each turn, at least.

    Raises:
      InputError: no question has that name; lists those that are.
    """
    if name not in QUESTIONS:
        raise InputError(f"name: {name!r} is not known; those that are: {', '.join(QUESTIONS)}")
    found = QUESTIONS[name]()
    every, pause = found.peers | dict(peers or {}), max(pause, found.pause)
    return measure(found.function, *found.args, peers=every, name=name, rounds=rounds, least_seconds=0.05, pause=pause)


def least_squares() -> Question:
    """Coefficients and intercept of 20,000 rows and 50 columns."""
    x, y = _rows(20_000, 50)
    design = np.column_stack([np.ones(len(x), np.float32), x])
    peers: dict[str, Callable[[], Any]] = {"numpy": lambda: np.linalg.lstsq(design, y, rcond=None)[0]}
    if _installed("sklearn"):
        from sklearn.linear_model import LinearRegression

        peers["scikit-learn"] = lambda: LinearRegression().fit(x, y).coef_
    return Question(lambda x, y: linear.fit(x, y).params, jax.device_put((x, y)), peers)


def many_least_squares() -> Question:
    """1,000 problems of 100 rows and 5 columns; numpy's in a loop."""
    x = np.random.default_rng(0).normal(size=(1_000, 100, 5)).astype(np.float32)
    y = x.sum(axis=2) + np.random.default_rng(1).normal(size=x.shape[:2]).astype(np.float32)
    designs = np.concatenate([np.ones_like(x[..., :1]), x], axis=2)

    def loop():
        return [np.linalg.lstsq(*each, rcond=None)[0] for each in zip(designs, y, strict=True)]

    function = jax.vmap(lambda x, y: linear.fit(x, y).params)
    return Question(function, jax.device_put((x, y)), {"numpy": loop})


def logistic() -> Question:
    """Logistic regression of 20,000 rows and 20 columns, ridge penalty 1/2."""
    x, predictor = _rows(20_000, 20)
    y = (predictor > 0).astype(np.float32)
    peers: dict[str, Callable[[], Any]] = {}
    if _installed("sklearn"):
        from sklearn.linear_model import LogisticRegression

        for solver in ("newton-cholesky", "lbfgs"):
            model = LogisticRegression(C=1.0, solver=solver, tol=1e-4, max_iter=1000)
            peers[f"scikit-learn {solver}"] = lambda model=model: model.fit(x, y).coef_
    function = jax.jit(lambda x, y: glm.fit(x, y, family="bernoulli", l2=1.0).params)
    return Question(function, jax.device_put((x, y)), peers)


def perceptron_epoch() -> Question:
    """An epoch of a perceptron 50-128-128-1 on 10,000 rows, batches of 256, Adam; torch eager."""
    examples, batch_size = Batch(*_rows(10_000, 50)), 256
    model = mlp.model(hidden_sizes=(128, 128), num_outputs=0)
    trainer = train.trainer(model, loss=losses.squared_error, optimizer=optax.adam(1e-3))
    on_device = jax.device_put(examples)
    carried = [trainer.init(jax.random.key(0), on_device)]

    def epoch():
        carried[0] = epochs.fit(trainer, carried[0], on_device, batch_size=batch_size, num_epochs=1, loop="scan").state
        return carried[0].params

    peers = {"torch": _torch_epoch(examples, batch_size)} if _installed("torch") else {}
    return Question(epoch, (), peers, pause=0.1)


def _torch_epoch(examples: Batch, batch_size: int) -> Callable[[], None]:
    import torch

    nn = torch.nn
    network = nn.Sequential(nn.Linear(50, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 1))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    inputs, targets = torch.from_numpy(examples.inputs), torch.from_numpy(examples.targets)

    def epoch():
        for rows in torch.randperm(len(targets)).split(batch_size):
            optimizer.zero_grad()
            nn.functional.mse_loss(network(inputs[rows])[:, 0], targets[rows]).backward()
            optimizer.step()

    return epoch


def resnet_inference() -> Question:
    """ResNet18, 4 images of 96 pixels; beside the network as it stands, without folding or compiler options."""
    images = np.random.default_rng(0).normal(size=(4, 96, 96, 3)).astype(np.float32)
    model = resnet.resnet18(zero_init_residual=False)
    params, state = model.init(jax.random.key(0), images)
    on_device = jax.device_put(images)
    fast, plain = (resnet.inference(model, params, state, fast=each) for each in (True, False))
    return Question(fast, (on_device,), {"as it stands": lambda: plain(on_device)})


QUESTIONS: dict[str, Callable[[], Question]] = {
    function.__name__: function
    for function in (least_squares, many_least_squares, logistic, perceptron_epoch, resnet_inference)
}


def _rows(count: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, columns)).astype(np.float32)
    y = x @ rng.normal(size=columns) / columns**0.5 + rng.normal(size=count)
    return x, y.astype(np.float32)


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None

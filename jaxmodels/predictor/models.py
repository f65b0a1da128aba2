"""The models that a table can be fitted with, each as three functions; adding one here is all that it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmodels import elastic_net, glm, linear, split
from jaxmodels.core import PyTree, Status
from jaxmodels.predictor import networks
from jaxmodels.predictor.options import Options
from jaxmodels.predictor.task import Fitted, Task

L1_RATIOS = (0.1, 0.5, 1.0)


class TableModel(NamedTuple):
    """A model of tables."""

    applies: Callable[[Task], bool]
    fit: Callable[[np.ndarray, np.ndarray, np.ndarray, Task, Options], Fitted]
    """``(x [n, d], y [n], training [n], task, options)``; rows whose ``training`` is False are not read."""
    outputs: Callable[[PyTree, np.ndarray, Task, Options], Any]
    """``(params, x, task, options) -> [n]`` or ``[n, k]``: predictions, of classes logits."""
    like: Callable[[int, Task, Options], PyTree]
    """Shapes of the parameters for so many inputs, to read them from a file."""


def coefficients(name: str, fitted: Fitted, x: np.ndarray, y: np.ndarray, task: Task) -> dict[str, np.ndarray] | None:
    """``[outputs, 1 + d]``: estimate, standard error, p-value and interval of the intercept and each input.

    ``None`` for a model that has no such errors.
    """
    if name == "linear":
        inference = linear.infer(fitted.solution, x, y)
    elif name == "glm":
        solution, l2 = fitted.solution
        inference = glm.infer(solution, x, y, family=task.family, l2=l2)
    else:
        return None
    interval = np.asarray(inference.confidence_interval)
    parts = {
        "estimate": inference.estimate,
        "standard_error": inference.standard_error,
        "p_value": inference.p_value,
        "low": interval[..., 0],
        "high": interval[..., 1],
    }
    return {name: np.atleast_2d(np.asarray(part)) for name, part in parts.items()}


def _remark(status: Any) -> str | None:
    status = Status(int(status))
    return None if status == Status.ok else f"{status.name}: {status.advice}"


def _linear_shapes(num_inputs: int, task: Task, options: Options) -> PyTree:
    shape = (task.num_outputs,) if task.num_outputs else ()
    return linear.LinearParams(jax.ShapeDtypeStruct((num_inputs, *shape), float), jax.ShapeDtypeStruct(shape, float))


def _linear_outputs(params: PyTree, x: np.ndarray, task: Task, options: Options) -> Any:
    outputs = linear.predict(params, x)
    return outputs if task.classes is not None else task.family.mean(outputs)


def _fit_linear(x: np.ndarray, y: np.ndarray, training: np.ndarray, task: Task, options: Options) -> Fitted:
    solution = linear.fit(x, y, mask=training)
    return Fitted(solution.params, solution, _remark(solution.status))


def _fit_glm(x: np.ndarray, y: np.ndarray, training: np.ndarray, task: Task, options: Options) -> Fitted:
    solution, l2, remark = glm.fit(x, y, family=task.family, mask=training, l2=0.0), 0.0, None
    if int(solution.status) == Status.separated:
        solution, l2 = glm.fit(x, y, family=task.family, mask=training, l2=1.0), 1.0
        remark = (
            "the classes are separated, so the coefficients have a ridge penalty of 1 and their errors are too small"
        )
    return Fitted(solution.params, (solution, l2), remark or _remark(solution.status))


def _fit_elastic_net(x: np.ndarray, y: np.ndarray, training: np.ndarray, task: Task, options: Options) -> Fitted:
    """Inputs are not scaled again: one-hot columns share a scale, so that rare categories are shrunk the most."""
    folds = np.zeros(len(y), np.int32)
    folds[training] = split.k_fold(int(training.sum()), options.folds, seed=options.seed)
    found = elastic_net.cross_validate(
        x, y, folds=folds, mask=training, family=task.family, l1_ratios=L1_RATIOS, num_alphas=50, standardize=False
    )
    best = found.best
    return Fitted(best.params, None, f"l1_ratio {float(best.l1_ratio):g}, alpha {float(best.alpha):.4g}, by its folds")


MODELS = {
    "linear": TableModel(
        lambda task: task.classes is None and task.family.name == "gaussian",
        _fit_linear,
        _linear_outputs,
        _linear_shapes,
    ),
    "glm": TableModel(lambda task: True, _fit_glm, _linear_outputs, _linear_shapes),
    "elastic_net": TableModel(
        lambda task: task.family.name in ("gaussian", "bernoulli", "poisson", "categorical"),
        _fit_elastic_net,
        _linear_outputs,
        _linear_shapes,
    ),
    "mlp": TableModel(
        lambda task: task.classes is not None or task.family.name == "gaussian",
        networks.fit,
        networks.outputs,
        networks.shapes,
    ),
}

"""Regression, neural networks and ResNets as pure functions in JAX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# name -> module: `from jaxmodels import resnet` imports jaxmodels.networks.resnet, and nothing else.
_MODULES = {
    "basis": "regression.basis",
    "benchmark": "benchmark",
    "checkpoint": "checkpoint",
    "classifier": "classifier",
    "core": "core",
    "data": "data",
    "embeddings": "networks.embeddings",
    "encode": "preprocess.encode",
    "epochs": "epochs",
    "estimators": "estimators",
    "elastic_net": "regression.elastic_net",
    "evaluate": "evaluate",
    "families": "families",
    "glm": "regression.glm",
    "images": "preprocess.images",
    "inference": "regression.inference",
    "linear": "regression.linear",
    "links": "links",
    "losses": "losses",
    "metrics": "metrics",
    "mlp": "networks.mlp",
    "nonlinear": "regression.nonlinear",
    "optimizers": "optimizers",
    "plots": "plots",
    "predictor": "predictor",
    "pretrained": "pretrained",
    "resampling": "regression.resampling",
    "resnet": "networks.resnet",
    "split": "preprocess.split",
    "streaming": "regression.streaming",
    "sweeps": "sweeps",
    "tables": "data.tables",
    "tabular": "preprocess.tabular",
    "train": "train",
    "transfer": "transfer",
    "wrap": "wrap",
}

if TYPE_CHECKING:
    from jaxmodels import (
        benchmark,
        classifier,
        core,
        data,
        epochs,
        estimators,
        evaluate,
        families,
        links,
        losses,
        metrics,
        plots,
        predictor,
        pretrained,
        sweeps,
        train,
        transfer,
        wrap,
    )
    from jaxmodels.data import tables
    from jaxmodels.networks import embeddings, mlp, resnet
    from jaxmodels.preprocess import encode, images, split, tabular
    from jaxmodels.regression import basis, elastic_net, glm, inference, linear, nonlinear, resampling, streaming


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module 'jaxmodels' has no attribute {name!r}; it has {', '.join(sorted(_MODULES))}")
    return importlib.import_module(f"jaxmodels.{_MODULES[name]}")


def __dir__() -> list[str]:
    return sorted([*_MODULES, "__version__"])

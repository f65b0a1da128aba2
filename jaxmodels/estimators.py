"""Perceptrons with scikit-learn's interface, for its pipelines, searches and cross-validation.

``fit`` standardises the inputs (and a regressor's targets), trains by ``epochs.fit`` and keeps NumPy arrays alone, so
that an estimator can be pickled and copied. Needs scikit-learn: ``pip install 'jaxmodels[sklearn]'``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels import epochs, losses, optimizers, train
from jaxmodels.core import Batch, InputError, Model, PyTree, cached_factory
from jaxmodels.networks import mlp
from jaxmodels.transfer import moments

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state, column_or_1d
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "jaxmodels.estimators needs scikit-learn 1.6 or later: pip install 'jaxmodels[sklearn]'"
    ) from error


class _Perceptron(BaseEstimator):
    """What both estimators share: their parameters, training and outputs."""

    def __init__(
        self,
        hidden_sizes: Sequence[int] = (64, 64),
        *,
        activation: str = "relu",
        norm: str = "none",
        residual: bool = False,
        dropout: float = 0.0,
        optimizer: str = "adam",
        learning_rate: float = 3e-3,
        weight_decay: float = 0.0,
        batch_size: int = 64,
        num_epochs: int = 200,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        random_state: int | np.random.RandomState | None = 0,
    ):
        self.hidden_sizes = hidden_sizes
        self.activation = activation
        self.norm = norm
        self.residual = residual
        self.dropout = dropout
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.num_epochs = num_epochs
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def _model(self, num_outputs: int) -> Model:
        return mlp.model(
            hidden_sizes=tuple(self.hidden_sizes),
            num_outputs=num_outputs,
            activation=self.activation,
            norm=self.norm,
            residual=self.residual,
            dropout=self.dropout,
        )

    def _train(self, inputs: np.ndarray, targets: np.ndarray, num_outputs: int, loss: Callable) -> None:
        self.mean_, self.scale_ = moments(inputs)
        model, seed = self._model(num_outputs), int(check_random_state(self.random_state).randint(2**31))
        trainer = _trainer(model, loss, self.optimizer, self.learning_rate, self.weight_decay)
        training, held_out = self._split(_standardised(inputs, self.mean_, self.scale_), targets, seed)
        trained = epochs.fit(
            trainer,
            trainer.init(jax.random.key(seed), training),
            training,
            batch_size=min(self.batch_size, len(training.targets)),
            num_epochs=self.num_epochs,
            seed=seed,
            validation=None if held_out is None else functools.partial(_mean_loss, model, loss, held_out),
            patience=self.patience,
        )
        self.params_, self.state_ = jax.device_get((trained.state.params, trained.state.state))
        self.losses_ = trained.losses

    def _split(self, inputs: np.ndarray, targets: np.ndarray, seed: int) -> tuple[Batch, Batch | None]:
        if self.patience is None:
            return Batch(inputs, targets), None
        count = round(self.validation_fraction * len(targets))
        if not 0 < count < len(targets):
            raise InputError(
                f"validation_fraction: {self.validation_fraction} of {len(targets)} rows leaves none to "
                f"{'train on' if count else 'stop by'}; change it, or set patience=None"
            )
        rows = np.random.default_rng(seed).permutation(len(targets))
        held_out, training = rows[:count], rows[count:]
        return Batch(inputs[training], targets[training]), Batch(inputs[held_out], targets[held_out])

    def _outputs(self, X, num_outputs: int) -> np.ndarray:
        """The network's outputs, rows padded to a power of two so that few shapes are compiled."""
        check_is_fitted(self)
        inputs = np.asarray(validate_data(self, X, dtype=np.float64, reset=False))
        padded = np.zeros((max(32, 1 << (len(inputs) - 1).bit_length()), inputs.shape[1]), np.float32)
        padded[: len(inputs)] = _standardised(inputs, self.mean_, self.scale_)
        outputs = _apply(self._model(num_outputs), self.params_, self.state_, padded)
        return np.asarray(outputs, np.float64)[: len(inputs)]


class MLPRegressor(RegressorMixin, _Perceptron):
    """A perceptron for one number a row, least squares.

    Args:
      hidden_sizes: units of the hidden layers; ``()`` is a linear model.
      activation, norm, residual, dropout: as in ``mlp.model``.
      optimizer, weight_decay: as in ``optimizers.optimizer``.
      learning_rate: constant.
      batch_size: rows a step.
      num_epochs: passes over the rows, at most.
      patience: epochs without improvement on the rows held out for it after which to stop; ``None``: train on all rows
        to the end.
      validation_fraction: share of the rows held out for ``patience``.
      random_state: of the initial parameters, the order of the rows, dropout and the rows held out.

    >>> X = np.linspace(-1, 1, 200)[:, None]
    >>> bool(MLPRegressor((16,)).fit(X, X[:, 0] ** 2).score(X, X[:, 0] ** 2) > 0.95)
    True
    """

    def fit(self, X, y) -> MLPRegressor:
        """Train on inputs ``[n, d]`` and targets ``[n]``."""
        inputs, targets = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        targets = column_or_1d(targets, warn=True)
        (mean,), (scale,) = moments(targets[:, None].astype(np.float64))
        self.target_mean_, self.target_scale_ = float(mean), float(scale)
        targets = np.asarray((targets - mean) / scale, np.float32)
        self._train(inputs, targets, 0, losses.squared_error)
        return self

    def predict(self, X) -> np.ndarray:
        """Predictions ``[n]``."""
        outputs = self._outputs(X, 0)
        return outputs * self.target_scale_ + self.target_mean_


class MLPClassifier(ClassifierMixin, _Perceptron):
    """A perceptron for classes, cross-entropy; arguments as ``MLPRegressor``'s.

    >>> X = np.linspace(-1, 1, 200)[:, None]
    >>> y = np.where(abs(X[:, 0]) < 0.5, "in", "out")
    >>> bool(MLPClassifier((16,)).fit(X, y).score(X, y) > 0.95)
    True
    """

    def fit(self, X, y) -> MLPClassifier:
        """Train on inputs ``[n, d]`` and labels ``[n]`` of any kind."""
        inputs, labels = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(labels)
        self.classes_, targets = np.unique(column_or_1d(labels, warn=True), return_inverse=True)
        self._train(inputs, targets.astype(np.int32), len(self.classes_), losses.softmax_cross_entropy)
        return self

    def predict_proba(self, X) -> np.ndarray:
        """Probabilities ``[n, k]`` of the ``classes_``."""
        check_is_fitted(self)
        logits = self._outputs(X, len(self.classes_))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def predict(self, X) -> np.ndarray:
        """The most probable class of each row ``[n]``."""
        most_probable = self.predict_proba(X).argmax(axis=1)
        return self.classes_[most_probable]


# Cached, so that an estimator that is fitted again, in cross-validation say, compiles nothing again.
@cached_factory
def _trainer(model: Model, loss: Callable, name: str, learning_rate: float, weight_decay: float) -> train.Trainer:
    return train.trainer(
        model, loss=loss, optimizer=optimizers.optimizer(name, learning_rate, weight_decay=weight_decay)
    )


def _standardised(inputs: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.asarray((inputs - mean) / scale, np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _apply(model: Model, params: PyTree, state: PyTree, inputs: jax.Array) -> jax.Array:
    return model.apply(params, state, inputs)[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _mean_loss(model: Model, loss: Callable, batch: Batch, params: PyTree, state: PyTree) -> jax.Array:
    return jnp.mean(loss(model.apply(params, state, batch.inputs)[0], batch.targets))

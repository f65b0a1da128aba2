"""``jaxmodels demo``: one training loop, three models, on data that scikit-learn brings along.

A linear regression (diabetes), a perceptron (breast cancer) and a ResNet50 from scratch (digits) differ in their
``Model``, loss and metrics; ``fit`` below trains all three.
"""

from __future__ import annotations

import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmodels import console, data, evaluate, linear, losses, mlp, plots, resnet, train
from jaxmodels.core import Batch, InputError, Model, TrainState


class Task(NamedTuple):
    """Arrays split into a part to train on and a part held out."""

    inputs: np.ndarray
    targets: np.ndarray
    held_inputs: np.ndarray
    held_targets: np.ndarray


def run(output: pathlib.Path) -> None:
    """Train the three models, print what they are worth on held-out data and draw it into ``output``."""
    started = time.monotonic()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output: {output} cannot be made ({error.strerror}); choose another folder") from error
    linear_regression(output)
    perceptron(output)
    digits(output)
    print(f"\npictures in {output}/; {time.monotonic() - started:.0f} s on {jax.devices()[0].device_kind}")
    print("\nnext, on photographs of your own (photos/<class>/*.jpg):")
    print("  jaxmodels train photos/ --model resnet18 --image-size 64 --output runs/first     # from scratch")
    print("  jaxmodels train photos/ --weights resnet50.pth --output runs/second              # from published weights")


def fit(
    name: str,
    model: Model,
    task: Task,
    *,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    num_epochs: int,
    batch_size: int,
    augment: Callable | None = None,
) -> tuple[TrainState, list[dict]]:
    """The one loop; returns the trained state and the history of its losses."""
    history: list[dict] = []
    held_out = Batch(jnp.asarray(task.held_inputs), jnp.asarray(task.held_targets))
    trainer = train.trainer(
        model, loss=loss, optimizer=optimizer, augment=augment, compiler_options=resnet.compiler_options()
    )
    steps = data.steps_per_epoch(len(task.targets), batch_size)

    def batches(epoch, step):
        return data.array_batches(task.inputs, task.targets, batch_size=batch_size, epoch=epoch, step=step)

    with console.bar(name, total=steps * num_epochs) as advance:

        def on_epoch(progress, state):
            outputs = resnet.inference(model, state.params, state.state)(held_out.inputs)
            val_loss = float(loss(outputs, held_out.targets).mean())
            history.append({"epoch": progress.epoch, "train_loss": progress.loss, "val_loss": val_loss})

        state = train.fit(
            trainer,
            trainer.init(jax.random.key(0), next(iter(batches(0, 0)))),
            batches,
            num_epochs=num_epochs,
            steps_per_epoch=steps,
            on_step=lambda progress: advance(f"epoch {progress.epoch}, loss {progress.loss:.3f}"),
            on_epoch=on_epoch,
        )
    return state, history


def linear_regression(output: pathlib.Path) -> None:
    """Disease progression from ten measurements, by gradient descent on the squared error, and where that ends."""
    bunch = _datasets().load_diabetes()
    scale = bunch.target.std()
    task = _split(bunch.data / bunch.data.std(axis=0), bunch.target / scale)
    state, history = fit(
        "linear regression",
        linear.model(),
        task,
        loss=losses.squared_error,
        optimizer=optax.sgd(0.05),
        num_epochs=100,
        batch_size=64,
    )
    predicted = linear.predict(state.params, jnp.asarray(task.held_inputs))
    report = evaluate.regression_report(predicted * scale, task.held_targets * scale)
    print(f"linear regression, diabetes: R2 {report['r2']:.3f}, RMSE {report['root_mean_squared_error']:.1f}")
    exact = linear.fit(task.inputs, task.targets)
    print(linear.summary(linear.infer(exact, task.inputs, task.targets), names=bunch.feature_names))
    plots.learning_curve(history, output / "linear_learning_curve.png")
    plots.regression(np.asarray(predicted) * scale, task.held_targets * scale, output / "linear_predictions.png")


def perceptron(output: pathlib.Path) -> None:
    """Malignant or benign, from thirty measurements of cell nuclei."""
    bunch = _datasets().load_breast_cancer()
    task = _split(bunch.data, bunch.target.astype(np.int32))
    mean, deviation = task.inputs.mean(axis=0), task.inputs.std(axis=0)
    task = task._replace(inputs=(task.inputs - mean) / deviation, held_inputs=(task.held_inputs - mean) / deviation)
    model = mlp.model(hidden_sizes=(32,), num_outputs=2, dropout=0.2)
    state, history = fit(
        "perceptron",
        model,
        task,
        loss=losses.softmax_cross_entropy,
        optimizer=optax.adam(3e-3),
        num_epochs=30,
        batch_size=64,
    )
    logits = mlp.apply(state.params, jnp.asarray(task.held_inputs))
    report = evaluate.classification_report(logits, task.held_targets, classes=list(bunch.target_names))
    print(f"perceptron, breast cancer: accuracy {report['accuracy']:.3f}, ROC AUC {report['roc_auc']:.3f}")
    plots.learning_curve(history, output / "perceptron_learning_curve.png")
    plots.roc(report, output / "perceptron_roc.png")
    plots.confusion_matrix(report, output / "perceptron_confusion_matrix.png")


def digits(output: pathlib.Path) -> None:
    """Handwritten digits of 8 x 8 pixels by the full ResNet50, from scratch."""
    bunch = _datasets().load_digits()
    pixels = np.repeat(bunch.images[..., None] / 16, 3, axis=-1)
    task = _split(pixels, bunch.target.astype(np.int32))
    model = resnet.resnet50(num_classes=10, stem="small")
    num_epochs, batch_size = 6, 64
    steps = num_epochs * data.steps_per_epoch(len(task.targets), batch_size)
    state, history = fit(
        "ResNet50",
        model,
        task,
        loss=functools.partial(losses.softmax_cross_entropy, label_smoothing=0.1),
        optimizer=optax.adam(optax.cosine_onecycle_schedule(steps, 2e-3)),
        num_epochs=num_epochs,
        batch_size=batch_size,
    )
    logits = np.asarray(resnet.inference(model, state.params, state.state)(task.held_inputs))
    report = evaluate.classification_report(logits, task.held_targets, classes=list(map(str, range(10))))
    print(f"ResNet50 from scratch, digits: accuracy {report['accuracy']:.3f}, macro F1 {report['macro']['f1']:.3f}")
    plots.learning_curve(history, output / "resnet50_learning_curve.png")
    plots.confusion_matrix(report, output / "resnet50_confusion_matrix.png")
    plots.roc(report, output / "resnet50_roc.png")
    wrong = evaluate.most_confident_mistakes(logits, task.held_targets, count=16)
    titles = [f"{task.held_targets[row]}, called {logits[row].argmax()}" for row in wrong]
    plots.mistakes([np.uint8(255 * task.held_inputs[row]) for row in wrong], titles, output / "resnet50_mistakes.png")


def _split(inputs: np.ndarray, targets: np.ndarray, *, held_out: float = 0.2) -> Task:
    rows = data.order(len(targets), seed=0, epoch=0)
    inputs = inputs.astype(np.float32)
    targets = targets if targets.dtype == np.int32 else targets.astype(np.float32)
    test, training = np.split(rows, [round(held_out * len(rows))])
    return Task(inputs[training], targets[training], inputs[test], targets[test])


def _datasets() -> Any:
    try:
        import sklearn.datasets
    except ImportError as error:
        raise InputError("the demo's data come with scikit-learn: pip install 'jaxmodels[demo]'") from error
    return sklearn.datasets

"""What a person does with a classifier: train it, evaluate it on other photographs, predict with it."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmodels import checkpoint, console, data, plots, pretrained, runs
from jaxmodels import evaluate as evaluation
from jaxmodels.classifier import network, training
from jaxmodels.classifier.network import Classifier
from jaxmodels.classifier.options import Options, changed, check
from jaxmodels.core import Batch, InputError, PyTree
from jaxmodels.data import decode
from jaxmodels.networks import resnet
from jaxmodels.preprocess.images import IMAGENET, Preprocess

CACHE_BYTES = 4 * 2**30
"""Decoded pixels kept in memory between epochs."""
MISTAKES = 16
"""Most confident mistakes drawn on the contact sheet."""


class Prediction(NamedTuple):
    """What a classifier says of one file."""

    file: str
    label: str | None
    """The likeliest class; ``None`` where the file cannot be read."""
    probabilities: dict[str, float]
    """Of every class; empty where the file cannot be read."""
    error: str | None
    """Why the file cannot be read, in one line."""


def train(
    directory: str | os.PathLike,
    options: Options,
    *,
    output: str | os.PathLike,
    resume: bool = False,
    strict: bool = False,
    workers: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train a classifier on a folder of photographs and leave a run.

    Nothing is written before the options, the photographs and the weights have been found good.

    Args:
      directory: ``train/<class>/...`` and ``val/<class>/...``, or ``<class>/...`` to be split.
      options: what to train; with ``resume``, those that differ from their defaults must be the run's own.
      output: folder of the run, made here.
      resume: continue the run at ``output`` where it stopped.
      strict: a file that cannot be read is an error; otherwise it is left out and listed in ``skipped.json``.
      workers: decoding threads.
      should_stop: asked before every step; True saves and returns.

    Returns:
      A summary: ``finished``, ``step``, metrics on the validation images, ``seconds``, ``images_per_second`` (through
      the network) and ``peak_memory_mib``.

    Raises:
      InputError: names what is wrong and the fix.
    """
    started, output = time.monotonic(), pathlib.Path(output)
    if resume:
        job, extractor = _continued(directory, options, output, strict, workers, should_stop)
    else:
        job, extractor = _begun(directory, options, output, strict, workers, should_stop)
    for entry in job.photographs.skipped:
        console.line(f"skipped {entry.path!r}: {entry.reason}")
    trained = training.fit(job, extractor, resume=resume)
    summary = {"run": str(job.run.path), "finished": trained.finished, "step": trained.step}
    if trained.finished:
        network.save(job.run, trained.params, trained.state)
        validation = job.photographs.validation
        report = write_report(job.run.path, trained.logits, validation, job.preprocess)
        plots.learning_curve(_epochs(job.run), job.run.plots / "learning_curve.png")
        summary |= {name: report[name] for name in ("loss", "accuracy", "roc_auc")}
    return summary | {
        "seconds": round(time.monotonic() - started, 1),
        "images_per_second": round(training.images_per_second(job.run), 2),
        "peak_memory_mib": _peak_memory_mib(),
    }


def _begun(directory, options: Options, output, strict, workers, should_stop) -> tuple[training.Job, PyTree | None]:
    check(options)
    runs.check_free(output)
    photographs = training.read(directory, options, strict=strict, workers=workers)
    extractor, preprocess = _pretrained(options)
    config = {
        "options": dataclasses.asdict(options),
        "classes": photographs.training.classes,
        "preprocess": preprocess._asdict(),
        "photographs": training.fingerprint(photographs),
    }
    cache = data.PixelCache(CACHE_BYTES)
    job = training.Job(options, preprocess, photographs, runs.Run(output), workers, cache, should_stop)
    training.check_pixels(job)
    run = runs.create(output, config)
    runs.write_json(run.path / "skipped.json", [entry._asdict() for entry in photographs.skipped])
    return job, extractor


def _continued(directory, options: Options, output, strict, workers, should_stop) -> tuple[training.Job, PyTree | None]:
    run, config = runs.open_run(output)
    own, preprocess, _ = network.read_config(run, config)
    for name, value in changed(options).items():
        if value != getattr(own, name):
            raise InputError(
                f"--{name.replace('_', '-')}: {value!r}, but {output} was begun with {getattr(own, name)!r}; "
                "leave it out to resume, or start a new run"
            )
    photographs = training.read(directory, own, strict=strict, workers=workers)
    if config["photographs"] != training.fingerprint(photographs):
        raise InputError(f"{os.fspath(directory)!r} holds other photographs than {output} began with; start a new run")
    saved = checkpoint.exists(run.checkpoint) or checkpoint.exists(run.frozen)
    extractor = None if saved else _pretrained(own)[0]
    cache = data.PixelCache(CACHE_BYTES)
    return training.Job(own, preprocess, photographs, run, workers, cache, should_stop), extractor


def _pretrained(options: Options) -> tuple[PyTree | None, Preprocess]:
    """(params, state) of the extractor, and the preprocessing that belongs to them."""
    size = options.image_size
    sizes = {"image_size": size, "resize_size": round(size * 256 / 224)}
    if options.weights is None:
        return None, IMAGENET._replace(**sizes)
    _, params, state, preprocess = pretrained.load(options.weights, model=options.model, num_classes=0)
    preprocess = preprocess._replace(**sizes)
    body = network.extractor(options, preprocess)
    # The backbone stands second in the extractor's chain; nothing else there has parameters.
    like = jax.eval_shape(lambda key: body.init(key, network.one_image(options)), jax.random.key(0))
    return ((like[0][0], params, *like[0][2:]), (like[1][0], state, *like[1][2:])), preprocess


def evaluate(
    run: str | os.PathLike, directory: str | os.PathLike, *, strict: bool = False, workers: int | None = None
) -> tuple[dict[str, Any], pathlib.Path]:
    """Measure a trained classifier on a folder ``<class>/...`` of photographs.

    Returns:
      (report, folder): what ``evaluate.classification_report`` gives, and where it was written with its plots:
      ``run/evaluations/<name of the folder>``.
    """
    classifier = network.load(run)
    folder = data.scan(directory, classes=classifier.classes)
    folder, skipped = data.check(folder, strict=strict, workers=workers)
    for entry in skipped:
        console.line(f"skipped {entry.path!r}: {entry.reason}")
    logits = _logits(classifier, folder, workers)
    target = pathlib.Path(run) / "evaluations" / pathlib.Path(directory).resolve().name
    return write_report(target, logits, folder, classifier.preprocess), target


def _logits(classifier: Classifier, folder: data.ImageFolder, workers: int | None) -> np.ndarray:
    predict = resnet.inference(classifier.model, classifier.params, classifier.state)
    batch_size = min(classifier.options.batch_size, len(folder.paths))
    batches = _crops(folder, classifier.preprocess, batch_size=batch_size, workers=workers)
    return evaluation.collect(predict, batches).outputs


def _crops(
    folder: data.ImageFolder, preprocess: Preprocess, *, batch_size: int, workers: int | None = None
) -> Iterator[Batch]:
    """What the network sees of photographs, in their order."""
    return data.batches(
        folder,
        batch_size=batch_size,
        image_size=preprocess.image_size,
        resize_size=preprocess.resize_size,
        interpolation=preprocess.interpolation,
        shuffle=False,
        workers=workers,
    )


def write_report(
    path: pathlib.Path, logits: np.ndarray, folder: data.ImageFolder, preprocess: Preprocess
) -> dict[str, Any]:
    """Write ``report.json`` and the plots of a classifier's logits on photographs; returns the report."""
    report = evaluation.classification_report(logits, folder.labels, classes=folder.classes)
    drawn = path / "plots"
    drawn.mkdir(parents=True, exist_ok=True)
    runs.write_text(path / "report.json", json.dumps(report) + "\n")
    plots.roc(report, drawn / "roc.png")
    plots.confusion_matrix(report, drawn / "confusion_matrix.png")
    plots.calibration(report, drawn / "calibration.png")
    wrong = evaluation.most_confident_mistakes(logits, folder.labels, count=MISTAKES)
    if len(wrong):
        shown = folder._replace(paths=tuple(folder.paths[row] for row in wrong), labels=folder.labels[wrong])
        images = [*np.asarray(next(_crops(shown, preprocess, batch_size=len(wrong))).inputs)]
        titles = [_mistake(logits[row], folder, row) for row in wrong]
        plots.mistakes(images, titles, drawn / "mistakes.png")
    return report


def _mistake(logits: np.ndarray, folder: data.ImageFolder, row: int) -> str:
    probability = float(jax.nn.softmax(logits).max())
    return f"{folder.classes[folder.labels[row]]}, called {folder.classes[logits.argmax()]} ({probability:.2f})"


def predict(run: str | os.PathLike, files: Iterable[str | os.PathLike]) -> Iterator[Prediction]:
    """Classify image files, one at a time; a file that cannot be read gives a ``Prediction`` that says why."""
    classifier = network.load(run)
    model = resnet.inference(classifier.model, classifier.params, classifier.state)
    preprocess = classifier.preprocess
    for file in files:
        try:
            pixels = decode.resize_and_crop(
                decode.decode(file),
                resize_size=preprocess.resize_size,
                crop_size=preprocess.image_size,
                interpolation=preprocess.interpolation,
            )
        except data.DecodeError as error:
            yield Prediction(os.fspath(file), None, {}, error.reason)
            continue
        probabilities = np.asarray(jax.nn.softmax(model(pixels[None])[0]))
        ranked = dict(zip(classifier.classes, map(float, probabilities), strict=True))
        yield Prediction(os.fspath(file), classifier.classes[probabilities.argmax()], ranked, None)


def _peak_memory_mib() -> float:
    """Of this process, and of its accelerator where there is one."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes on macOS, KiB elsewhere
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    device = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    return round((host + device) / 2**20)


def _epochs(run: runs.Run) -> list[dict[str, Any]]:
    return [record for record in runs.read_metrics(run) if record["kind"] == "epoch"]

"""Train a classifier on a folder: the head on frozen features, then the whole network, resumable at any step."""

from __future__ import annotations

import functools
import hashlib
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels import checkpoint, console, data, evaluate, losses, optimizers, runs, train, transfer
from jaxmodels.classifier import network
from jaxmodels.classifier.options import Options
from jaxmodels.core import Batch, InputError, Model, PyTree, TrainState, chain, stateless
from jaxmodels.networks import resnet
from jaxmodels.preprocess import images as preprocessing
from jaxmodels.preprocess.images import Preprocess


class Photographs(NamedTuple):
    """Images that can be read, and those that cannot."""

    training: data.ImageFolder
    validation: data.ImageFolder
    skipped: tuple[data.Skipped, ...]


class Job(NamedTuple):
    """All that a training is made from, fixed before its first step."""

    options: Options
    preprocess: Preprocess
    photographs: Photographs
    run: runs.Run
    workers: int | None
    cache: data.PixelCache
    should_stop: Callable[[], bool]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.photographs.training.classes

    @property
    def steps_per_epoch(self) -> int:
        return data.steps_per_epoch(len(self.photographs.training.paths), self.options.batch_size)

    @property
    def num_epochs(self) -> int:
        if self.options.steps is None:
            return self.options.epochs
        return -(-self.options.steps // self.steps_per_epoch)  # whole epochs

    @property
    def frozen_epochs(self) -> int:
        asked = self.options.frozen_epochs
        if asked is None:
            asked = self.num_epochs if self.options.weights else 0
        return min(asked, self.num_epochs)


class Phase(NamedTuple):
    """A stretch of epochs in which the same parameters are trained by one compiled step."""

    name: str
    trainer: train.Trainer
    batches: Callable[[int, int], Iterable[Batch]]
    num_epochs: int
    first_step: int
    whole: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]
    """(params, state) of what is trained -> (params, state) of the whole network."""
    logits: Callable[[PyTree, PyTree], np.ndarray]
    """(params, state) of what is trained -> logits of the validation images."""
    on_features: bool = False
    """Its batches hold features that were computed before, not images."""


class Trained(NamedTuple):
    """What a phase leaves."""

    params: PyTree
    """Of the whole network, averaged where ``ema`` was asked for."""
    state: PyTree
    logits: np.ndarray
    """Of the validation images."""
    finished: bool
    """False where it was asked to stop before its last epoch."""
    step: int


def read(directory: str | pathlib.Path, options: Options, *, strict: bool, workers: int | None) -> Photographs:
    """Find the photographs and set those aside that cannot be read; ``strict`` makes one of them an error."""
    training, validation = data.read_folder(
        directory, validation_fraction=options.validation_fraction, seed=options.seed
    )
    training, _ = data.check(training, strict=strict, workers=workers)
    validation, _ = data.check(validation, strict=strict, workers=workers)
    if options.batch_size > len(training.paths):
        raise InputError(
            f"--batch-size: {options.batch_size} is more than the {len(training.paths)} training images; lower it"
        )
    return Photographs(training, validation, (*training.skipped, *validation.skipped))


def check_pixels(job: Job) -> None:
    """Raise ``InputError`` now, not in the middle of a run, where a packed store lacks pixels that it will need."""
    augment, whole = job.options.augment, job.num_epochs > job.frozen_epochs
    modes = ["crop"] if job.options.weights or augment == "never" else []
    modes += ["canvas"] if augment == "always" or (augment == "auto" and whole) else []
    for mode in modes:
        _images(job, job.photographs.training, mode=mode)  # nothing is read before the first batch
    _images(job, job.photographs.validation)


def fingerprint(photographs: Photographs) -> str:
    """Changes when an image is added, removed or renamed, so that a resumed run sees the data it began with."""
    names = [
        f"{folder.classes[label]}/{pathlib.Path(path).name}"
        for folder in photographs[:2]
        for path, label in zip(folder.paths, folder.labels, strict=True)
    ]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def fit(job: Job, extractor: PyTree | None, *, resume: bool = False) -> Trained:
    """Run the phases from the start, or from the run's checkpoint.

    Args:
      extractor: pretrained (params, state) of ``network.extractor``; ``None`` where there are none, or where a resumed
        run has them from its checkpoint.
    """
    resume = resume and checkpoint.exists(job.run.checkpoint)
    saved = checkpoint.metadata(job.run.checkpoint)["phase"] if resume else None
    trained = None
    if job.frozen_epochs and saved != "whole":
        extractor = _keep_frozen(job, extractor)
        trained = _run(job, _head_phase(job, extractor), resume=saved == "head")
        if not trained.finished:
            return trained
    if job.num_epochs > job.frozen_epochs:
        trained = _run(job, _whole_phase(job, _first_whole(job, extractor, trained)), resume=saved == "whole")
    assert trained is not None
    return trained


def _keep_frozen(job: Job, values: PyTree | None) -> PyTree:
    """Write the frozen network once, or read it back where a resumed run comes without it."""
    body = network.extractor(job.options, job.preprocess)
    if values is None:
        like = jax.eval_shape(lambda key: body.init(key, network.one_image(job.options)), jax.random.key(0))
        return checkpoint.restore(job.run.frozen, like)
    checkpoint.save(job.run.frozen, values)
    return values


def _run(job: Job, phase: Phase, *, resume: bool) -> Trained:
    """Train through a phase, writing metrics and checkpoints."""
    key, batch = jax.random.key(job.options.seed), next(iter(phase.batches(0, 0)))
    if resume:
        state = checkpoint.restore(job.run.checkpoint, jax.eval_shape(phase.trainer.init, key, batch))
    else:
        state = phase.trainer.init(key, batch)._replace(step=jnp.int32(phase.first_step))
    done = int(state.step)
    kept = runs.keep_metrics(job.run, lambda record: record["step"] <= done)
    begun = done // job.steps_per_epoch * job.steps_per_epoch
    earlier = [record for record in kept if record["kind"] == "step" and record["step"] > begun]
    last_step = phase.first_step + phase.num_epochs * job.steps_per_epoch
    with console.bar(f"training the {phase.name}", total=last_step - done) as advance:
        state = train.fit(
            phase.trainer,
            state,
            phase.batches,
            num_epochs=phase.num_epochs,
            steps_per_epoch=job.steps_per_epoch,
            first_step=phase.first_step,
            earlier=[train.Progress(*(record[name] for name in train.Progress._fields)) for record in earlier],
            on_step=functools.partial(_on_step, job, phase, advance),
            on_epoch=functools.partial(_on_epoch, job, phase),
            save=functools.partial(_save, job, phase),
            should_stop=job.should_stop,
        )
    trained = optimizers.averaged_params(state.opt_state, state.params), state.state
    return Trained(*phase.whole(*trained), phase.logits(*trained), int(state.step) == last_step, int(state.step))


def _on_step(job: Job, phase: Phase, advance: console.Advance, progress: train.Progress) -> None:
    images = 0 if phase.on_features else progress.weight
    runs.append(
        job.run, {"kind": "step", "phase": phase.name, "images": images, **_in_run(job, phase, progress)._asdict()}
    )
    advance(f"loss {progress.loss:.4f}")


def _on_epoch(job: Job, phase: Phase, progress: train.Progress, state: TrainState) -> None:
    logits = phase.logits(optimizers.averaged_params(state.opt_state, state.params), state.state)
    labels = job.photographs.validation.labels
    progress = _in_run(job, phase, progress)
    record = {
        "kind": "epoch",
        "phase": phase.name,
        "epoch": progress.epoch,
        "step": progress.step,
        "train_loss": progress.loss,
        "val_loss": float(losses.softmax_cross_entropy(jnp.asarray(logits), jnp.asarray(labels)).mean()),
        "val_accuracy": float((logits.argmax(axis=1) == labels).mean()),
    }
    runs.append(job.run, record)
    console.line(
        f"epoch {record['epoch']}/{job.num_epochs}: train loss {record['train_loss']:.4f}, "
        f"validation loss {record['val_loss']:.4f}, accuracy {record['val_accuracy']:.4f}"
    )


def _in_run(job: Job, phase: Phase, progress: train.Progress) -> train.Progress:
    """Epochs counted from the start of the run, not of the phase."""
    return progress._replace(epoch=progress.epoch + phase.first_step // job.steps_per_epoch)


def _save(job: Job, phase: Phase, state: TrainState) -> None:
    checkpoint.save(job.run.checkpoint, state, metadata={"phase": phase.name, "step": int(state.step)})


def _head_phase(job: Job, extractor: PyTree) -> Phase:
    """The head alone: on features computed once, or on augmented images where that was asked for."""
    features = _features(job, job.photographs.training, extractor, mirrored=job.options.augment == "auto")
    standard = transfer.standardize(*transfer.moments(features.reshape(-1, features.shape[-1])))
    head = network.head(job.options, len(job.classes))
    shared = {"name": "head", "num_epochs": job.frozen_epochs, "first_step": 0}
    if job.options.augment == "always":
        frozen = transfer.freeze(transfer.given(network.extractor(job.options, job.preprocess), *extractor))
        return Phase(
            **shared,
            trainer=_trainer(job, chain(frozen, standard, head), job.frozen_epochs, augment=_augmentation(job)),
            batches=functools.partial(_images, job, job.photographs.training, mode="canvas", shuffle=True),
            whole=transfer.unfreeze,
            logits=lambda params, state: _whole_logits(job, *transfer.unfreeze(params, state)),
        )
    model, held_out = chain(standard, head), _features(job, job.photographs.validation, extractor)[:, 0]
    return Phase(
        **shared,
        trainer=_trainer(job, model, job.frozen_epochs, augment=_one_view),
        batches=functools.partial(_feature_batches, job, features),
        whole=lambda params, state: ((extractor[0], *params), (extractor[1], *state)),
        logits=lambda params, state: np.asarray(resnet.inference(model, params, state)(held_out)),
        on_features=True,
    )


def _one_view(key: jax.Array, batch: Batch) -> Batch:
    """Of each example's views ``[n, views, d]``, one at random."""
    count, views, _ = batch.inputs.shape
    chosen = jax.random.randint(key, (count,), 0, views)
    return batch._replace(inputs=batch.inputs[jnp.arange(count), chosen])


def _first_whole(job: Job, extractor: PyTree | None, trained: Trained | None) -> Model:
    """The whole network, whose ``init`` gives what is known of its parameters."""
    if trained is not None:
        return transfer.given(_whole(job), trained.params, trained.state)
    if extractor is None:
        return _whole(job)
    body = network.extractor(job.options, job.preprocess)
    standard = transfer.standardize(*transfer.moments(_features(job, job.photographs.training, extractor)[:, 0]))
    return chain(transfer.given(body, *extractor), standard, network.head(job.options, len(job.classes)))


def _whole_phase(job: Job, model: Model) -> Phase:
    """Everything is trained, a pretrained backbone more slowly than the head that was put on it."""
    augment = job.options.augment != "never"
    num_epochs = job.num_epochs - job.frozen_epochs
    multipliers = (job.options.backbone_rate, 1.0, 1.0) if job.options.weights else None
    return Phase(
        name="whole",
        trainer=_trainer(
            job, model, num_epochs, augment=_augmentation(job) if augment else None, multipliers=multipliers
        ),
        batches=functools.partial(
            _images, job, job.photographs.training, mode="canvas" if augment else "crop", shuffle=True
        ),
        num_epochs=num_epochs,
        first_step=job.frozen_epochs * job.steps_per_epoch,
        whole=lambda params, state: (params, state),
        logits=functools.partial(_whole_logits, job),
    )


def _whole(job: Job) -> Model:
    return network.whole(job.options, job.preprocess, len(job.classes))


def _trainer(
    job: Job, model: Model, num_epochs: int, *, augment: Callable | None, multipliers: PyTree | None = None
) -> train.Trainer:
    options = job.options
    num_steps = -(-num_epochs * job.steps_per_epoch // options.accumulate)
    warmup_steps = round(options.warmup_epochs * job.steps_per_epoch / options.accumulate)
    rate = optimizers.schedule(
        options.schedule, options.learning_rate, num_steps=num_steps, warmup_steps=min(warmup_steps, num_steps - 1)
    )
    optimizer = optimizers.optimizer(
        options.optimizer,
        rate,
        weight_decay=options.weight_decay,
        clip=options.clip,
        accumulate=options.accumulate,
        ema=options.ema,
        multipliers=multipliers,
    )
    loss = functools.partial(losses.softmax_cross_entropy, label_smoothing=options.label_smoothing)
    return train.trainer(
        model, loss=loss, optimizer=optimizer, augment=augment, compiler_options=resnet.compiler_options()
    )


def _augmentation(job: Job) -> Callable:
    options = job.options
    return preprocessing.augmentation(
        image_size=options.image_size,
        crop_scale=(options.crop_scale, 1.0),
        color_jitter=options.color_jitter,
        mixup=options.mixup,
        cutmix=options.cutmix,
        num_classes=len(job.classes),
    )


def _feature_batches(job: Job, features: np.ndarray, epoch: int, step: int) -> Iterable[Batch]:
    labels, size, seed = job.photographs.training.labels, job.options.batch_size, job.options.seed
    return data.array_batches(features, labels, batch_size=size, seed=seed, epoch=epoch, step=step)


def _images(
    job: Job, folder: data.ImageFolder, epoch: int = 0, step: int = 0, *, mode: str = "crop", shuffle: bool = False
) -> Iterable[Batch]:
    return data.batches(
        folder,
        batch_size=job.options.batch_size,
        mode=mode,
        image_size=job.options.image_size,
        resize_size=job.preprocess.resize_size,
        seed=job.options.seed,
        epoch=epoch,
        step=step,
        shuffle=shuffle,
        interpolation=job.preprocess.interpolation,
        workers=job.workers,
        cache=job.cache,
    )


def _features(job: Job, folder: data.ImageFolder, extractor: PyTree, *, mirrored: bool = False) -> np.ndarray:
    """One pass through the frozen network: ``[n, views, d]``, a view or two of each image."""
    started = time.perf_counter()
    body = network.extractor(job.options, job.preprocess)
    if mirrored:
        model = chain(stateless(_with_mirror_images), body, stateless(_pairs))
        features = _outputs(job, folder, model, ((), extractor[0], ()), ({}, extractor[1], {}))
    else:
        features = _outputs(job, folder, body, *extractor)[:, None]
    images, seconds = features.shape[0] * features.shape[1], time.perf_counter() - started
    runs.append(job.run, {"kind": "features", "step": 0, "images": images, "seconds": seconds})
    return features


def _with_mirror_images(images: jax.Array) -> jax.Array:
    return jnp.stack([images, images[:, :, ::-1]], axis=1).reshape(-1, *images.shape[1:])


def _pairs(features: jax.Array) -> jax.Array:
    return features.reshape(-1, 2, features.shape[-1])


def _whole_logits(job: Job, params: PyTree, state: PyTree) -> np.ndarray:
    return _outputs(job, job.photographs.validation, _whole(job), params, state)


def _outputs(job: Job, folder: data.ImageFolder, model: Model, params: PyTree, state: PyTree) -> np.ndarray:
    predict = resnet.inference(model, params, state)
    total = data.steps_per_epoch(len(folder.paths), job.options.batch_size)
    with console.bar("reading images", total=total) as advance:
        return evaluate.collect(predict, _counted(_images(job, folder), advance)).outputs


def _counted(batches: Iterable[Batch], advance: console.Advance) -> Iterable[Batch]:
    for batch in batches:
        yield batch
        advance("")


def images_per_second(run: runs.Run) -> float:
    """Images through the network over the time that took: steps that train it, and passes that compute features."""
    passes = [record for record in runs.read_metrics(run) if record.get("images")]
    seconds = sum(record["seconds"] for record in passes)
    return sum(record["images"] for record in passes) / seconds if passes else 0.0  # stopped before the first

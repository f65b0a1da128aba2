"""The commands: ``jaxmodels train``, ``predict``, ``bench``, ...; their signatures are their flags."""

from __future__ import annotations

import contextlib
import json
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import Literal

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional

from jaxmodels import classifier, console, data, predictor, runs
from jaxmodels.classifier import Options
from jaxmodels.core import InputError


def run() -> int:
    """Parse ``sys.argv``, run the command and return its exit code."""
    commands = {
        "demo": demo,
        "train": train,
        "pack": pack,
        "fit": fit,
        "evaluate": evaluate,
        "predict": predict,
        "estimate": estimate,
        "bench": bench,
    }
    return tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="jaxmodels",
        description="Regression, neural networks and ResNets as pure functions in JAX.",
        config=(FlagCreatePairsOff,),
    )


def demo(output: pathlib.Path = pathlib.Path("jaxmodels-demo")) -> int:
    """Train three models by one loop on data that is installed already: a first look, in under three minutes.

    Args:
        output: Folder for the pictures.
    """
    from jaxmodels import demo

    demo.run(output)
    return 0


def train(
    directory: Positional[pathlib.Path],
    options: OmitArgPrefixes[Options],
    output: pathlib.Path,
    resume: bool = False,
    strict: bool = False,
    workers: int | None = None,
) -> int:
    """Train a classifier on a folder of photographs.

    Args:
        directory: train/<class>/... and val/<class>/..., or <class>/... which is then split; or what pack made of it.
        output: Folder of the run, made here: config, metrics, checkpoints, model, report, plots.
        resume: Continue the run at --output where it stopped; its options are its own.
        strict: Stop at a file that cannot be read. Default: leave it out and list it.
        workers: Threads that decode images. Default: the processors.
    """
    with _stop_signals() as stopped_by:
        summary = classifier.train(
            directory,
            options,
            output=output,
            resume=resume,
            strict=strict,
            workers=workers,
            should_stop=lambda: stopped_by() is not None,
        )
    number = stopped_by()
    if not summary["finished"]:
        console.line(f"stopped at step {summary['step']}, saved; continue with: jaxmodels train ... --resume")
    print(json.dumps(summary))
    return 0 if summary["finished"] or number is None else 128 + number


def pack(
    directory: Positional[pathlib.Path],
    output: pathlib.Path,
    image_size: int = 224,
    modes: tuple[Literal["crop", "canvas"], ...] = ("crop", "canvas"),
    strict: bool = False,
    workers: int | None = None,
) -> int:
    """Decode a folder of photographs once, into a store that train and evaluate take in its place.

    Args:
        directory: As for train, or as for evaluate.
        output: The store, made here; one that is there already is compared with the folder.
        image_size: The --image-size of the trainings.
        modes: Crops for evaluation and frozen features, canvases for augmentation; of validation images crops alone.
        strict: Stop at a file that cannot be read. Default: leave it out and list it.
        workers: Threads that decode images. Default: the processors.
    """
    parts = data.pack(directory, output, image_size=image_size, modes=modes, strict=strict, workers=workers)
    for images in parts.values():
        for entry in images.skipped:
            console.line(f"skipped {str(directory / pathlib.Path(entry.path).relative_to(output))!r}: {entry.reason}")
    print(json.dumps({"store": str(output), "images": sum(len(images.paths) for images in parts.values())}))
    return 0


def fit(table: Positional[pathlib.Path], options: OmitArgPrefixes[predictor.Options], output: pathlib.Path) -> int:
    """Fit a table: read, split, clean, compare models on folds, measure the best on held-out rows.

    Args:
        table: A CSV or Parquet file.
        output: Folder of the run, made here: config, model, report, plots.
    """
    report = predictor.fit(table, options, output=output)
    for name, found in report["compared"].items():
        console.line(f"{name}: loss {found['loss']:.5g} +- {found['standard_error']:.2g} on {options.folds} folds")
    if report["remark"]:
        console.line(f"{report['model']}: {report['remark']}")
    console.line(f"wrote {output / 'report.json'} and its plots")
    names = ("model", "num_training", *_REGRESSION) if "r2" in report else ("model", "num_training", *_HEADLINE)
    print(json.dumps({"run": str(output)} | {name: report[name] for name in names}))
    return 0


_REGRESSION = ("num_examples", "r2", "r2_interval", "root_mean_squared_error", "root_mean_squared_error_interval")


def evaluate(
    run: Positional[pathlib.Path],
    directory: Positional[pathlib.Path],
    strict: bool = False,
    workers: int | None = None,
) -> int:
    """Measure a trained classifier on a folder of photographs, or a fitted model on a table.

    Args:
        run: What train or fit left at --output.
        directory: <class>/..., the classes of the run or some of them; such a part of what pack made; or a table with
            the target.
        strict: Stop at a file that cannot be read. Default: leave it out and list it.
        workers: Threads that decode images. Default: the processors.
    """
    if _is_table(run):
        report, folder = predictor.evaluate(run, directory)
    else:
        report, folder = classifier.evaluate(run, directory, strict=strict, workers=workers)
    console.line(f"wrote {folder / 'report.json'} and its plots")
    print(json.dumps({name: report[name] for name in (_REGRESSION if "r2" in report else _HEADLINE)}))
    return 0


_HEADLINE = ("num_examples", "loss", "accuracy", "accuracy_interval", "balanced_accuracy", "macro", "roc_auc")


def predict(run: Positional[pathlib.Path], files: Positional[tuple[pathlib.Path, ...]]) -> int:
    """Classify image files, or predict the rows of a table; prints one JSON line a file or row.

    Args:
        run: What train or fit left at --output.
        files: Image files; or one table.
    """
    if not files:
        raise InputError("files: none given; name the images to classify, or a table")
    if _is_table(run):
        return _predict_rows(run, files)
    code = 0
    for prediction in classifier.predict(run, files):
        record = {name: value for name, value in prediction._asdict().items() if value is not None}
        print(json.dumps(record), flush=True)
        code = 2 if prediction.error else code
    return code


def _is_table(run: pathlib.Path) -> bool:
    return runs.open_run(run)[1].get("kind") == "table"


def _predict_rows(run: pathlib.Path, files: tuple[pathlib.Path, ...]) -> int:
    table, *others = files
    if others:
        raise InputError(f"files: a model of tables predicts one at a time, got {len(files)}")
    for line in predictor.predict(run, table):
        print(json.dumps(line))
    return 0


def estimate(
    name: Positional[str],
    batch: int = 32,
    image: int = 224,
    dtype: str = "float32",
    device: str | None = None,
    inference: bool = False,
) -> int:
    """Predict what a network needs on a device: parameters, memory, flops and the time of a step at the roofline.

    Args:
        name: resnet18, 34, 50, 101 or 152.
        batch: Images a step.
        image: Pixels a side.
        dtype: Of the computation: bfloat16, float16, float32 or float64.
        device: h200, a100, v5e, cpu, ... Default: the one that is here.
        inference: A call with folded batch norms. Default: a training step.
    """
    from jaxmodels.benchmark.estimate import estimate

    found = estimate(name, batch=batch, image=image, dtype=dtype, device=device, train=not inference)
    work = "inference" if inference else "training"
    console.line(
        f"{name} {work}, {batch} images of {image} px, {dtype} on {found.device}: {found.parameters / 1e6:.1f} M "
        f"parameters, {found.memory / 1e9:.1f} of {found.device_memory / 1e9:.0f} GB, {found.flops / 1e12:.3g} Tflop, "
        f"at best {1e3 * found.seconds:.3g} ms, {found.images_per_second:.4g} images a second"
    )
    if found.memory > found.device_memory:
        console.line("it does not fit: lower --batch or --image, or use --dtype bfloat16")
    print(json.dumps(found._asdict()))
    return 0


def bench(
    name: Positional[str] = "all",
    files: Positional[tuple[pathlib.Path, ...]] = (),
    rounds: int = 7,
    output: pathlib.Path | None = None,
) -> int:
    """Time what is quick to time beside other libraries, a JSON line each; or compare two such runs.

    Args:
        name: A question, "all", or "compare".
        files: Two files of lines, after "compare": the earlier one first.
        rounds: Turns of each library.
        output: File to add the lines to; with "compare", the PNG to draw.
    """
    if name == "compare":
        return _compare(files, output)
    if files:
        raise InputError(f"files: only bench compare takes them, got {files[0]}")
    from jaxmodels.benchmark import questions

    for each in questions.QUESTIONS if name == "all" else [name]:
        measured = questions.ask(each, rounds=rounds)
        beside = ", ".join(f"{measured.ratio(peer).value:.2f} of {peer}" for peer in measured.peers)
        console.line(f"{each}: {1e3 * measured.timing.median:.3g} ms, {beside or 'no peer is installed'}")
        print(measured.json_line(), flush=True)
        if output is not None:
            _append(output, measured.json_line())
    return 0


def _append(path: pathlib.Path, line: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(line + "\n")
    except OSError as error:
        raise InputError(
            f"output: {path} cannot be written ({error.strerror}): choose a place you may write"
        ) from error


def _compare(files: tuple[pathlib.Path, ...], output: pathlib.Path | None) -> int:
    from jaxmodels import plots
    from jaxmodels.benchmark import compare

    if len(files) != 2:
        raise InputError(f"files: bench compare needs two, the earlier one first, got {len(files)}")
    before, after = map(compare.read, files)
    for change in compare.changes(before, after):
        print(json.dumps(change._asdict() | {"ratio": change.ratio}))
    if output is not None:
        console.line(f"wrote {plots.peer_ratios(before, after, output)}")
    return 0


@contextlib.contextmanager
def _stop_signals() -> Iterator[Callable[[], int | None]]:
    """SIGTERM and Ctrl-C asked for once set a flag that training reads; a second Ctrl-C interrupts at once."""
    received: list[int] = []

    def note(number, frame):
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        console.line("stopping after this step ...")

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

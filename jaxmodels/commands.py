"""The commands: ``jaxmodels demo``, ``train``, ``evaluate`` and ``predict``; their signatures are their flags."""

from __future__ import annotations

import contextlib
import json
import pathlib
import signal
from collections.abc import Callable, Iterator

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional

from jaxmodels import classifier, console
from jaxmodels.classifier import Options
from jaxmodels.core import InputError


def run() -> int:
    """Parse ``sys.argv``, run the command and return its exit code."""
    commands = {"demo": demo, "train": train, "evaluate": evaluate, "predict": predict}
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
        directory: train/<class>/... and val/<class>/..., or <class>/... which is then split.
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


def evaluate(
    run: Positional[pathlib.Path],
    directory: Positional[pathlib.Path],
    strict: bool = False,
    workers: int | None = None,
) -> int:
    """Measure a trained classifier on a folder of photographs.

    Args:
        run: What train left at --output.
        directory: <class>/..., the classes of the run or some of them.
        strict: Stop at a file that cannot be read. Default: leave it out and list it.
        workers: Threads that decode images. Default: the processors.
    """
    report, folder = classifier.evaluate(run, directory, strict=strict, workers=workers)
    console.line(f"wrote {folder / 'report.json'} and its plots")
    print(json.dumps({name: report[name] for name in _HEADLINE}))
    return 0


_HEADLINE = ("num_examples", "loss", "accuracy", "accuracy_interval", "balanced_accuracy", "macro", "roc_auc")


def predict(run: Positional[pathlib.Path], files: Positional[tuple[pathlib.Path, ...]]) -> int:
    """Classify image files; prints one JSON line a file.

    Args:
        run: What train left at --output.
        files: Image files.
    """
    if not files:
        raise InputError("files: none given; name the images to classify")
    code = 0
    for prediction in classifier.predict(run, files):
        record = {name: value for name, value in prediction._asdict().items() if value is not None}
        print(json.dumps(record), flush=True)
        code = 2 if prediction.error else code
    return code


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

"""A run: the folder that a training leaves, and all that is written there.

config.json          what was trained: options, classes, preprocessing, the data's fingerprint
metrics.jsonl        one line a step ("step") and one an epoch ("epoch")
checkpoints/last     the newest training state, for --resume
model/               the trained parameters, for evaluate and predict
report.json          metrics on the validation images
skipped.json         images that could not be read, with reasons
plots/*.png
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxmodels.core import InputError


class Run(NamedTuple):
    """The folder of a run; its methods name what stands where."""

    path: pathlib.Path

    @property
    def config(self) -> pathlib.Path:
        return self.path / "config.json"

    @property
    def metrics(self) -> pathlib.Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> pathlib.Path:
        return self.path / "checkpoints" / "last"

    @property
    def frozen(self) -> pathlib.Path:
        return self.path / "checkpoints" / "frozen"

    @property
    def model(self) -> pathlib.Path:
        return self.path / "model"

    @property
    def plots(self) -> pathlib.Path:
        return self.path / "plots"


def create(path: str | pathlib.Path, config: dict[str, Any]) -> Run:
    """Make the folder of a new run and write its config.

    Raises:
      InputError: something other than an empty folder stands there already.
    """
    path = pathlib.Path(path)
    check_free(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output: {path} cannot be made ({error.strerror}); choose a folder you may write") from error
    run = Run(path)
    write_json(run.config, config)
    return run


def check_free(path: str | pathlib.Path) -> None:
    """Raise ``InputError`` unless a new run can be made at ``path``."""
    path = pathlib.Path(path)
    if (path / "config.json").exists():
        raise InputError(f"output: {path} holds another run; add --resume to continue it, or choose a new folder")
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise InputError(f"output: {path} exists and is not an empty folder; choose a new one")


def open_run(path: str | pathlib.Path) -> tuple[Run, dict[str, Any]]:
    """The run at ``path`` and its config.

    Raises:
      InputError: there is none, or its config cannot be read.
    """
    run = Run(pathlib.Path(path))
    if not run.path.is_dir():
        raise InputError(f"run: {run.path} does not exist; give the folder that --output named")
    try:
        return run, json.loads(run.config.read_text())
    except FileNotFoundError as error:
        raise InputError(f"run: {run.path} holds no config.json; give the folder that --output named") from error
    except (OSError, ValueError) as error:
        raise InputError(f"run: {run.config} cannot be read ({error}); restore it from a copy") from error


def append(run: Run, record: dict[str, Any]) -> None:
    """Add a line to the metrics; what is written before a kill stays readable."""
    with run.metrics.open("a") as file:
        file.write(json.dumps(record) + "\n")


def read_metrics(run: Run) -> list[dict[str, Any]]:
    """The lines of the metrics, but for a last one that a kill cut short."""
    records = []
    for line in run.metrics.read_text().splitlines() if run.metrics.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def keep_metrics(run: Run, keep: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Drop the lines that a resumed run will write again; returns those that stay."""
    records = [record for record in read_metrics(run) if keep(record)]
    write_text(run.metrics, "".join(json.dumps(record) + "\n" for record in records))
    return records


def write_json(path: pathlib.Path, content: dict[str, Any] | Sequence[Any]) -> None:
    """Write ``content`` whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Write ``text`` whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)

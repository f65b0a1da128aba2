"""Where and with what a measurement was taken, without which its numbers mean nothing."""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax

import jaxmodels

_LIBRARIES = {
    "flax": "flax",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "skglm": "skglm",
    "statsmodels": "statsmodels",
    "torch": "torch",
    "keras": "keras",
    "tensorflow": "tensorflow",
    "onnxruntime": "onnxruntime",
}
"""Module -> distribution: whose version is said where the module is loaded."""


def around() -> dict[str, Any]:
    """Device, versions, revision and date, for every line that a benchmark writes.

    >>> found = around()
    >>> found["versions"]["jax"] == jax.__version__, found["backend"] == jax.default_backend()
    (True, True)
    """
    return {
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
        "machine": processor(),
        "versions": versions(),
        "revision": revision(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """Of Python, of this library and what it runs on, and of every peer that is loaded."""
    found = {"python": platform.python_version(), "jaxmodels": jaxmodels.__version__}
    loaded = [name for module, name in _LIBRARIES.items() if module in sys.modules]
    for name in ("jax", "jaxlib", "numpy", *loaded):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def processor() -> str:
    """The model of CPU with its generation, which virtual machines leave out of the name; else the architecture."""
    path = pathlib.Path("/proc/cpuinfo")
    first = path.read_text().partition("\n\n")[0] if path.is_file() else ""
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    if not {"model name", "cpu family", "model"} <= fields.keys():
        return platform.processor() or platform.machine()
    return f"{fields['model name']}, family {fields['cpu family']}, model {fields['model']}"


@functools.cache
def revision() -> str | None:
    """The commit that the library was run from, "-dirty" where files differ; ``None`` outside a checkout."""
    folder = pathlib.Path(jaxmodels.__file__).parents[1]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", os.fspath(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None

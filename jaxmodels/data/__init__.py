"""Files and arrays to batches, on the host."""

from __future__ import annotations

from jaxmodels.data.decode import DecodeError
from jaxmodels.data.example import Canvas
from jaxmodels.data.folder import ImageFolder, Skipped, check, read_folder, scan, split
from jaxmodels.data.loader import (
    PixelCache,
    array_batches,
    batches,
    check_labels,
    order,
    steps_per_epoch,
)
from jaxmodels.data.packing import pack

__all__ = [
    "Canvas",
    "DecodeError",
    "ImageFolder",
    "PixelCache",
    "Skipped",
    "array_batches",
    "batches",
    "check",
    "check_labels",
    "order",
    "pack",
    "read_folder",
    "scan",
    "split",
    "steps_per_epoch",
]

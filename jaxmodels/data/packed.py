"""A packed store: the pixels of a folder of photographs, decoded once, in files that are mapped into memory.

    photos.packed/train/crop.npy       uint8 [n, 224, 224, 3]: what evaluation sees
    photos.packed/train/canvas.npy     uint8 [n, 256, 256, 3]: whole images, squeezed, for random crops on the device
    photos.packed/train/packed.json    everything else, a value or a column an image, in the order of the arrays

The arrays are NumPy's own format: ``np.load(..., mmap_mode="r")`` reads them without this library. The index has a
``sha256`` of its ``content`` (as ``json.dumps`` writes it), which has ``names``, ``labels``, ``classes``, what was
``skipped``, the ``stamps`` (size and time) of the files, and for each array its ``recipe``, the ``crc32`` of each image
and for canvases each image's ``aspect``.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxmodels.core import InputError, PyTree
from jaxmodels.data.example import Canvas, Recipe

VERSION = 1
_INDEX = "packed.json"
_FORMAT = "packed photographs of jaxmodels"


class Packed(NamedTuple):
    """A store that is open for reading; any number of threads and processes may read it at once."""

    path: str
    """The folder that it is."""
    content: dict[str, Any]
    """Of its index."""
    arrays: dict[str, UInt8[np.ndarray, "n side side 3"]]
    """By mode: ``"crop"``, ``"canvas"`` or both, mapped, not read."""
    rows: dict[str, int]
    """Path of an image, which is the store's and the image's name in the packed folder -> its row."""


def is_packed(path: str) -> bool:
    """Whether a store lies at ``path``."""
    return os.path.isfile(os.path.join(path, _INDEX))


def open_packed(path: str) -> Packed:
    """Open a store.

    Raises:
      InputError: its index is damaged or of another version, or an array is missing, truncated or of another shape.
    """
    content = _read_index(os.path.join(path, _INDEX))
    shapes = {mode: (len(content["names"]), *_square(recipe)) for mode, recipe in recipes(content).items()}
    arrays = {mode: _map(_array(path, mode), shape) for mode, shape in shapes.items()}
    return Packed(path, content, arrays, {os.path.join(path, name): row for row, name in enumerate(content["names"])})


def recipes(content: dict[str, Any]) -> dict[str, Recipe]:
    """How the images of each array were made."""
    return {mode: Recipe(mode, *array["recipe"]) for mode, array in content["arrays"].items()}


def require(store: Packed, wanted: Recipe) -> None:
    """Raise unless the store holds examples made by that recipe."""
    held = recipes(store.content)
    if held.get(wanted.mode) != wanted:
        has = " and ".join(map(str, held.values()))
        raise InputError(f"{store.path!r} holds {has}, not {wanted}: ask for what it holds, or pack the folder anew")


def take(store: Packed, mode: str, paths: Sequence[str]) -> PyTree:
    """The examples of some images, copied out of the store: ``[n, side, side, 3]``, or a ``Canvas`` of such."""
    rows = np.array([store.rows[path] for path in paths])
    # One call for all of them, which lets go of Python's lock: reads by image would wait for it each time.
    pixels = np.take(store.arrays[mode], rows, axis=0)
    if mode == "crop":
        return pixels
    return Canvas(pixels, np.array([store.content["arrays"][mode]["aspect"][row] for row in rows], np.float32))


def verify(store: Packed, paths: Sequence[str], *, workers: int) -> None:
    """Read the images to their end and compare checksums; raises ``InputError`` that names the first damaged one."""

    def damaged(path: str) -> str | None:
        row = store.rows[path]
        sums = {mode: store.content["arrays"][mode]["crc32"][row] for mode in store.arrays}
        return next((mode for mode in sums if zlib.crc32(store.arrays[mode][row]) != sums[mode]), None)

    pool = ThreadPoolExecutor(workers, "jaxmodels-verify")
    try:
        found = [(path, mode) for path, mode in zip(paths, pool.map(damaged, paths), strict=True) if mode]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if found:
        path, mode = found[0]
        raise InputError(
            f"{path!r} is damaged in {mode}.npy, its checksum differs ({len(found)} of {len(paths)} images are): "
            "pack the folder anew"
        )


class ArrayFile:
    """An array that is written to a ``.npy`` file image by image; how many there are need not be known before.

    Args:
      path: the store, in which the file is made.
      recipe: of the images.
    """

    def __init__(self, path: str, recipe: Recipe):
        self.recipe = recipe
        self.columns: dict[str, list[Any]] = {"crc32": []} | ({"aspect": []} if recipe.mode == "canvas" else {})
        self._file = open(_array(path, recipe.mode), "wb")  # noqa: SIM115
        self._write_header()

    def append(self, pixels: np.ndarray, **columns: Any) -> None:
        """Write an image and remember what the index says of it."""
        self._file.write(np.ascontiguousarray(pixels))
        for name, column in self.columns.items():
            column.append(columns[name])

    def finish(self) -> dict[str, Any]:
        """Write how many there are and wait until all is on disk; returns what ``content["arrays"]`` holds of it."""
        self._file.seek(0)
        self._write_header()
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"recipe": list(self.recipe[1:]), **self.columns}

    def close(self) -> None:
        self._file.close()

    def _write_header(self) -> None:
        # NumPy leaves room for the first axis to grow, so that the header's length is always the same.
        shape = (len(self.columns["crc32"]), *_square(self.recipe))
        np.lib.format.write_array_header_1_0(self._file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def write_index(path: str, content: dict[str, Any]) -> None:
    """Make a store of a folder in which the arrays stand."""
    index = {"format": _FORMAT, "version": VERSION, "sha256": _digest(content), "content": content}
    with open(os.path.join(path, _INDEX), "w") as file:
        json.dump(index, file)
        file.flush()
        os.fsync(file.fileno())


def _read_index(path: str) -> dict[str, Any]:
    try:
        with open(path) as file:
            index = json.load(file)
        form, version, digest, content = (index[name] for name in ("format", "version", "sha256", "content"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path!r} is damaged ({type(error).__name__}): pack the folder anew") from error
    if (form, version) != (_FORMAT, VERSION):
        raise InputError(f"{path!r} is {form}, version {version}, not {_FORMAT}, version {VERSION}: pack it anew")
    if digest != _digest(content):
        raise InputError(f"{path!r} is damaged, its sha256 differs: pack the folder anew")
    return content


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _array(path: str, mode: str) -> str:
    return os.path.join(path, f"{mode}.npy")


def _square(recipe: Recipe) -> tuple[int, int, int]:
    return recipe.side, recipe.side, 3


def _map(path: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r").view(np.ndarray)
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path!r} is missing or truncated ({reason}): pack the folder anew") from error
    if array.shape != shape or array.dtype != np.uint8:
        raise InputError(f"{path!r} holds {array.dtype} {array.shape}, not uint8 {shape}: pack the folder anew")
    return array

"""A folder of photographs to a packed store, in one pass: decoding threads, one writer, all of it or nothing.

    pack("photos", "photos.packed")
    train, val = read_folder("photos.packed")

``batches(train, ...)`` then has the pixels, the order and the labels that it has from ``read_folder("photos")``.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from jaxmodels import console
from jaxmodels.core import InputError
from jaxmodels.data import decode, folder, packed
from jaxmodels.data.example import MODES, Canvas, Recipe, example, recipe


class _Part(NamedTuple):
    """What becomes one set of arrays: images for training or validation, or those that are split later."""

    name: str
    """Of its folder in the source and in the store; empty where there is but one part."""
    root: str
    """Its folder in the source."""
    images: folder.ImageFolder
    recipes: list[Recipe]

    @property
    def validates(self) -> bool:
        return self.name not in ("", "train")

    @property
    def num_bytes(self) -> int:
        return len(self.images.paths) * sum(3 * each.side**2 for each in self.recipes)

    def named(self, path: str) -> str:
        """An image's name in the store."""
        return os.path.relpath(path, self.root)


class _Found(NamedTuple):
    """What became of a file."""

    path: str
    stamp: list[int]
    """Its bytes, and its time of change in nanoseconds."""
    examples: dict[str, tuple[np.ndarray, dict[str, Any]]]
    """By mode: pixels, and what the index says of them."""
    reason: str | None
    """Why it does not decode."""


def pack(
    directory: str | os.PathLike,
    path: str | os.PathLike,
    *,
    image_size: int = 224,
    resize_size: int | None = None,
    interpolation: str = "bilinear",
    modes: Sequence[str] = MODES,
    strict: bool = False,
    workers: int | None = None,
    max_pixels: int = decode.MAX_PIXELS,
) -> dict[str, folder.ImageFolder]:
    """Decode a folder of photographs once and write what ``batches`` needs of them.

    The store is laid out as the folder is, with or without parts for training and validation. It appears when it is
    complete: until then all is written to ``path`` + ``.partial``, which an error or Ctrl-C removes and a later call
    begins anew. A store that is there already is left alone if no file of the folder has changed since.

    An image takes ``3 * image_size**2`` bytes as a crop and ``3 * resize_size**2`` as a canvas: 147 KiB and 192 KiB.

    Args:
      directory: as for ``read_folder``.
      path: the store, made here.
      image_size, resize_size, interpolation: as in ``batches``.
      modes: what to hold of each image, ``"crop"`` for evaluation and features, ``"canvas"`` for random crops;
        of validation images crops alone.
      strict: raise for a file that does not decode instead of leaving it out.
      workers: decoding threads; default: the processors this process may use.
      max_pixels: as in ``decode.decode``.

    Returns:
      The parts of the store, as ``folder.parts`` gives them.

    Raises:
      InputError: the folder is not one (as ``scan`` says), something else is at ``path``, files have changed since it
        was packed, there is not enough room, a class has no file that decodes, or nothing can be written.
    """
    source, target = _source(os.fspath(directory)), pathlib.Path(path)
    crop, *others = [recipe(mode, image_size, resize_size, interpolation) for mode in ("crop", *modes)]
    if not others:
        raise InputError("modes: needs 'crop', 'canvas' or both, got none")
    source = [part._replace(recipes=[crop] if part.validates else list(dict.fromkeys(others))) for part in source]
    if target.exists() and not _is_empty(target):
        for part in source:
            _check_unchanged(target / part.name, part)
        return folder.parts(target)
    _check_room(target, sum(part.num_bytes for part in source))
    total = sum(len(part.images.paths) for part in source)
    with _in_one_piece(target) as partial, console.bar("packing", total=total) as advance:
        for part in source:
            os.makedirs(partial / part.name, exist_ok=True)
            found = _examples(part, workers or decode.default_workers(), max_pixels)
            _write(partial / part.name, part, _told(found, advance), strict)
    return folder.parts(target)


def _source(directory: str) -> list[_Part]:
    found = [_Part(name, os.path.join(directory, name), each, []) for name, each in folder.parts(directory).items()]
    if any(part.images.store for part in found):
        raise InputError(f"{directory!r} is a packed store: give the folder that it was packed from")
    return found


def _told(found: Iterator[_Found], advance: console.Advance) -> Iterator[_Found]:
    for each in found:
        yield each
        advance("")


def _examples(part: _Part, workers: int, max_pixels: int) -> Iterator[_Found]:
    """In order, decoded a few a thread ahead of the one in use."""
    pool = ThreadPoolExecutor(workers, "jaxmodels-pack")
    pending: deque[Future] = deque()
    try:
        for path in part.images.paths:
            pending.append(pool.submit(_find, path, part.recipes, max_pixels))
            if len(pending) > 4 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _find(path: str, recipes: Sequence[Recipe], max_pixels: int) -> _Found:
    try:
        stamp = _stamp(path)
        pixels = decode.decode(path, max_pixels=max_pixels)
    except OSError as error:
        return _Found(path, [0, 0], {}, f"cannot be read: {error.strerror}")
    except decode.DecodeError as error:
        return _Found(path, stamp, {}, error.reason)
    return _Found(path, stamp, {each.mode: _row(example(pixels, each)) for each in recipes}, None)


def _row(made: Any) -> tuple[np.ndarray, dict[str, Any]]:
    pixels = np.asarray(made.pixels if isinstance(made, Canvas) else made)
    columns = {"crc32": zlib.crc32(pixels)}
    return pixels, columns | ({"aspect": float(made.aspect)} if isinstance(made, Canvas) else {})


def _stamp(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def _write(path: pathlib.Path, part: _Part, found: Iterator[_Found], strict: bool) -> None:
    """A part of the store: its arrays in one pass, then its index."""
    kept, bad = [], []
    with contextlib.ExitStack() as stack:
        files = {
            each.mode: stack.enter_context(contextlib.closing(packed.ArrayFile(os.fspath(path), each)))
            for each in part.recipes
        }
        for each in found:
            if each.reason and strict:
                raise InputError(f"{each.path!r} {each.reason}")
            (bad if each.reason else kept).append(each._replace(examples={}))
            for mode, (pixels, columns) in each.examples.items():
                files[mode].append(pixels, **columns)
        arrays = {mode: file.finish() for mode, file in files.items()}
    packed.write_index(os.fspath(path), _content(part, kept, bad) | {"arrays": arrays})


def _content(part: _Part, kept: list[_Found], bad: list[_Found]) -> dict[str, Any]:
    """What the index says, but for the arrays."""
    labels = dict(zip(part.images.paths, part.images.labels.tolist(), strict=True))
    left = {labels[each.path] for each in kept}
    emptied = next((each for each in bad if labels[each.path] not in left), None)
    if emptied:
        name = part.images.classes[labels[emptied.path]]
        raise InputError(f"class {name!r} has no image that decodes: {emptied.path!r} {emptied.reason}")
    present = sorted(left)
    return {
        "names": [part.named(each.path) for each in kept],
        "labels": [present.index(labels[each.path]) for each in kept],
        "classes": [part.images.classes[label] for label in present],
        "skipped": [[part.named(each.path), each.reason] for each in (*part.images.skipped, *bad)],
        "stamps": {part.named(each.path): each.stamp for each in (*kept, *bad)},
    }


def _check_unchanged(path: pathlib.Path, part: _Part) -> None:
    """Raise unless a store is there, and is what would be written."""
    if not packed.is_packed(os.fspath(path)):
        raise InputError(f"{os.fspath(path)!r} is no packed store: choose a path at which there is nothing")
    store = packed.open_packed(os.fspath(path))
    for each in part.recipes:
        packed.require(store, each)
    before = store.content["stamps"]
    now = {part.named(each): _stamp(each) for each in part.images.paths}
    changed = [name for name in {**now, **before} if now.get(name) != before.get(name)]
    if changed:
        first = changed[0]
        what = "removed" if first not in now else "changed" if first in before else "added"
        raise InputError(
            f"{os.fspath(path)!r} is out of date: {os.path.join(part.root, first)!r} was {what} since, one of "
            f"{len(changed)} files: delete the store, or pack to another path"
        )


def _check_room(target: pathlib.Path, needed: int) -> None:
    parent = next(each for each in target.absolute().parents if each.exists())
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise InputError(
            f"{os.fspath(target)!r} needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free: choose another "
            "place, a smaller image size or one mode"
        )


def _is_empty(path: pathlib.Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


@contextlib.contextmanager
def _in_one_piece(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder that becomes ``target`` in the end, and is removed where something goes wrong; one process at a time."""
    partial = target.absolute()
    partial = partial.with_name(partial.name + ".partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with _locked(partial):
            try:
                _empty(partial)  # of what a killed process left
                yield partial
                partial.rename(target)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    except OSError as error:
        raise InputError(
            f"{os.fspath(target)!r} cannot be written ({error.strerror}): choose a place that you may write, with room"
        ) from error


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    import fcntl  # which Windows lacks, where stores can be read

    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise InputError(f"{os.fspath(path)!r} is being written by another process: wait for it") from error
    try:
        yield
    finally:
        os.close(handle)


def _empty(path: pathlib.Path) -> None:
    for each in path.iterdir():
        if each.is_dir():
            shutil.rmtree(each)
        else:
            each.unlink()

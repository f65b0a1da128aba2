"""A folder of photographs, one sub-folder a class, to paths and labels.

    train, val = read_folder("flowers")      # flowers/{train,val}/<class>/... or flowers/<class>/...
    train, skipped = check(train)            # what does not decode goes now, not in epoch 7

A packed store of such a folder (``packing.pack``) is read by the same functions, and gives the same.

Order is that of the names, class by class, whatever order the file system lists them in. Names are compared in
Unicode's composed form (NFC), so that a folder copied from a Mac has the same order as its original.
"""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from jaxmodels.core import InputError
from jaxmodels.data import decode, packed

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".avif")
"""File names that are taken for images; upper or lower case."""


class Skipped(NamedTuple):
    """A file or directory that was passed over."""

    path: str
    reason: str
    """One line."""


class ImageFolder(NamedTuple):
    """Image files and their classes; pixels stay on disk."""

    paths: tuple[str, ...]
    """Sorted by class, then by name."""
    labels: Int32[np.ndarray, "n"]
    """Index into ``classes`` of each path."""
    classes: tuple[str, ...]
    """Names, by label."""
    skipped: tuple[Skipped, ...] = ()
    """What lies in the folder and is not among ``paths``, with reasons; hidden files are not mentioned."""
    store: packed.Packed | None = None
    """Where the pixels are, if the folder is a packed store; ``paths`` are then the names of its images, not files."""


def scan(path: str | os.PathLike, *, classes: Sequence[str] | None = None) -> ImageFolder:
    """List a folder that holds one sub-folder a class, or a packed store of one; nothing is decoded.

    Folders inside a class count as that class. Symbolic links are followed, and a directory is visited once, so
    that links in a circle end. Hidden files are ignored; whatever else is not an image goes to ``skipped``.

    Args:
      path: the folder.
      classes: names in the order of their labels, those of the training set for a validation set. Default: the
        sub-folders' names, sorted.

    Returns:
      ``ImageFolder`` with ``labels`` int32 ``[n]``.

    Raises:
      InputError: the folder is missing, is a file, is unreadable, or holds no images; a class is empty, is the
        only one, or is not among ``classes``; a packed store is damaged.

    >>> scan("no/such/folder")
    Traceback (most recent call last):
    ...
    jaxmodels.core.InputError: 'no/such/folder' does not exist: give a folder that holds one sub-folder a class
    """
    root, skipped = os.fspath(path), []
    if packed.is_packed(root):
        return _scan_packed(packed.open_packed(root), classes)
    folders = _class_folders(root, skipped)
    _check_layout(root, folders, classes)
    classes = tuple(folders) if classes is None else tuple(_name(name) for name in classes)
    visited = _visited(root, folders)
    found = {name: _images_below(folder, visited, skipped) for name, folder in folders.items()}
    _check_found(root, folders, found)
    labels = np.repeat([classes.index(name) for name in found], [len(paths) for paths in found.values()])
    paths = [path for paths in found.values() for path in paths]
    return _sorted(paths, labels, classes)._replace(skipped=tuple(skipped))


def _scan_packed(store: packed.Packed, classes: Sequence[str] | None) -> ImageFolder:
    """A store's images, as ``scan`` would have found them in its folder."""
    names = store.content["classes"]
    _check_layout(store.path, {name: os.path.join(store.path, name) for name in names}, classes)
    classes = tuple(names) if classes is None else tuple(_name(name) for name in classes)
    labels = np.array([classes.index(name) for name in names])[store.content["labels"]]
    skipped = (Skipped(os.path.join(store.path, name), reason) for name, reason in store.content["skipped"])
    return _sorted(list(store.rows), labels, classes)._replace(skipped=tuple(skipped), store=store)


def _sorted(paths: Sequence[str], labels: np.ndarray, classes: tuple[str, ...]) -> ImageFolder:
    """By class; those of a class stay in their order."""
    order = np.argsort(labels, kind="stable")
    return ImageFolder(tuple(paths[row] for row in order), labels[order].astype(np.int32), classes)


def read_folder(
    path: str | os.PathLike, *, validation_fraction: float = 0.2, seed: int = 0
) -> tuple[ImageFolder, ImageFolder]:
    """List a data set for training and validation, however the folder is laid out.

    ``path/train/<class>/...`` with ``path/val/<class>/...`` (or ``valid`` or ``validation``) is taken as it is;
    ``path/<class>/...`` is split by ``split``.

    Args:
      path: the folder.
      validation_fraction: share of each class that is held out where the folder has no validation set.
      seed: chooses which.

    Returns:
      ``(train, val)`` with the same ``classes``.

    Raises:
      InputError: as ``scan`` and ``split`` do, and for a validation set with a class that training lacks.
    """
    found = parts(path)
    if len(found) == 1:
        return split(found[""], validation_fraction=validation_fraction, seed=seed)
    train, validation = found.values()
    return train, validation


def parts(path: str | os.PathLike) -> dict[str, ImageFolder]:
    """The parts that a data set is laid out in: ``{"train": ..., "val": ...}``, or all of it as ``{"": ...}``."""
    root = os.fspath(path)
    names = _class_folders(root, [])
    validation = _validation_name(names)
    if "train" in names and validation is None and not set(names) - {"train", "test"}:
        raise InputError(f"{root!r} has train but no val: give {names['train']!r} to have it split, or add val")
    if "train" not in names or validation is None:
        return {"": scan(root)}
    if _identity(names["train"]) == _identity(names[validation]):
        raise InputError(f"{names[validation]!r} is {names['train']!r}: validate on images that are not trained on")
    train = scan(names["train"])
    return {"train": train, validation: scan(names[validation], classes=train.classes)}


def split(images: ImageFolder, *, validation_fraction: float = 0.2, seed: int = 0) -> tuple[ImageFolder, ImageFolder]:
    """Hold out a share of each class, chosen by a hash of the seed and the file's place in the folder.

    A hash, not a shuffle: a file that is added or dropped moves none of the others, but for the one that evens
    out the count.

    Args:
      images: at least two files in each class.
      validation_fraction: in (0, 1); each class keeps at least one file on either side.
      seed: chooses which.

    Returns:
      ``(train, val)``, both in the order of ``images``; ``skipped`` stays with ``train``.
    """
    if not 0 < validation_fraction < 1:
        raise InputError(f"validation_fraction={validation_fraction} is not between 0 and 1")
    root = os.path.commonpath(images.paths)
    held_out = np.zeros(len(images.paths), bool)
    for label, name in enumerate(images.classes):
        rows = np.flatnonzero(images.labels == label)
        if len(rows) < 2:
            raise InputError(f"class {name!r} has {len(rows)} images: a split needs at least 2 in each class")
        count = min(max(round(validation_fraction * len(rows)), 1), len(rows) - 1)
        ranked = sorted(rows.tolist(), key=lambda row: _hash(os.path.relpath(images.paths[row], root), seed))
        held_out[ranked[:count]] = True
    return _select(images, ~held_out), _select(images, held_out)._replace(skipped=())


def check(
    images: ImageFolder, *, strict: bool = False, workers: int | None = None, max_pixels: int = decode.MAX_PIXELS
) -> tuple[ImageFolder, tuple[Skipped, ...]]:
    """Read every file to its end and drop those that do not decode, so that no epoch meets one later.

    Of a packed store, which holds none that did not, checksums are compared.

    Args:
      images: from ``scan``.
      strict: raise instead of dropping.
      workers: decoding threads; default: the processors this process may use.
      max_pixels: as in ``decode.decode``.

    Returns:
      ``(images, skipped)``: the files that decode, and those that do not with their reasons (they are in
      ``images.skipped`` too, after those of the scan).

    Raises:
      InputError: with ``strict``, names the first bad file and counts them; otherwise where a class has no file left.
        A packed store is damaged.
    """
    workers = workers or decode.default_workers()
    if images.store is not None:
        packed.verify(images.store, images.paths, workers=workers)
        return images, ()
    reasons = _reasons(images.paths, workers, max_pixels)
    bad = tuple(Skipped(path, reason) for path, reason in zip(images.paths, reasons, strict=True) if reason)
    if bad and strict:
        raise InputError(f"{bad[0].path!r} {bad[0].reason} ({len(bad)} of {len(images.paths)} files do not decode)")
    kept = _select(images, np.array([reason is None for reason in reasons], bool))
    for label, name in enumerate(images.classes):
        if (images.labels == label).any() and not (kept.labels == label).any():
            first = next(each for each in bad if images.labels[images.paths.index(each.path)] == label)
            raise InputError(f"class {name!r} has no image that decodes: {first.path!r} {first.reason}")
    return kept._replace(skipped=images.skipped + bad), bad


def _reasons(paths: Sequence[str], workers: int, max_pixels: int) -> list[str | None]:
    def reason(path: str) -> str | None:
        try:
            decode.verify(path, max_pixels=max_pixels)
        except decode.DecodeError as error:
            return error.reason
        return None

    pool = ThreadPoolExecutor(workers, "jaxmodels-check")
    try:
        return list(pool.map(reason, paths))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _select(images: ImageFolder, keep: np.ndarray) -> ImageFolder:
    paths = tuple(path for path, kept in zip(images.paths, keep, strict=True) if kept)
    return images._replace(paths=paths, labels=images.labels[keep])


def _name(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _hash(relative_path: str, seed: int) -> bytes:
    name = _name(relative_path.replace(os.sep, "/"))
    return hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _validation_name(names: dict[str, str]) -> str | None:
    return next((name for name in ("val", "valid", "validation") if name in names), None)


def _list(directory: str) -> list[tuple[str, str]]:
    """``(name, path)`` sorted by name, without hidden ones."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError as error:
        raise InputError(f"{directory!r} does not exist: give a folder that holds one sub-folder a class") from error
    except NotADirectoryError as error:
        raise InputError(f"{directory!r} is a file: give the folder that holds one sub-folder a class") from error
    except OSError as error:
        raise InputError(f"{directory!r} cannot be read ({error.strerror}): change its permissions") from error
    return [(name, os.path.join(directory, name)) for name in sorted(names, key=_key) if not name.startswith(".")]


def _key(name: str) -> tuple[str, str]:
    return _name(name), name


def _class_folders(root: str, skipped: list[Skipped]) -> dict[str, str]:
    folders: dict[str, str] = {}
    for name, path in _list(root):
        reason = None if os.path.isdir(path) and not _is_image_name(name) else _why_not_class(name, path)
        if reason:
            skipped.append(Skipped(path, reason))
        else:
            folders[_name(name)] = path
    return folders


def _why_not_class(name: str, path: str) -> str:
    if os.path.isdir(path):
        return "is a directory named like an image"
    if os.path.islink(path) and not os.path.exists(path):
        return "is a broken link"
    return "is not inside a class folder" if _is_image_name(name) else _unknown_extension(name)


def _is_image_name(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _unknown_extension(name: str) -> str:
    extension = os.path.splitext(name)[1]
    return f"has an extension that is not an image's: {extension!r}" if extension else "has no extension"


def _images_below(folder: str, visited: dict[tuple[int, int], str], skipped: list[Skipped]) -> list[str]:
    """The image files in a class folder and below, depth first."""
    images, waiting = [], [iter(_list(folder))]
    while waiting:
        name, path = next(waiting[-1], ("", ""))
        if not path:
            waiting.pop()
        elif reason := _why_not(name, path, visited):
            skipped.append(Skipped(path, reason))
        elif os.path.isdir(path):
            waiting.append(iter(_list(path)))
        else:
            images.append(path)
    return images


def _why_not(name: str, path: str, visited: dict[tuple[int, int], str]) -> str | None:
    """Why a file or directory in a class is passed over; ``visited`` ends circles of links."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return "is a broken link" if os.path.islink(path) else f"cannot be read: {error.strerror}"
    if stat.S_ISDIR(mode):
        if _is_image_name(name):
            return "is a directory named like an image"
        first = visited.setdefault(_identity(path), path)
        return None if first == path else f"is the directory {first!r} again"
    if not stat.S_ISREG(mode):
        return "is not a regular file"
    return None if _is_image_name(name) else _unknown_extension(name)


def _visited(root: str, folders: dict[str, str]) -> dict[tuple[int, int], str]:
    visited = {_identity(root): root}
    for folder in folders.values():
        first = visited.setdefault(_identity(folder), folder)
        if first != folder:
            raise InputError(f"class folder {folder!r} is the directory {first!r} again: remove the link")
    return visited


def _check_layout(root: str, folders: dict[str, str], classes: Sequence[str] | None) -> None:
    if not folders:
        raise InputError(f"{root!r} holds no class folders: put the images of each class into a sub-folder of it")
    validation = _validation_name(folders)
    if "train" in folders and validation and classes is None:
        raise InputError(f"{root!r} holds train and {validation}, not classes: use read_folder, or scan each of them")
    if classes is None and len(folders) < 2:
        raise InputError(
            f"{root!r} holds only one class, {next(iter(folders))!r}: add a sub-folder for each other class"
        )
    known = {_name(name) for name in classes or folders}
    for name, folder in folders.items():
        if name not in known:
            shown = ", ".join(map(repr, sorted(known)[:10])) + (", ..." if len(known) > 10 else "")
            raise InputError(
                f"{folder!r} is a class that training lacks ({shown}): rename it, remove it or add it there"
            )


def _check_found(root: str, folders: dict[str, str], found: dict[str, list[str]]) -> None:
    if not any(found.values()):
        raise InputError(f"{root!r} holds no images in {len(found)} class folders: add {', '.join(EXTENSIONS)} files")
    for name, paths in found.items():
        if not paths:
            raise InputError(f"class folder {folders[name]!r} holds no images: add some or remove it")

"""Epochs of batches, on the device ahead of need.

    for batch in batches(train_images, batch_size=32, seed=0, epoch=epoch, step=step):
        state, info = trainer.step(state, batch)

The order is a pure function of (seed, epoch), so three integers (seed, epoch, step) are the whole state of the
loader: a run that stops in mid-epoch goes on with the batch it would have seen, on any number of threads or hosts.
Every batch has the same shape; the last is filled up with rows of weight 0.
"""

from __future__ import annotations

import operator
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from jaxmodels.core import Batch, InputError, PyTree, check_count
from jaxmodels.data import decode, packed
from jaxmodels.data.example import Recipe, example, recipe
from jaxmodels.data.folder import ImageFolder


class PixelCache:
    """Decoded pixels in memory, shared by the epochs of a run; the pixels are those that decoding gives.

    It keeps what came first and lets nothing go: epochs read each image once, and dropping the least recently
    used would then drop each just before it is needed.

    >>> cache = PixelCache(max_bytes=2**20)
    >>> cache.put("a", np.zeros((4, 4, 3), np.uint8)), cache.num_bytes
    (None, 48)
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._examples: dict[Any, PyTree] = {}
        self._lock = threading.Lock()

    def get(self, key: Any) -> PyTree | None:
        return self._examples.get(key)

    def put(self, key: Any, example: PyTree) -> None:
        """Keep ``example`` where it fits."""
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(example))
        with self._lock:
            if key not in self._examples and self.num_bytes + size <= self.max_bytes:
                self._examples[key] = example
                self.num_bytes += size


def order(num_examples: int, *, seed: int, epoch: int, shuffle: bool = True) -> Int[np.ndarray, "n"]:
    """The order in which an epoch visits its examples: a permutation keyed on ``(seed, epoch)``.

    Philox's raw bits are sorted, because NumPy promises those across versions and ``permutation`` not.

    Args:
      num_examples: how many.
      seed: the run's, at least 0.
      epoch: counted from 0.
      shuffle: ``False`` for ``0, 1, 2, ...``.

    Returns:
      int64 ``[num_examples]``.

    >>> order(5, seed=0, epoch=1).tolist() == order(5, seed=0, epoch=1).tolist() != order(5, seed=0, epoch=2).tolist()
    True
    """
    if not shuffle:
        return np.arange(num_examples)
    for name, value in (("seed", seed), ("epoch", epoch)):
        if operator.index(value) < 0:
            raise InputError(f"{name}={value} is negative: give 0 or more")
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(num_examples)
    return np.argsort(bits, kind="stable")


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Batches in an epoch, the filled-up last one included.

    >>> steps_per_epoch(10, 4)
    3
    """
    return -(-num_examples // batch_size)


def batches(
    images: ImageFolder,
    *,
    batch_size: int,
    mode: str = "crop",
    image_size: int = 224,
    resize_size: int | None = None,
    interpolation: str = "bilinear",
    seed: int = 0,
    epoch: int = 0,
    step: int = 0,
    shuffle: bool = True,
    process_index: int = 0,
    process_count: int = 1,
    workers: int | None = None,
    prefetch: int = 2,
    cache: PixelCache | None = None,
    max_pixels: int = decode.MAX_PIXELS,
    put: Callable[[Batch], Batch] = jax.device_put,
) -> Iterator[Batch]:
    """One epoch of image batches from ``step`` on, decoded by threads and put on the device ahead of need.

    Rows that fill up the last batch repeat the epoch's first images with weight 0: valid pixels and labels, so that
    they disturb nothing that looks at a whole batch. Closing the iterator (``break``, an exception, Ctrl-C) cancels
    what is under way and joins the threads.

    Args:
      images: from ``folder``; labels come from it. A packed store holds the very pixels that its folder gives, and
        only for the modes and sizes that it was packed for.
      batch_size: rows over all hosts.
      mode: ``"crop"``: ``inputs`` uint8 ``[n, image_size, image_size, 3]``, by ``decode.resize_and_crop``.
        ``"canvas"``: ``inputs`` a ``Canvas`` of side ``resize_size``, for random crops on the device.
      image_size: side of the crop, pixels.
      resize_size: short side before the crop, or side of the canvas, pixels; default: 256/224 of ``image_size``.
      interpolation: ``"bilinear"`` or ``"bicubic"``, for crops; a canvas is always bilinear.
      seed, epoch, step: where the run is; ``step`` counts the batches of this epoch that are done.
      shuffle: ``True`` for training; a batch larger than the data is then an error. ``False`` for evaluation, in the
        order of ``images``; it is then filled up.
      process_index, process_count: this host, and of how many; it gets its contiguous slice of every batch.
      workers: decoding threads; default: the processors this process may use.
      prefetch: batches made ahead of the one in use.
      cache: keeps pixels between epochs; a packed store has no use for it.
      max_pixels: as in ``decode.decode``.
      put: moves a batch of NumPy arrays on to the device or devices.

    Returns:
      iterator of ``Batch``: ``targets`` int32 ``[n]``, ``weights`` float32 ``[n]``.

    Raises:
      InputError: for arguments, at once. ``decode.DecodeError``: at the batch that holds the file it names.
    """
    wanted = recipe(mode, image_size, resize_size, interpolation)
    check_count("prefetch", prefetch, 0)
    workers = decode.default_workers() if workers is None else workers
    check_count("workers", workers)
    plan = _plan(len(images.paths), "images", batch_size, seed, epoch, step, shuffle, process_index, process_count)
    jobs, join = _reading(images, wanted, cache, max_pixels)

    def assemble(examples: list[Future], rows: np.ndarray, weights: np.ndarray) -> Batch:
        return put(Batch(join([example.result() for example in examples]), images.labels[rows], weights))

    return _stream(plan, jobs, assemble, workers, prefetch)


def array_batches(
    inputs: PyTree,
    targets: PyTree,
    *,
    batch_size: int,
    weights: Any = None,
    seed: int = 0,
    epoch: int = 0,
    step: int = 0,
    shuffle: bool = True,
    process_index: int = 0,
    process_count: int = 1,
    put: Callable[[Batch], Batch] = jax.device_put,
) -> Iterator[Batch]:
    """``batches`` for arrays in memory: the same order, the same padding, the same three integers.

    Args:
      inputs: arrays ``[n, ...]``, any pytree of them.
      targets: arrays ``[n, ...]``, or ``None`` (features without labels).
      weights: ``[n]``; default: ones. Padding has weight 0 whatever these are.
      batch_size, seed, epoch, step, shuffle, process_index, process_count, put: as in ``batches``.

    Returns:
      iterator of ``Batch`` with ``weights`` of the dtype given, else float32.

    >>> [batch.weights.tolist() for batch in array_batches(np.eye(3), None, batch_size=2)]
    [[1.0, 1.0], [1.0, 0.0]]
    """
    examples = (inputs, targets) if weights is None else (inputs, targets, weights)
    examples = jax.tree.map(np.asarray, examples)
    lengths = {leaf.shape[0] if leaf.ndim else None for leaf in jax.tree.leaves(examples)}
    if len(lengths) != 1 or None in lengths:
        shapes = ", ".join(str(leaf.shape) for leaf in jax.tree.leaves(examples))
        raise InputError(f"inputs, targets and weights do not have one number of rows: their shapes are {shapes}")
    plan = _plan(lengths.pop(), "rows", batch_size, seed, epoch, step, shuffle, process_index, process_count)
    return (put(_take(examples, rows, real)) for rows, real in plan)


def check_labels(labels: Any, num_classes: int) -> None:
    """Raise unless every label is an integer in ``[0, num_classes)``.

    A label outside goes unnoticed on the device: it makes a NaN loss, wraps around or counts as no class.

    Args:
      labels: integers ``[n]``, on the host.
      num_classes: how many classes the model has.

    >>> check_labels(np.array([0, 1, 2]), num_classes=2)
    Traceback (most recent call last):
    ...
    jaxmodels.core.InputError: labels[2] is 2, outside 0 to 1 (num_classes=2)
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise InputError(f"labels have dtype {labels.dtype}: give integers from 0 to {num_classes - 1}")
    outside = np.argwhere((labels < 0) | (labels >= num_classes))
    if len(outside):
        place = ", ".join(map(str, outside[0]))
        value = labels[tuple(outside[0])]
        raise InputError(f"labels[{place}] is {value}, outside 0 to {num_classes - 1} (num_classes={num_classes})")


def _reading(images: ImageFolder, wanted: Recipe, cache: PixelCache | None, max_pixels: int):
    """``(jobs, join)``: what reads the inputs of ``rows``, a call a job, and what makes one batch of all they return.

    A job an image where it is decoded. Copying packed pixels takes longer than a job only for a batch of them.
    """
    store, paths = images.store, images.paths
    if store is None:
        return lambda rows: [partial(_load, paths[row], wanted, cache, max_pixels) for row in rows], _stack
    packed.require(store, wanted)
    return lambda rows: [partial(packed.take, store, wanted.mode, [paths[row] for row in rows])], operator.itemgetter(0)


def _load(path: str, wanted: Recipe, cache: PixelCache | None, max_pixels: int) -> PyTree:
    key = (path, wanted)
    found = None if cache is None else cache.get(key)
    if found is None:
        found = example(decode.decode(path, max_pixels=max_pixels), wanted)
        if cache is not None:
            cache.put(key, found)
    return found


def _stack(examples: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)


def _take(examples: tuple, rows: np.ndarray, real: np.ndarray) -> Batch:
    inputs, targets, *weights = jax.tree.map(lambda leaf: leaf[rows], examples)
    weights = np.where(real > 0, weights[0], 0).astype(weights[0].dtype) if weights else real
    return Batch(inputs, targets, weights)


def _plan(num_examples, unit, batch_size, seed, epoch, step, shuffle, process_index, process_count):
    """Check the arguments now; return the iterator over ``(rows, weights)`` of this host's batches from ``step`` on."""
    check_count("batch_size", batch_size)
    check_count("process_count", process_count)
    if num_examples == 0:
        raise InputError(f"there are no {unit} to make batches of")
    if shuffle and batch_size > num_examples:
        raise InputError(f"batch_size={batch_size} is more than the {num_examples} {unit}: lower it (or shuffle=False)")
    if batch_size % process_count:
        raise InputError(f"batch_size={batch_size} does not divide among process_count={process_count} hosts")
    if not 0 <= process_index < process_count:
        raise InputError(f"process_index={process_index} is not in 0 to {process_count - 1}")
    steps = steps_per_epoch(num_examples, batch_size)
    if not 0 <= step <= steps:
        raise InputError(f"step={step} is not in 0 to {steps}, the batches of an epoch")
    visits = order(num_examples, seed=seed, epoch=epoch, shuffle=shuffle)
    size = batch_size // process_count
    starts = (at * batch_size + process_index * size for at in range(step, steps))
    positions = (np.arange(start, start + size) for start in starts)
    return ((visits[each % num_examples], (each < num_examples).astype(np.float32)) for each in positions)


def _stream(plan, jobs, assemble, workers: int, prefetch: int) -> Iterator[Batch]:
    """Keep ``prefetch`` batches under way; ``assemble`` waits in a thread of its own, so that no decoder idles."""
    decoders = ThreadPoolExecutor(workers, "jaxmodels-decode")
    transfer = ThreadPoolExecutor(1, "jaxmodels-transfer")
    pending: deque[Future] = deque()
    try:
        for rows, weights in plan:
            examples = [decoders.submit(job) for job in jobs(rows)]
            pending.append(transfer.submit(assemble, examples, rows, weights))
            if len(pending) > prefetch:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # The decoders first: their cancelled futures release the assembly that waits for them.
        decoders.shutdown(wait=True, cancel_futures=True)
        transfer.shutdown(wait=True, cancel_futures=True)

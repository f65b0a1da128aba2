"""What a network will need before anyone rents a machine: parameters, memory, flops, and the time of a step.

The step that ``train.trainer`` makes is traced without any data and counted; its time is that of a perfect device, so
what is measured takes longer: divide by the share of the roofline that the device reached before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.benchmark import devices
from jaxmodels.benchmark.count import Count, count
from jaxmodels.core import Batch, InputError, Model, PyTree, TrainState, fold_model

NETWORKS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_DTYPES = ("bfloat16", "float16", "float32", "float64")


class Estimate(NamedTuple):
    """Of one step, or one call for inference."""

    name: str
    device: str
    train: bool
    batch: int
    image: int
    dtype: str
    parameters: int
    state_bytes: int
    """Parameters, running statistics and, in training, the optimizer's momentum."""
    memory: float
    """Most bytes at once: the state, the batch, and what the program keeps meanwhile."""
    device_memory: float
    """What the device has."""
    flops: float
    bytes: float
    """Moved to and from memory."""
    seconds: float
    """The roofline, kernel by kernel."""
    images_per_second: float
    mfu: float
    """Share of the peak flops at that speed, which memory traffic keeps below 1."""


def estimate(
    name: str,
    *,
    batch: int = 32,
    image: int = 224,
    dtype: str = "float32",
    device: str | None = None,
    train: bool = True,
) -> Estimate:
    """Predict what a network needs.

    Args:
      name: one of ``NETWORKS``.
      batch: images a step.
      image: pixels a side.
      dtype: of the computation; parameters stay in float32 (float64 for float64).
      device: as ``devices.find`` knows it: "h200", "v5e", "cpu", ... Default: jax's first device.
      train: a step of SGD with momentum, statistics updated; or else inference with folded batch norms.

    Raises:
      InputError: a network, dtype or device that is not known, or a size below 1.

    >>> found = estimate("resnet50", batch=256, dtype="bfloat16", device="h200")
    >>> found.parameters, round(found.flops / 256 / 1e9, 1), 5_000 < found.images_per_second < 20_000
    (25557032, 23.5, True)
    """
    _check(name, batch=batch, image=image, dtype=dtype)
    peaks = devices.find(device)
    found, state, parameters = _count(name, batch, image, dtype, train, _platform(peaks))
    seconds = found.seconds(peaks.rate, peaks.bandwidth)
    return Estimate(
        name=name,
        device=peaks.name,
        train=train,
        batch=batch,
        image=image,
        dtype=dtype,
        parameters=parameters,
        state_bytes=state,
        memory=found.memory,
        device_memory=peaks.memory,
        flops=found.flops,
        bytes=found.bytes,
        seconds=seconds,
        images_per_second=batch / seconds,
        mfu=found.seconds(peaks.rate, np.inf) / seconds,
    )


def _platform(peaks: devices.Device) -> str:
    if peaks.kind == "cpu":
        return "cpu"
    return "tpu" if "tpu" in peaks.kind else "rocm" if peaks.name == "mi300x" else "cuda"


def _count(name: str, batch: int, image: int, dtype: str, train: bool, platform: str) -> tuple[Count, int, int]:
    """The program's count, bytes of the state, number of parameters; nothing is computed."""
    import optax

    from jaxmodels import losses, resnet
    from jaxmodels import train as training

    model = getattr(resnet, name)(dtype=dtype, native=platform != "cpu")
    wide = jnp.promote_types(dtype, jnp.float32)
    inputs = jax.ShapeDtypeStruct((batch, image, image, 3), wide)
    examples = Batch(inputs, jax.ShapeDtypeStruct((batch,), np.int32))
    optimizer = optax.sgd(0.1, momentum=0.9)
    trainer = training.trainer(model, loss=losses.softmax_cross_entropy, optimizer=optimizer)
    key = jax.random.key(0)
    with jax.enable_x64(wide == jnp.float64):
        state = jax.eval_shape(trainer.init, key, examples)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        if train:
            return count(trainer.step, state, examples, platform=platform), _bytes(state._replace(key=())), parameters
        folded, predict = _folded(model, state)
        return count(predict, folded, inputs, platform=platform), _bytes(folded), parameters


def _folded(model: Model, state: TrainState) -> tuple[PyTree, Callable]:
    """``core.fold_model`` of shapes alone."""
    predicts = []

    def fold(params, statistics):
        folded, predict = fold_model(model, params, statistics)
        predicts.append(predict)
        return folded

    return jax.eval_shape(fold, state.params, state.state), predicts[0]


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _check(name: str, *, batch: int, image: int, dtype: str) -> None:
    if name not in NETWORKS:
        raise InputError(f"name: {name!r} is not known; those that are: {', '.join(NETWORKS)}")
    if dtype not in _DTYPES:
        raise InputError(f"dtype: {dtype!r} is none of {', '.join(_DTYPES)}")
    for argument, value in (("batch", batch), ("image", image)):
        if value < 1:
            raise InputError(f"{argument}: needs 1 or more, got {value}")

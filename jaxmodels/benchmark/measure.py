"""One measurement: compilation apart, time beside peers, flops, bytes, memory, and where it was taken.

mfu = sum over kernels of flops / peak rate / seconds          roofline = a perfect device's seconds / seconds
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.benchmark import devices
from jaxmodels.benchmark.count import Count, count_jaxpr
from jaxmodels.benchmark.turns import Ratio, Timing, take_turns
from jaxmodels.benchmark.where import around
from jaxmodels.core import InputError


class Stages(NamedTuple):
    """What comes before a function's first run."""

    trace_seconds: float
    lower_seconds: float
    compile_seconds: float
    """Near 0 where the persistent cache had it."""


class Work(NamedTuple):
    """What a call does, and what share that is of what the device could do in the same time."""

    flops: float
    bytes: float
    program_bytes: float | None
    """Inputs, outputs and temporaries of the compiled program."""
    mfu: float | None
    """Of the peak flops; ``None``: the device's peaks are not known."""
    roofline: float | None
    """Of what a perfect device would do, by ``count``'s model of it; above 1 where data stay in a cache."""
    uncounted: tuple[str, ...]
    """What the count leaves out, or counts once of many turns."""


class Measurement(NamedTuple):
    """The times of a function and its peers."""

    name: str
    timing: Timing
    stages: Stages | None
    """``None`` for a function without arguments, which is called as it is."""
    work: Work | None
    peers: dict[str, Timing]
    peak_memory: tuple[int, str]
    """As ``devices.peak_memory`` says."""
    around: dict[str, Any]
    """Device, versions, revision, date."""

    def ratio(self, peer: str) -> Ratio:
        """Our time over the peer's: below 1, ours is less."""
        if peer not in self.peers:
            raise InputError(f"peer: got {peer!r}, measured beside {', '.join(self.peers) or 'none'}")
        return self.timing.over(self.peers[peer])

    def record(self) -> dict[str, Any]:
        """All of it as JSON has it; numbers that are not whole have four digits."""
        size, of = self.peak_memory
        found = {"name": self.name, **_times(self.timing), "rounds": len(self.timing.seconds)}
        found |= self.stages._asdict() if self.stages else {}
        found |= self.work._asdict() if self.work else {}
        found |= {"peak_memory": size, "peak_memory_of": of}
        peers = {name: _times(timing) | _ratio_fields(self.ratio(name)) for name, timing in self.peers.items()}
        return _rounded(found | {"peers": peers}) | self.around

    def json_line(self) -> str:
        """``record`` in one line."""
        return json.dumps(self.record())


def measure(
    function: Callable,
    *args: Any,
    peers: Mapping[str, Callable[[], Any]] | None = None,
    name: str | None = None,
    rounds: int = 7,
    least_seconds: float = 0.01,
    pause: float = 0.0,
    carry: Callable[[tuple, Any], tuple] | None = None,
    allow_constant: bool = False,
) -> Measurement:
    """Time ``function(*args)`` beside its peers, in turns, and say what share of the device's limits it reaches.

    NumPy's arrays among ``args`` are put on the device first.

    Args:
      function: compiled by ``jax.jit`` unless it is so already (a ``functools.partial`` of such a one too); one without
        arguments is called as it is, whatever library it is of, and its work is not counted.
      peers: name -> a function without arguments, which has finished when it returns or gives jax's arrays. Data that
        it needs lie ready in it.
      name: of the measurement. Default: the function's.
      rounds: turns of each.
      least_seconds: of a turn; shorter calls are repeated in it.
      pause: seconds before each turn, for another library's threads to stop spinning.
      carry: ``(args, result) -> args`` of the next call, for a step that donates what it was given; ``args`` are
        copied first.
      allow_constant: take arguments whose entries are all the same, which some hardware is faster on.

    Returns:
      The ``Measurement``; ``json_line`` prints it.

    Raises:
      InputError: an argument whose arrays hold one value throughout; a peer of the same name.

    >>> x = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    >>> found = measure(lambda x: x @ x, x, peers={"numpy": lambda: x @ x}, name="product", rounds=3)
    >>> found.work.flops == 2 * 64**3, found.stages.compile_seconds > 0, json.loads(found.json_line())["name"]
    (True, True, 'product')
    """
    if isinstance(function, functools.partial) and hasattr(function.func, "trace"):
        function, args = function.func, (*function.args, *args)
    if not allow_constant:
        _check_varied(args)
    name = name or getattr(function, "__name__", type(function).__name__)
    peers = {} if peers is None else peers
    if not isinstance(peers, Mapping) or not all(map(callable, (function, *peers.values()))):
        raise InputError("function, peers: need a function, and name -> function without arguments for each peer")
    if name in peers:
        raise InputError(f"peers: {name!r} is the name of the function itself; give name= or call the peer otherwise")
    compiled = None
    if args or hasattr(function, "trace"):
        function = function if hasattr(function, "trace") else jax.jit(function)
        args = jax.tree.map(lambda leaf: jax.device_put(leaf) if isinstance(leaf, np.ndarray) else leaf, args)
        compiled = _compile(function, args)
    call = functools.partial(function, *args) if carry is None else _carrying(function, args, carry)
    timed = take_turns({name: call} | dict(peers), rounds=rounds, least_seconds=least_seconds, pause=pause)
    ours = timed.pop(name)
    work = None if compiled is None else _work(compiled, ours.median, _num_devices(args))
    stages = None if compiled is None else compiled.stages
    return Measurement(name, ours, stages, work, timed, devices.peak_memory(), around())


class _Compiled(NamedTuple):
    stages: Stages
    count: Count
    program_bytes: float | None


def _compile(function: Any, args: tuple) -> _Compiled:
    """The stages one after the other; jax keeps what they made, so the first call does not compile again."""
    start = time.perf_counter()
    traced = function.trace(*args)
    at_trace = time.perf_counter()
    lowered = traced.lower()
    at_lower = time.perf_counter()
    memory = lowered.compile().memory_analysis()
    stages = Stages(at_trace - start, at_lower - at_trace, time.perf_counter() - at_lower)
    sizes = ("argument", "output", "temp")
    size = memory and sum(getattr(memory, f"{each}_size_in_bytes") for each in sizes) - memory.alias_size_in_bytes
    return _Compiled(stages, count_jaxpr(traced.jaxpr), size)


def _carrying(function: Callable, args: tuple, carry: Callable[[tuple, Any], tuple]) -> Callable[[], Any]:
    carried = [jax.tree.map(lambda leaf: jnp.copy(leaf) if isinstance(leaf, jax.Array) else leaf, args)]

    def call():
        result = function(*carried[0])
        carried[0] = carry(carried[0], result)
        return result

    return call


def _work(compiled: _Compiled, seconds: float, num_devices: int) -> Work:
    found = compiled.count
    mfu = roofline = None
    with contextlib.suppress(InputError):  # a device that is not in the table
        device = devices.find()
        mfu = found.seconds(device.rate, math.inf) / seconds / num_devices
        roofline = found.seconds(device.rate, device.bandwidth) / seconds / num_devices
    return Work(found.flops, found.bytes, compiled.program_bytes, mfu, roofline, found.uncounted)


def _num_devices(args: tuple) -> int:
    arrays = [leaf for leaf in jax.tree.leaves(args) if isinstance(leaf, jax.Array)]
    return max((len(array.devices()) for array in arrays), default=1)


def _check_varied(args: tuple) -> None:
    for index, argument in enumerate(args):
        arrays = [leaf for leaf in jax.tree.leaves(argument) if _is_data(leaf)]
        if arrays and all(bool((array == array.ravel()[0]).all()) for array in arrays):
            value = np.asarray(arrays[0]).ravel()[0]
            raise InputError(
                f"args[{index}]: every entry is {value}; measure on varied data, such as "
                "np.random.default_rng(0).normal(size=...), or pass allow_constant=True"
            )


def _is_data(leaf: Any) -> bool:
    if not isinstance(leaf, (jax.Array, np.ndarray)) or leaf.size < 2:
        return False
    return not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)  # random keys


def _times(timing: Timing) -> dict[str, float]:
    return {"seconds": timing.median, "spread": timing.spread, "first_seconds": timing.first_seconds}


def _ratio_fields(ratio: Ratio) -> dict[str, float]:
    return {"ratio": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else float(f"{value:.4g}")

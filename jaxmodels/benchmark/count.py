"""What a program costs, counted from its jaxpr: arithmetic, memory traffic, and the time a perfect device would take.

    time = sum over kernels of max(flops / peak rate, bytes / bandwidth)            (the roofline, kernel by kernel)

The compiled program's own cost analysis counts the body of a loop once and is wrong after fusion, so it is not asked.
Fusion is modelled instead. Products, convolutions, factorisations, sorts and loops are kernels of their own, which read
and write memory; everything between them melts together. A value's level is the number of kernels before it: what the
elementwise work and the reductions of one level read, they read once, and they write what a later kernel needs. What a
later level needs is written once, or made again where that moves fewer bytes. Updates of a part happen in place.

Flops are those of products, convolutions and factorisations, as is the custom: elementwise arithmetic takes less time
than the traffic that comes with it.

Source: Williams, Waterman and Patterson (2009), Roofline: an insightful visual performance model.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmodels.benchmark.arithmetic import FLOPS, dtype_of_products
from jaxmodels.benchmark.program import Program, flat, is_literal


class Kernel(NamedTuple):
    """Work that runs as one piece, ``times`` times in the program."""

    name: str
    """Its primitive; "fused" for the elementwise work and the reductions of a level."""
    flops: float
    """Multiplications and additions, each counted as one."""
    bytes: float
    """Read and written."""
    dtype: str = "float32"
    """Of the operands that are multiplied, which decides the peak rate: "tfloat32" for float32 at default precision."""
    times: float = 1.0


class Count(NamedTuple):
    """The kernels of a program."""

    kernels: tuple[Kernel, ...]
    memory: float
    """Most bytes that are alive at once: inputs (donated ones until their last use), and what was written and is still
    needed."""
    uncounted: tuple[str, ...]
    """What has no known cost: loops without a fixed number of turns (one turn is counted), foreign kernels."""

    @property
    def flops(self) -> float:
        """Of the whole program."""
        return sum(kernel.flops * kernel.times for kernel in self.kernels)

    @property
    def bytes(self) -> float:
        """Of the whole program."""
        return sum(kernel.bytes * kernel.times for kernel in self.kernels)

    def seconds(self, rate: Callable[[str], float], bandwidth: float) -> float:
        """The roofline: ``rate(dtype)`` in flops a second, ``bandwidth`` in bytes a second."""
        return sum(
            kernel.times * max(kernel.flops / rate(kernel.dtype), kernel.bytes / bandwidth) for kernel in self.kernels
        )


def count(function: Callable, *args: Any, platform: str | None = None) -> Count:
    """Count the work of ``function(*args)``; arrays may be ``jax.ShapeDtypeStruct``, nothing is computed.

    Args:
      platform: "cpu", "cuda", "rocm" or "tpu", where a program differs by it. Default: the one that jax would use.

    >>> a = jax.ShapeDtypeStruct((10, 20), np.float32)
    >>> b = jax.ShapeDtypeStruct((20, 30), np.float32)
    >>> found = count(lambda a, b: jax.nn.relu(a @ b), a, b)
    >>> [(kernel.name, kernel.flops, kernel.bytes) for kernel in found.kernels]
    [('dot_general', 12000.0, 4400.0), ('fused', 0.0, 2400.0)]
    """
    return count_jaxpr(jax.make_jaxpr(function)(*args), platform=platform)


def count_jaxpr(jaxpr: Any, *, platform: str | None = None) -> Count:
    """``count`` of what was traced already: ``jax.jit(function).trace(*args).jaxpr``."""
    backend = jax.default_backend() if platform is None else platform
    return _Walk("cuda" if backend == "gpu" else backend).run(flat(jaxpr))


class _Value:
    """An array in memory, or one that is still to be made, elementwise, from arrays in memory: its sources."""

    def __init__(self, variable: Any, level: int = 0, sources: Iterable[_Value] | None = None, born: int = -1):
        self.bytes, self.level = _bytes(variable), level
        self.sources = None if sources is None else frozenset(sources)
        self.written = sources is None
        self.base = self
        """The array that this one is a part of."""
        self.born = self.last = born
        """The steps from which to which it is needed."""


def _bytes(variable: Any) -> int:
    aval = variable.aval
    return math.prod(getattr(aval, "shape", ())) * getattr(getattr(aval, "dtype", None), "itemsize", 8)


class _Walk:
    """Goes through a program, in order, and gathers its kernels."""

    def __init__(self, platform: str):
        self.platform = platform
        self.kernels: list[Kernel] = []
        self.uncounted: set[str] = set()
        self.reads: dict[int, set[_Value]] = collections.defaultdict(set)
        self.writes: dict[int, set[_Value]] = collections.defaultdict(set)
        """By level, of the fused kernels."""
        self.made: list[_Value] = []
        """What lies in memory for a time: everything written, and inputs that are given away."""
        self.inside: dict[int, float] = {}
        """Step -> bytes that a loop needs beside what goes in and comes out."""
        self.now = 0

    def run(self, program: Program) -> Count:
        values = {number: _Value(variable, born=0) for number, variable in program.inputs.items()}
        kept = sum(value.bytes for number, value in values.items() if number not in program.donated)
        self.made = [value for number, value in values.items() if number in program.donated]
        for number, variable in program.constants.items():
            values[number] = _Value(variable, sources=() if is_literal(variable) else None, born=0)
        for self.now, step in enumerate(program.steps):
            results = self.step(step.equation, [values[number] for number in step.operands])
            values.update(zip(step.results, results, strict=True))
        self.now = len(program.steps)
        for number in program.outputs:
            self.write(values[number])
        for level in sorted(self.reads.keys() | self.writes.keys()):
            moved = sum(value.bytes for value in (*self.reads[level], *self.writes[level]))
            self.kernels += [Kernel("fused", 0.0, float(moved))] if moved else []
        return Count(tuple(self.kernels), kept + self.peak(), tuple(sorted(self.uncounted)))

    def step(self, equation: Any, operands: list[_Value]) -> list[_Value]:
        """The values that an equation makes."""
        name, outs = equation.primitive.name, equation.outvars
        if name in _SAME or (name == "broadcast_in_dim" and _bytes(outs[0]) == operands[0].bytes):
            return operands[: len(outs)]
        if name in ("scan", "while", "cond"):
            return self.control(equation, operands)
        if name in FLOPS or name in _KERNELS or name in _FOREIGN or name.startswith("scatter"):
            return self.kernel(equation, operands)
        if name in ("slice", "split") and operands[0].sources is None:
            return [self.part(out, operands[0]) for out in outs]
        if name in ("gather", "dynamic_slice"):
            self.write(operands[0])
            operands = [self.part(outs[0], operands[0]), *operands[1:]]
        level = _level(operands)
        sources = {source for operand in operands for source in self.needed(operand, level)}
        if name.startswith(_REDUCTIONS) and name != "reduce_precision":
            self.read(level, sources, self.now)
            return [self.make(_Value(out, level + 1, born=self.now), level) for out in outs]
        return [_Value(out, level, sources, self.now) for out in outs]

    def needed(self, value: _Value, level: int) -> frozenset[_Value]:
        """What a kernel of ``level`` reads to have ``value``: it, or what it is made from."""
        if value.sources is None:
            return frozenset([value])
        dear = 2 * value.bytes < sum(source.bytes for source in value.sources)
        if value.level < level and (value.written or dear):
            self.write(value)
            return frozenset([value])
        return value.sources

    def part(self, variable: Any, whole: _Value) -> _Value:
        """A part of an array in memory; what is read of it, and when, is known by what is made from it."""
        value = _Value(variable, whole.level + (whole.sources is not None))
        value.base = whole.base
        return value

    def read(self, level: int, values: Iterable[_Value], step: int) -> None:
        self.reads[level].update(values)
        for value in values:
            value.base.last = max(value.base.last, step)

    def write(self, value: _Value) -> None:
        """Have ``value`` in memory, from the step that made it to this one."""
        if not value.written:
            self.read(value.level, value.sources or (), value.born)
            self.make(value, value.level)
        value.base.last = self.now

    def make(self, value: _Value, level: int | None = None) -> _Value:
        """Note that ``value`` is written, by the fused kernel of ``level`` or by one of its own."""
        value.written = True
        self.made.append(value)
        if level is not None:
            self.writes[level].add(value)
        return value

    def kernel(self, equation: Any, operands: list[_Value]) -> list[_Value]:
        """A kernel of its own, which reads and writes memory."""
        for operand in operands:
            self.write(operand)
        name, level = equation.primitive.name, _level(operands) + 1
        results = [_Value(out, level, born=self.now) for out in equation.outvars]
        if name.startswith(("scatter", "dynamic_update")):
            results[0].base = operands[0].base
            indices, updates = operands[1:3] if name.startswith("scatter") else (operands[2], operands[1])
            moved = indices.bytes + 2 * updates.bytes
        else:
            moved = sum(value.bytes for value in {*operands, *map(self.make, results)})
        if name in _FOREIGN:
            self.uncounted.add(name)
        flops = FLOPS[name](equation) if name in FLOPS else 0.0
        self.kernels.append(Kernel(name, flops, float(moved), dtype_of_products(equation)))
        return results

    def control(self, equation: Any, operands: list[_Value]) -> list[_Value]:
        """A loop, or a branch: the one of the platform, or the most expensive."""
        for operand in operands:
            self.write(operand)
        programs = [flat(program) for program in self.bodies(equation)]
        counts = [_Walk(self.platform).run(program) for program in programs]
        costs = [found.flops + found.bytes for found in counts]
        program, found = programs[np.argmax(costs)], counts[np.argmax(costs)]
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        self.kernels += [kernel._replace(times=kernel.times * times) for kernel in found.kernels]
        self.uncounted |= {*found.uncounted} | ({"while"} if equation.primitive.name == "while" else set())
        self.inside[self.now] = found.memory - sum(map(_bytes, program.inputs.values()))
        return [self.make(_Value(out, _level(operands) + 1, born=self.now)) for out in equation.outvars]

    def bodies(self, equation: Any) -> list[Any]:
        parameters = equation.params
        if equation.primitive.name != "cond":
            return [parameters["body_jaxpr" if equation.primitive.name == "while" else "jaxpr"]]
        platforms = parameters.get("branches_platforms") or ()
        chosen = [index for index, names in enumerate(platforms) if names is None or self.platform in names]
        return [parameters["branches"][chosen[0]]] if chosen else list(parameters["branches"])

    def peak(self) -> float:
        """Most bytes, beside inputs that are kept, that are needed in one step."""
        change = np.zeros(self.now + 3)
        for value in self.made:
            change[value.born] += value.bytes
            change[value.last + 1] -= value.bytes
        live = np.cumsum(change)
        for step, needed in self.inside.items():
            live[step] += needed
        return float(live.max())


def _level(operands: Iterable[_Value]) -> int:
    return max((operand.level for operand in operands), default=0)


_SAME = frozenset(["reshape", "transpose", "squeeze", "expand_dims", "copy", "copy_p", "optimization_barrier"])
"""What moves nothing: a kernel reads its operands in any order."""
_KERNELS = frozenset(["dynamic_update_slice", "sort", "top_k", "select_and_scatter_add", "fft", "tridiagonal_solve"])
"""What runs on its own, without arithmetic worth counting."""
_REDUCTIONS = ("reduce_", "argm", "cum")
_FOREIGN = frozenset(["pallas_call", "ffi_call", "custom_call", "pure_callback", "io_callback", "eig", "schur"])

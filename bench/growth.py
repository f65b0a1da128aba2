"""How do time, memory and compilation grow with the size of a problem, and does anything outgrow its flops and bytes?

    python bench/growth.py [--only rows columns ...] [--quick] [--output growth.jsonl] [--draw growth.png]

One JSON line a size. ``time_growth`` is the exponent between this size and the one before, log(time ratio) / log(size
ratio); ``roofline_growth`` that of the time which a perfect device would take, ``memory_growth`` that of XLA's plan.
Time grows faster than its roofline where a cache is left behind, and slower where fixed costs still count.

Last run, two quiet Zen cores, jax 0.10.2 (``results/2026-11-24-growth.jsonl``); exponents of time (of the roofline):
rows 1e3 to 1e6: 0.54, 0.68, 1.42 (0.95 to 1.00); the last leaves the cache.  columns 2 to 2,000: 0.33, 1.16, 1.94
(0.86, 1.31, 2.03).  lanes 10 to 1e5: 0.15, 0.99, 0.88, 0.96 (1.0).  lasso columns 2 to 2,000: 0.58, 0.94, 1.94 (0.82,
1.20, 1.76).  perceptron, batch 10 to 1e4: 0.12, 0.68, 0.59 (0.32, 0.79, 0.97), depth 1 to 100: 0.58, 1.13 (0.98, 1.00).
ResNet18, 16 to 512 px a side: 0.00, 0.19, 1.03, 1.27, 1.91 (0.02, 0.12, 0.45, 1.15, 1.71): up to 64 px the update of
11 million parameters counts.  Depth 18 to 152: 0.64 to 1.16 (0.44 to 1.00).  Memory never outgrows the roofline by more
than 0.16.  Compilation takes 0.6 to 10 s whatever the size, but grows with depth: 8 s for a ResNet18, 48 for a 152.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax

from jaxmodels import benchmark, elastic_net, linear, losses, mlp, plots, resnet, train
from jaxmodels.benchmark import devices
from jaxmodels.core import Batch, Model

Task = tuple[Callable, tuple, Callable | None]


def least_squares(num_rows: int, num_columns: int) -> Task:
    return linear.fit, _regression(num_rows, num_columns), None


def lanes(count: int) -> Task:
    x, y = _regression(100 * count, 5)
    return jax.vmap(linear.fit), (x.reshape(count, 100, 5), y.reshape(count, 100)), None


def lasso(num_columns: int) -> Task:
    x, y = _regression(10_000, num_columns)
    return lambda x, y: elastic_net.path(x, y, num_alphas=20), (x, y), None


def perceptron_step(batch: int, num_layers: int) -> Task:
    return _step(mlp.model(hidden_sizes=(64,) * num_layers, num_outputs=10), (batch, 50))


def resnet_step(pixels: int) -> Task:
    return _step(resnet.resnet18(num_classes=10), (2, pixels, pixels, 3))


def resnet_depth(depth: int) -> Task:
    return _step(getattr(resnet, f"resnet{depth}")(num_classes=10), (2, 64, 64, 3))


def _regression(num_rows: int, num_columns: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((num_rows, num_columns), np.float32)
    return x, x @ rng.standard_normal(num_columns, np.float32) + rng.standard_normal(num_rows, np.float32)


def _step(model: Model, shape: tuple[int, ...]) -> Task:
    rng = np.random.default_rng(0)
    examples = Batch(rng.standard_normal(shape, np.float32), rng.integers(0, 10, shape[0]).astype(np.int32))
    options = resnet.compiler_options() if len(shape) == 4 else None
    trainer = train.trainer(
        model, loss=losses.softmax_cross_entropy, optimizer=optax.adam(1e-4), compiler_options=options
    )
    state = trainer.init(jax.random.key(0), examples)
    return trainer.step, (state, examples), lambda args, result: (result[0], args[1])


AXES: dict[str, tuple[Callable[[int], Task], tuple[int, ...]]] = {
    "rows": (lambda size: least_squares(size, 20), (1_000, 10_000, 100_000, 1_000_000)),
    "columns": (lambda size: least_squares(4_000, size), (2, 20, 200, 2_000)),
    "lanes": (lanes, (10, 100, 1_000, 10_000, 100_000)),
    "lasso columns": (lasso, (2, 20, 200, 2_000)),
    "perceptron batch": (lambda size: perceptron_step(size, 3), (10, 100, 1_000, 10_000)),
    "perceptron depth": (lambda size: perceptron_step(100, size), (1, 10, 100)),
    "resnet pixels a side": (resnet_step, (16, 32, 64, 128, 256, 512)),  # three decades of pixels
    "resnet depth": (resnet_depth, (18, 34, 50, 101, 152)),
}


def grow(axis: str, *, quick: bool) -> Iterator[dict[str, Any]]:
    make, sizes = AXES[axis]
    before: dict[str, Any] | None = None
    for size in sizes[:2] if quick else sizes:
        function, args, carry = make(size)
        found = benchmark.measure(function, *args, name=axis, rounds=3, carry=carry)
        work, stages = found.work, found.stages
        assert work is not None
        assert stages is not None
        line = {
            "axis": axis,
            "size": size,
            "seconds": found.timing.median,
            "compile_seconds": stages.trace_seconds + stages.lower_seconds + stages.compile_seconds,
            "program_bytes": work.program_bytes,
            "flops": work.flops,
            "bytes": work.bytes,
            "roofline_seconds": None if work.roofline is None else work.roofline * found.timing.median,
        }
        if before is not None:
            line |= _exponents(before, line)
        before = line
        yield {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in line.items()}


def _exponents(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float]:
    names = {"time_growth": "seconds", "roofline_growth": "roofline_seconds", "memory_growth": "program_bytes"}
    steps = math.log(after["size"] / before["size"])
    return {name: math.log(after[key] / before[key]) / steps for name, key in names.items() if before[key]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(AXES), default=list(AXES), metavar="AXIS", help="some axes")
    parser.add_argument("--quick", action="store_true", help="two sizes each, to see that everything runs")
    parser.add_argument("--output", type=pathlib.Path, help="file for the lines")
    parser.add_argument("--draw", type=pathlib.Path, help="PNG to draw")
    options = parser.parse_args()
    device = devices.find()  # on a CPU this measures its peaks, while nothing else runs
    print(json.dumps({"device": device.name, "cores": os.cpu_count()} | benchmark.around()), flush=True)
    lines = []
    for axis in options.only:
        for line in grow(axis, quick=options.quick):
            print(json.dumps(line), flush=True)
            lines.append(line)
    if options.output:
        options.output.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if options.draw:
        plots.growth(lines, options.draw)


if __name__ == "__main__":
    main()

"""How many rows a second does streamed least squares take in, and does its memory stay constant?

    python bench/streaming.py            # 1e7 rows x 50 columns in blocks of 20,000, made block by block
    python bench/streaming.py --quick    # 2e5 rows

Prints a JSON line a case: rows a second of ``streaming.accumulate`` (the blocks are made before the clock starts and
reused; the median of three), the peak memory of the process after the first tenth of the rows and at the end, and the
error of the coefficients.

Last run, two Zen 4 cores, jax 0.10.2, 1e7 rows x 50 in float32, float64 (2 and 4 GB): 1.66 and 1.36 million rows a
second; peak of the process 461 and 835 MB after a tenth of the rows, 650 and 904 MB at the end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource

import jax
import numpy as np

from jaxmodels import benchmark
from jaxmodels.regression import streaming

NUM_COLUMNS = 50
BLOCK = 20_000
NOISE = 0.5


def blocks(num_rows: int, dtype: str, seed: int = 0):
    """Blocks of a linear model, each made when it is asked for: the data never stand in memory."""
    rng = np.random.default_rng(seed)
    for start in range(0, num_rows, BLOCK):
        x = rng.standard_normal((min(BLOCK, num_rows - start), NUM_COLUMNS), dtype="float32").astype(dtype)
        yield x, x @ coefficients(dtype) + NOISE * rng.standard_normal(len(x), dtype="float32").astype(dtype)


def coefficients(dtype: str) -> np.ndarray:
    return np.linspace(-1, 1, NUM_COLUMNS).astype(dtype)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def throughput(dtype: str, num_blocks: int) -> float:
    """Rows a second, the making of the rows left out."""
    some = list(blocks(4 * BLOCK, dtype))

    def accumulate():
        acc = streaming.init(NUM_COLUMNS, dtype=dtype)
        return streaming.accumulate(acc, itertools.islice(itertools.cycle(some), num_blocks))

    return num_blocks * BLOCK / benchmark.take_turns({dtype: accumulate}, rounds=3)[dtype].median


def stream(num_rows: int, dtype: str) -> dict:
    """All rows, made on the way; the peak after a tenth of them and after all."""
    source = blocks(num_rows, dtype)
    first = num_rows // BLOCK // 10 or 1
    acc = streaming.accumulate(
        streaming.init(NUM_COLUMNS, dtype=dtype), itertools.islice(source, first), num_rows=BLOCK
    )
    jax.block_until_ready(acc)
    early = peak_megabytes()
    solution = streaming.solve(streaming.accumulate(acc, source, num_rows=BLOCK))
    error = np.abs(np.asarray(solution.params.coefficients) - coefficients(dtype)).max()
    return {
        "rows": int(solution.stats.num_rows),
        "peak_mb_after_a_tenth": round(early),
        "peak_mb": round(peak_megabytes()),
        "error_in_standard_errors": round(float(error / NOISE * np.sqrt(num_rows)), 2),
        "sigma": round(float(np.sqrt(solution.stats.sigma2)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2e5 rows instead of 1e7")
    arguments = parser.parse_args()
    num_rows = 200_000 if arguments.quick else 10_000_000
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            result = {"bench": "streaming", "dtype": dtype, "columns": NUM_COLUMNS, "block": BLOCK}
            result |= stream(num_rows, dtype)
            result["rows_per_second"] = round(throughput(dtype, 10 if arguments.quick else 50))
            print(json.dumps(result | benchmark.around()), flush=True)


if __name__ == "__main__":
    main()

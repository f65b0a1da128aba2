"""What does importing cost over ``import jax``?

    python bench/imports.py [--rounds 7]

One JSON line a statement: the median of fresh processes, which take turns, in milliseconds after ``import jax``; and
which of the heavier libraries it loaded. ``import jax`` itself is the first.

Last run (two shared Zen 4 cores, jax 0.10.2, Python 3.11.7): import jax 805; import jaxmodels 1.2; linear 67, glm 94,
data 41, mlp 25; train 154 with optax; resnet 278 with flax.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

from jaxmodels import benchmark

STATEMENTS = (
    "import jaxmodels",
    *(f"from jaxmodels import {name}" for name in ("linear", "glm", "data", "mlp", "train", "resnet")),
)
HEAVY = ("flax", "matplotlib", "optax", "orbax", "PIL", "pyarrow", "rich", "scipy", "sklearn")
PROGRAM = """
import json, sys, time
start = time.perf_counter()
import jax
middle = time.perf_counter()
before = set(sys.modules)
{statement}
seconds = {{"import jax": middle - start, "{statement}": time.perf_counter() - middle}}
print(json.dumps([seconds, sorted(set({heavy}) & (set(sys.modules) - before))]))
"""


def fresh(statement: str) -> tuple[dict[str, float], list[str]]:
    """Seconds of ``import jax`` and of the statement after it, and what the latter loaded."""
    program = PROGRAM.format(statement=statement, heavy=HEAVY)
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {"import jax": [], **{statement: [] for statement in STATEMENTS}}
    loaded: dict[str, list[str]] = {"import jax": []}
    for number in range(rounds + 1):
        for statement in STATEMENTS:
            found, loaded[statement] = fresh(statement)
            for name, each in found.items() if number else ():  # the first writes Python's byte code
                seconds[name].append(each)
    for name, each in seconds.items():
        line = {"statement": name, "milliseconds": round(1e3 * statistics.median(each), 1), "loads": loaded[name]}
        print(json.dumps(line | {"rounds": rounds} | benchmark.around()), flush=True)


if __name__ == "__main__":
    main()

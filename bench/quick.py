"""Did anything become slower beside its peers? The questions of ``jaxmodels bench``, and a ResNet18 beside torch.

    python bench/quick.py                # exit code 1: a ratio is worse than 1.3 times the recorded one
    python bench/quick.py --record       # write this machine's into bench/results/quick.json

Everything runs on one core, so that no library's threads wait for one that other work displaced, and ratios repeat on
a busy machine. A question that fails is asked twice more, with more rounds, and fails if it does so each time. Ratios
belong to a model of CPU: one that has none recorded is held to the worst of the others' ("AMD Zen" is from before the
model was recorded). They belong to versions too, which are recorded with them: record anew where those change.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable

if hasattr(os, "sched_setaffinity"):  # before jax and torch count the cores
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
# Code in one piece compiles faster, and there is one core to compile on.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_parallel_codegen_split_count=1"

import numpy as np

from jaxmodels import benchmark
from jaxmodels.benchmark import questions

RECORD = pathlib.Path(__file__).parent / "results" / "quick.json"
TOLERANCE = 1.3


def torch_resnet() -> dict[str, Callable[[], object]]:
    """The peer of ``resnet_inference``, channels last; nothing without torch."""
    try:
        import torch
    except ImportError:
        return {}
    sys.path.insert(0, os.fspath(pathlib.Path(__file__).parents[1] / "tests"))
    from torch_resnet import torch_resnet

    network = torch_resnet(18).eval().to(memory_format=torch.channels_last)
    images = np.random.default_rng(0).normal(size=(4, 3, 96, 96)).astype(np.float32)
    images = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)

    def infer():
        with torch.inference_mode():
            return network(images)

    return {"torch": infer}


def ask(name: str, rounds: int) -> dict[str, float]:
    """Peer -> our time over its; prints the measurement."""
    peers = torch_resnet() if name == "resnet_inference" else {}
    found = questions.ask(name, rounds=rounds, peers=peers)
    print(found.json_line(), flush=True)
    return {peer: float(f"{found.ratio(peer).value:.3g}") for peer in found.peers}


def worse(found: dict[str, float], recorded: dict[str, float]) -> dict[str, float]:
    """Peer -> how many times the recorded ratio, of those that are too slow."""
    times = {peer: ratio / recorded[peer] for peer, ratio in found.items() if peer in recorded}
    return {peer: round(each, 2) for peer, each in times.items() if each > TOLERANCE}


def check(name: str, recorded: dict[str, float]) -> bool:
    """Whether the question is answered as fast as recorded, in one of three attempts."""
    for rounds in (7, 15, 30):
        slower = worse(ask(name, rounds), recorded)
        if not slower:
            return True
        print(f"{name}: times the recorded ratio: {slower}", file=sys.stderr)
    return False


def recorded_ratios() -> dict[str, dict[str, float]]:
    """Question -> peer -> ratio on this model of CPU, or the largest of any where it has none."""
    machines, here = json.loads(RECORD.read_text()), benchmark.around()["machine"]
    if here in machines:
        return machines[here]["ratios"]
    largest: dict[str, dict[str, float]] = {}
    for machine in machines.values():
        for question, ratios in machine["ratios"].items():
            known = largest.setdefault(question, {})
            known.update({peer: max(ratio, known.get(peer, 0)) for peer, ratio in ratios.items()})
    return largest


def record() -> None:
    ratios = {name: ask(name, 40) for name in questions.QUESTIONS}
    around = benchmark.around()
    del around["revision"]  # that of the commit which brings the file
    machines = json.loads(RECORD.read_text()) | {around.pop("machine"): {"ratios": ratios} | around}
    RECORD.write_text(json.dumps(machines, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="write the ratios instead of checking them")
    if parser.parse_args().record:
        return record()
    recorded = recorded_ratios()
    unknown = questions.QUESTIONS.keys() ^ recorded.keys()
    if unknown:
        sys.exit(f"not in both the questions and {RECORD}: {', '.join(sorted(unknown))}; use --record")
    slow = [name for name in recorded if not check(name, recorded[name])]
    if slow:
        sys.exit(f"slower than {TOLERANCE} times what was recorded, beside the same peer: {', '.join(slow)}")


if __name__ == "__main__":
    main()

"""How fast is ResNet50, inference and training, beside torch (channels_last) on the same machine?

    python bench/resnet.py [--quick] [--rounds 7]

One JSON line a question: seconds a call (median and best of the rounds), images a second, torch's seconds over ours,
and how far torch's first result (logits, or the loss of the first step) is from ours on the same weights and images. A
training step is cross-entropy, SGD with momentum and updated batch statistics. Each framework has a process of its own
on all cores, and they take turns; the one that waits sleeps. The first call, which compiles, is told apart. On a GPU
also bfloat16 (torch: autocast) with 256 images, and float32 is what both take by default there (TF32). Without torch:
ours alone.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

PAUSE = 0.3
"""Seconds between turns, after which the other framework's threads no longer spin."""


class Question(NamedTuple):
    """What is timed."""

    work: str
    batch_size: int
    image_size: int
    dtype: str = "float32"


QUICK = (Question("inference", 2, 64), Question("training step", 2, 64))
QUESTIONS = (Question("inference", 8, 224), Question("inference", 1, 224), Question("training step", 8, 224))
ON_GPU = tuple(Question(work, 256, 224, "bfloat16") for work in ("inference", "training step"))

Call = Callable[[], Any]
"""One inference or step, finished when it returns; the logits, or the loss."""


def images_and_labels(question: Question) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    shape = (question.batch_size, question.image_size, question.image_size, 3)
    return generator.normal(size=shape).astype(np.float32), generator.integers(0, 1000, question.batch_size)


def ours(question: Question, weights: pathlib.Path) -> Call:
    import jax
    import optax

    from jaxmodels import losses, resnet, train
    from jaxmodels.core import Batch

    inputs, targets = jax.device_put(images_and_labels(question))
    model = resnet.resnet50(dtype=question.dtype, zero_init_residual=False)
    params, state = model.init(jax.random.key(0), inputs)
    with open(weights, "wb") as file:
        leaves = jax.tree_util.tree_leaves_with_path((params, state["batch_stats"]))
        np.savez(file, **{"/".join(part.key for part in path[1:]): np.asarray(leaf) for path, leaf in leaves})
    if question.work == "inference":
        predict = resnet.inference(model, params, state)
        return lambda: np.asarray(predict(inputs))
    trainer = train.trainer(
        model,
        loss=losses.softmax_cross_entropy,
        optimizer=optax.sgd(0.01, momentum=0.9),
        compiler_options=resnet.compiler_options(),
    )
    batch = Batch(inputs, targets)
    carried = [trainer.init(jax.random.key(0), batch)]

    def step():
        carried[0], info = trainer.step(carried[0], batch)
        jax.block_until_ready(carried[0])
        return np.asarray(info.loss)

    return step


def torchs(question: Question, weights: pathlib.Path) -> Call:
    import torch

    sys.path.insert(0, os.fspath(pathlib.Path(__file__).parents[1] / "tests"))
    from torch_resnet import from_leaves, torch_resnet

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = torch_resnet(50)
    with np.load(weights) as leaves:
        network.load_state_dict(
            from_leaves({tuple(name.split("/")): leaf for name, leaf in leaves.items()}), strict=False
        )
    network = network.to(device, memory_format=torch.channels_last)
    inputs, targets = (torch.from_numpy(array).to(device) for array in images_and_labels(question))
    inputs = inputs.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def logits():
        with torch.autocast(device, torch.bfloat16, enabled=question.dtype == "bfloat16"):
            return network(inputs)

    def infer():
        with torch.inference_mode():
            return logits().float().cpu().numpy()

    def step():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits().float(), targets)
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return loss.item()

    network.train(question.work != "inference")
    return infer if question.work == "inference" else step


FRAMEWORKS: dict[str, Callable[[Question, pathlib.Path], Call]] = {"jaxmodels": ours, "torch": torchs}


def serve(framework: str, weights: pathlib.Path, pipe: Any) -> None:
    """Prepare what is asked for, or (``None``) do it once more; answer the seconds of the call and its result."""
    call: Call = list
    while (asked := pipe.recv()) != "stop":
        if asked is not None:
            call = FRAMEWORKS[framework](asked, weights)
        start = time.perf_counter()
        result = call()
        pipe.send((time.perf_counter() - start, result))


@contextlib.contextmanager
def processes(frameworks: list[str]) -> Iterator[Callable[[str, Question | None], tuple[float, Any]]]:
    """A function ``ask(framework, question)`` that waits for the answer."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # torch needs memory too
    context, pipes, workers = multiprocessing.get_context("spawn"), {}, []
    with tempfile.TemporaryDirectory() as folder:
        for framework in frameworks:
            pipes[framework], theirs = context.Pipe()
            weights = pathlib.Path(folder) / "weights.npz"
            workers.append(context.Process(target=serve, args=(framework, weights, theirs), daemon=True))
            workers[-1].start()
            theirs.close()

        def ask(framework, question):
            pipes[framework].send(question)
            return pipes[framework].recv()

        yield ask
        for pipe, worker in zip(pipes.values(), workers, strict=True):
            pipe.send("stop")
            worker.join()


def measure(ask: Callable, question: Question, frameworks: list[str], rounds: int) -> dict[str, Any]:
    first = {framework: ask(framework, question) for framework in frameworks}
    for framework in frameworks:
        ask(framework, None)  # warms up
    measured: dict[str, list[float]] = {framework: [] for framework in frameworks}
    for _ in range(rounds):
        for framework in frameworks:
            time.sleep(PAUSE)
            measured[framework].append(ask(framework, None)[0])
    found: dict[str, Any] = question._asdict() | {"rounds": rounds}
    for framework, values in measured.items():
        median = statistics.median(values)
        found[framework] = {
            "seconds": round(median, 4),
            "best_seconds": round(min(values), 4),
            "images_per_second": round(question.batch_size / median, 2),
            "first_call_seconds": round(first[framework][0], 2),
        }
    if "torch" in measured:
        (_, result), (_, expected) = first["jaxmodels"], first["torch"]
        ratio = {name: found["torch"][name] / found["jaxmodels"][name] for name in ("seconds", "best_seconds")}
        found["torch_over_ours"] = round(ratio["seconds"], 3)
        found["torch_over_ours_best"] = round(ratio["best_seconds"], 3)
        found["relative_difference"] = float(f"{np.max(np.abs(result - expected)) / np.max(np.abs(expected)):.1e}")
    return found


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("jaxmodels", "jax", "jaxlib", "flax", "torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def device(pipe: Any) -> None:
    """Asked of a process that ends, so that this one holds no device."""
    import jax

    pipe.send((jax.default_backend(), jax.devices()[0].device_kind))


def find_device() -> tuple[str, str]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=device, args=(sender,))
    worker.start()
    found = receiver.recv()
    worker.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small images, to see that it runs")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    backend, kind = find_device()
    found = versions()
    around = {"date": datetime.date.today().isoformat(), "backend": backend, "device": kind, "versions": found}
    around |= {"machine": platform.machine(), "cores": os.cpu_count()}
    frameworks = [name for name in FRAMEWORKS if name != "torch" or "torch" in found]
    questions = QUESTIONS + (ON_GPU if backend == "gpu" else ())
    with processes(frameworks) as ask:
        for question in QUICK if options.quick else questions:
            print(json.dumps(measure(ask, question, frameworks, options.rounds) | around), flush=True)


if __name__ == "__main__":
    main()

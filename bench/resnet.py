"""How fast is ResNet50, inference and training, beside torch (channels_last), TensorFlow and ONNX Runtime?

    python bench/resnet.py [--quick] [--rounds 7] [--only "training step"]

One JSON line a question: seconds a call, images a second, our seconds over each peer's (``ratio``, with its interval),
the most memory that each process held during its calls, and how far the peer's first result (logits, or the loss of the
first step) is from ours on the same weights and images. A training step is cross-entropy, SGD with momentum and updated
batch statistics. Each framework has a process of its own on all cores, and they take turns; those that wait sleep. The
first call, which compiles, is told apart. On a GPU also bfloat16 (torch: autocast) with 256 images, and float32 is what
all take by default there (TF32). A peer that is not installed is left out.

Last run, two quiet Zen cores, jax 0.10.2, 224 px, ratios to torch 2.13.0, TensorFlow 2.21.0 and ONNX Runtime 1.32.0:
inference of 8 images 0.81, 0.97, 1.23, of one 0.78, 0.77, 1.30, of 8 in bfloat16 0.14 to torch; a training step of 8
images beside torch alone 0.91 (0.87 to 0.96), beside both 0.98 (0.88 to 1.14) and 0.83. Memory of the process in a
training step 1.20 to 1.23 of torch's, some 340 MB of which LLVM left behind: where the compiled step came
from the persistent cache it holds 1.56 GB in place of 1.91. On two quiet Xeon cores (Emerald Rapids), whose AVX-512 and
AMX the peers' oneDNN has convolutions for and XLA:CPU has not: 0.92, 1.07, 1.34; 1.21, 1.00, 1.76; bfloat16 0.78; a
training step 1.28 and 1.35.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import resnet_peers as peers

OURS = "jaxmodels"
PAUSE = 0.3
"""Seconds between turns, after which the other frameworks' threads no longer spin."""


class Question(NamedTuple):
    """What is timed."""

    work: str
    batch_size: int
    image_size: int
    dtype: str = "float32"


QUICK = (Question("inference", 2, 64), Question("training step", 2, 64))
QUESTIONS = (
    Question("inference", 8, 224),
    Question("inference", 1, 224),
    Question("training step", 8, 224),
    Question("inference", 8, 224, "bfloat16"),
)
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


def prepare(framework: str, question: Question, weights: pathlib.Path) -> Call:
    if framework == OURS:
        return ours(question, weights)
    with np.load(weights) as file:
        return peers.PEERS[framework](question, images_and_labels(question), dict(file))


def serve(framework: str, weights: pathlib.Path, pipe: Any) -> None:
    """Answer with seconds and result of a call; prepare it first where a question came in place of ``"again"``."""
    call: Call = list
    while (asked := pipe.recv()) != "stop":
        if asked == "memory":
            pipe.send(peak_memory())
            continue
        if asked == "around":
            from jaxmodels import benchmark

            pipe.send(benchmark.around())
            continue
        if asked != "again":
            call = prepare(framework, asked, weights)
        start = time.perf_counter()
        result = call()
        pipe.send((time.perf_counter() - start, result))


def peak_memory() -> int | None:
    """The most bytes that this process held since it was last asked; ``None`` where the system does not say."""
    try:
        status = pathlib.Path("/proc/self/status").read_text()
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    except OSError:
        return None
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


@contextlib.contextmanager
def processes(frameworks: list[str]) -> Iterator[Callable[[str, Any], Any]]:
    """A function ``ask(framework, message)`` that waits for the answer."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the peers need memory too
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    context, pipes, workers = multiprocessing.get_context("spawn"), {}, []
    with tempfile.TemporaryDirectory() as folder:
        for framework in frameworks:
            pipes[framework], theirs = context.Pipe()
            weights = pathlib.Path(folder) / "weights.npz"
            workers.append(context.Process(target=serve, args=(framework, weights, theirs), daemon=True))
            workers[-1].start()
            theirs.close()

        def ask(framework, message):
            pipes[framework].send(message)
            return pipes[framework].recv()

        yield ask
        for pipe, worker in zip(pipes.values(), workers, strict=True):
            pipe.send("stop")
            worker.join()


def measure(ask: Callable, question: Question, frameworks: list[str], rounds: int) -> dict[str, Any]:
    from jaxmodels import benchmark

    first = {framework: ask(framework, question) for framework in frameworks}
    for framework in frameworks:
        ask(framework, "memory")
    calls = {framework: functools.partial(ask, framework, "again") for framework in frameworks}
    turns = benchmark.take_turns(calls, rounds=rounds, pause=PAUSE)
    timed = {name: benchmark.Timing(*first[name], turn.seconds) for name, turn in turns.items()}
    found: dict[str, Any] = question._asdict() | {"rounds": rounds}
    for framework, timing in timed.items():
        found[framework] = {
            "seconds": round(timing.median, 4),
            "images_per_second": round(question.batch_size / timing.median, 2),
            "first_call_seconds": round(timing.first_seconds, 2),
            "peak_memory": ask(framework, "memory"),
        }
        if framework != OURS:
            found[framework] |= compared(timed[OURS], timing)
    return found


def compared(ours: Any, theirs: Any) -> dict[str, float]:
    ratio, size = ours.over(theirs), np.max(np.abs(theirs.result))
    difference = np.max(np.abs(ours.result - theirs.result)) / size
    return {
        "ratio": round(ratio.value, 3),
        "ratio_low": round(ratio.low, 3),
        "ratio_high": round(ratio.high, 3),
        "difference": float(f"{difference:.1e}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small images, to see that it runs")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=("inference", "training step"), help="one kind of work")
    options = parser.parse_args()
    frameworks = [OURS, *peers.installed()]
    with processes(frameworks) as ask:
        around = ask(OURS, "around")
        questions = QUICK if options.quick else QUESTIONS + (ON_GPU if around["backend"] == "gpu" else ())
        for question in questions:
            if options.only in (None, question.work):
                asked = [name for name in frameworks if name == OURS or peers.answers(name, question)]
                print(json.dumps(measure(ask, question, asked, options.rounds) | around), flush=True)


if __name__ == "__main__":
    main()

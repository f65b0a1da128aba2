"""How far from the truth is ``jaxmodels estimate``?

    python bench/estimate.py [--network resnet50] [--batch 8] [--image 96] [--dtype float32]

A JSON line for a training step and one for inference, measured on jax's first device, with ``estimated_seconds`` and
``estimated_memory`` beside ``seconds`` and ``program_bytes``, which is what XLA plans. On a GPU or TPU say
``--batch 256 --image 224 --dtype bfloat16``.

Last runs, one core of a Zen 4 machine that others were using, jax 0.10.2, measured over estimated seconds and XLA's
over estimated memory. resnet18, 16 images of 64 px: training 1.10 to 1.41 and 0.85, inference 0.98 to 1.51 and 1.04;
resnet50, 8 of 96 px: training 1.63 and 1.02, inference 1.24 and 1.08.
"""

from __future__ import annotations

import argparse
import json

import jax
import numpy as np
import optax

from jaxmodels import benchmark, losses, resnet, train
from jaxmodels.core import Batch


def images(batch: int, image: int) -> Batch:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(batch, image, image, 3)).astype(np.float32)
    return jax.device_put(Batch(inputs, generator.integers(0, 1000, batch).astype(np.int32)))


def training(network: str, examples: Batch, dtype: str) -> benchmark.Measurement:
    trainer = train.trainer(
        getattr(resnet, network)(dtype=dtype),
        loss=losses.softmax_cross_entropy,
        optimizer=optax.sgd(0.01, momentum=0.9),
        compiler_options=resnet.compiler_options(),
    )
    state = trainer.init(jax.random.key(0), examples)
    name = f"{network} training"
    return benchmark.measure(trainer.step, state, examples, name=name, carry=lambda args, result: (result[0], args[1]))


def inference(network: str, examples: Batch, dtype: str) -> benchmark.Measurement:
    model = getattr(resnet, network)(dtype=dtype, zero_init_residual=False)
    predict = resnet.inference(model, *model.init(jax.random.key(0), examples.inputs))
    return benchmark.measure(predict, examples.inputs, name=f"{network} inference")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--image", type=int, default=96)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    examples = images(options.batch, options.image)
    for work in (training, inference):
        found = benchmark.estimate(
            options.network, batch=options.batch, image=options.image, dtype=options.dtype, train=work is training
        )
        estimated = {"estimated_seconds": found.seconds, "estimated_memory": found.memory}
        print(json.dumps(work(options.network, examples, options.dtype).record() | estimated), flush=True)


if __name__ == "__main__":
    main()

"""ResNet50 in torch, TensorFlow and ONNX Runtime with our weights: the other side of ``bench/resnet.py``.

Each takes a question and leaf -> array of the weights (``stage1_block1/conv1/kernel``), and gives a function that
predicts or takes a training step once and has finished when it returns.
"""

from __future__ import annotations

import importlib.util
import io
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Leaves = Mapping[str, np.ndarray]
STAGES = (3, 4, 6, 3)


def installed() -> list[str]:
    """The peers that are there."""
    modules = {"torch": ("torch",), "tensorflow": ("tensorflow",), "onnxruntime": ("onnxruntime", "onnx", "torch")}
    return [name for name, needed in modules.items() if all(map(importlib.util.find_spec, needed))]


def answers(peer: str, question: Any) -> bool:
    """Whether a peer has an answer."""
    return peer == "torch" or (
        question.dtype == "float32" and (peer, question.work) != ("onnxruntime", "training step")
    )


def torch(question: Any, data: tuple[np.ndarray, np.ndarray], leaves: Leaves) -> Callable[[], Any]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = _torch_network(leaves).to(device, memory_format=torch.channels_last)
    inputs, targets = (torch.from_numpy(array).to(device) for array in data)
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


def _torch_network(leaves: Leaves) -> Any:
    sys.path.insert(0, os.fspath(pathlib.Path(__file__).parents[1] / "tests"))
    from torch_resnet import from_leaves, torch_resnet

    network = torch_resnet(50)
    network.load_state_dict(from_leaves({tuple(name.split("/")): leaf for name, leaf in leaves.items()}), strict=False)
    return network


def onnxruntime(question: Any, data: tuple[np.ndarray, np.ndarray], leaves: Leaves) -> Callable[[], Any]:
    import onnxruntime
    import torch

    images, file = np.ascontiguousarray(data[0].transpose(0, 3, 1, 2)), io.BytesIO()
    torch.onnx.export(_torch_network(leaves).eval(), (torch.from_numpy(images),), file, dynamo=False)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=onnxruntime.get_available_providers())
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: images})[0]


def tensorflow(question: Any, data: tuple[np.ndarray, np.ndarray], leaves: Leaves) -> Callable[[], Any]:
    import tensorflow as tf

    train = question.work != "inference"
    averages = {name: tf.Variable(leaf) for name, leaf in leaves.items() if name.endswith(("mean", "var"))}
    variables = {name: tf.Variable(leaf) for name, leaf in leaves.items() if name not in averages}
    momenta = {name: tf.Variable(tf.zeros_like(variable)) for name, variable in variables.items()}
    inputs, targets = map(tf.constant, data)

    def layer(outputs, name, stride=1):
        kernel = variables[f"{name}/kernel"]
        reach = (kernel.shape[0] - 1) // 2
        padded = tf.pad(outputs, ((0, 0), (reach, reach), (reach, reach), (0, 0))) if reach else outputs
        outputs = tf.nn.conv2d(padded, kernel, stride, "VALID")
        mean, variance = averages[f"{name}/mean"], averages[f"{name}/var"]
        outputs, *moments = tf.compat.v1.nn.fused_batch_norm(
            outputs,
            variables[f"{name}/scale"],
            variables[f"{name}/bias"],
            mean=None if train else mean,
            variance=None if train else variance,
            epsilon=1e-5,
            is_training=train,
        )
        if train:
            for average, moment in zip((mean, variance), moments, strict=True):
                average.assign(0.9 * average + 0.1 * moment)
        return outputs

    def logits():
        outputs = tf.pad(tf.nn.relu(layer(inputs, "stem", 2)), ((0, 0), (1, 1), (1, 1), (0, 0)))
        outputs = tf.nn.max_pool2d(outputs, 3, 2, "VALID")  # of what is at least 0: zeros around change nothing
        for stage, count in enumerate(STAGES, start=1):
            for block in range(1, count + 1):
                stride, name = (2 if stage > 1 and block == 1 else 1), f"stage{stage}_block{block}"
                shortcut = layer(outputs, f"{name}/shortcut", stride) if block == 1 else outputs
                inner = tf.nn.relu(layer(outputs, f"{name}/conv1"))
                inner = tf.nn.relu(layer(inner, f"{name}/conv2", stride))
                outputs = tf.nn.relu(layer(inner, f"{name}/conv3") + shortcut)
        return tf.reduce_mean(outputs, (1, 2)) @ variables["head/kernel"] + variables["head/bias"]

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits())
            loss = tf.reduce_mean(losses)
        for name, gradient in tape.gradient(loss, variables).items():
            momenta[name].assign(0.9 * momenta[name] + gradient)
            variables[name].assign_sub(0.01 * momenta[name])
        return loss

    call = step if train else tf.function(logits)
    return lambda: call().numpy()


PEERS: dict[str, Callable] = {"torch": torch, "tensorflow": tensorflow, "onnxruntime": onnxruntime}

"""ResNet 18 to 152 in torch, with torchvision's names and layout: what ours is compared with.

    network = torch_resnet(50)                                 # "v1.5", torchvision's
    network.load_state_dict(state_dict(params, state))         # our parameters, under torchvision's names

``state_dict(network)`` has torchvision's keys in torchvision's order.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def conv(inputs: int, outputs: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
    """What both kinds of block share: the shortcut, and the sum."""

    expansion = 1

    def shortcut(self, inputs: int, width: int, stride: int) -> nn.Module | None:
        outputs = width * self.expansion
        if stride == 1 and inputs == outputs:
            return None
        return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        carried = inputs if self.downsample is None else self.downsample(inputs)
        return torch.relu(self.residual(inputs) + carried)


class BasicBlock(Block):
    def __init__(self, inputs: int, width: int, stride: int, variant: str):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, 1), nn.BatchNorm2d(width)
        self.downsample = self.shortcut(inputs, width, stride)

    def residual(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = torch.relu(self.bn1(self.conv1(inputs)))
        return self.bn2(self.conv2(outputs))


class Bottleneck(Block):
    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, variant: str):
        super().__init__()
        first, second = (1, stride) if variant == "v1.5" else (stride, 1)
        self.conv1, self.bn1 = conv(inputs, width, 1, first), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, second), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width, 1, 1), nn.BatchNorm2d(4 * width)
        self.downsample = self.shortcut(inputs, width, stride)

    def residual(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = torch.relu(self.bn1(self.conv1(inputs)))
        outputs = torch.relu(self.bn2(self.conv2(outputs)))
        return self.bn3(self.conv3(outputs))


class TorchResNet(nn.Module):
    """Images ``[n, 3, h, w]`` to logits ``[n, num_classes]``."""

    def __init__(self, depth: int, num_classes: int, variant: str):
        super().__init__()
        block = BasicBlock if depth < 50 else Bottleneck
        self.conv1, self.bn1 = conv(3, 64, 7, 2), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        inputs = 64
        for stage, count in enumerate(STAGES[depth], start=1):
            width, layer = 64 * 2 ** (stage - 1), nn.Sequential()
            for index in range(count):
                layer.append(block(inputs, width, 2 if stage > 1 and index == 0 else 1, variant))
                inputs = width * block.expansion
            setattr(self, f"layer{stage}", layer)
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.maxpool(torch.relu(self.bn1(self.conv1(inputs))))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            outputs = layer(outputs)
        return self.fc(outputs.mean((2, 3)))


def torch_resnet(depth: int, num_classes: int = 1000, *, variant: str = "v1.5") -> TorchResNet:
    """``depth`` 18 to 152; a bottleneck's stride is in its 3x3 ("v1.5", torchvision) or its first 1x1 ("v1")."""
    return TorchResNet(depth, num_classes, variant)


def torch_key(path: tuple[str, ...]) -> str:
    """torchvision's name of our leaf: ``stage1_block1, conv1, mean`` is ``layer1.0.bn1.running_mean``."""
    *layers, leaf = path
    names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    if layers == ["head"]:
        return "fc." + {"kernel": "weight", "bias": "bias"}[leaf]
    prefix, last = "", "conv1"
    if layers != ["stem"]:
        stage, block = layers[0].removeprefix("stage").split("_block")
        prefix, last = f"layer{stage}.{int(block) - 1}.", layers[1]
    if last == "shortcut":
        return prefix + ("downsample.0.weight" if leaf == "kernel" else f"downsample.1.{names[leaf]}")
    return prefix + (f"{last}.weight" if leaf == "kernel" else f"{last.replace('conv', 'bn')}.{names[leaf]}")


def from_leaves(leaves: dict[tuple[str, ...], np.ndarray]) -> dict[str, torch.Tensor]:
    """Our arrays by their paths, under torchvision's names and in torch's layout (OIHW, [out, in])."""
    axes = {("kernel", 4): (3, 2, 0, 1), ("kernel", 2): (1, 0)}
    return {
        torch_key(path): torch.from_numpy(np.array(leaf.transpose(axes.get((path[-1], leaf.ndim), (0,))), order="C"))
        for path, leaf in leaves.items()
    }


def state_dict(*trees: dict) -> dict[str, torch.Tensor]:
    """Our parameters, and statistics or gradients, as ``from_leaves``."""
    leaves = {}

    def walk(tree, path):
        for name, part in tree.items():
            inside = path if name == "batch_stats" else (*path, name)
            if isinstance(part, dict):
                walk(part, inside)
            else:
                leaves[inside] = np.asarray(part)

    for tree in trees:
        walk(tree, ())
    return from_leaves(leaves)

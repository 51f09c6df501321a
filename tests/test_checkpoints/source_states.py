"""State dicts as the code bases that checkpoints come from have them."""

from __future__ import annotations

from pathlib import Path

import torch

DATA = Path(__file__).resolve().parent / "data"

# Residual blocks of each stage, convolutions of a block, and how much wider it ends.
RESNETS = {18: ((2, 2, 2, 2), (3, 3), 1), 50: ((3, 4, 6, 3), (1, 3, 1), 4)}
# Channels of VGG16's convolutions; M is a pooling.
VGG16 = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]


def norm(name: str, channels: int, counted: bool = True) -> dict[str, tuple[int, ...]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    shapes = {f"{name}.{part}": (channels,) for part in parts}
    return shapes | ({f"{name}.num_batches_tracked": ()} if counted else {})


def resnet_shapes(depth: int, counted: bool = True) -> dict[str, tuple[int, ...]]:
    """Torchvision's ResNet, after its public source (models/resnet.py).

    ``counted`` is False of files from before PyTorch 0.4.1, as the first published are.
    """
    plan, kernels, widening = RESNETS[depth]
    shapes = {"conv1.weight": (64, 3, 7, 7)} | norm("bn1", 64, counted)
    before = 64
    for stage, blocks in enumerate(plan):
        width = 64 * 2**stage
        after = width * widening
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            ins = [before, *[width] * (len(kernels) - 1)]
            outs = [*[width] * (len(kernels) - 1), after]
            for i, (kernel, a, b) in enumerate(zip(kernels, ins, outs, strict=True), 1):
                shapes[f"{name}.conv{i}.weight"] = (b, a, kernel, kernel)
                shapes |= norm(f"{name}.bn{i}", b, counted)
            if block == 0 and (stage > 0 or before != after):
                shapes[f"{name}.downsample.0.weight"] = (after, before, 1, 1)
                shapes |= norm(f"{name}.downsample.1", after, counted)
            before = after
    return shapes | {"fc.weight": (1000, before), "fc.bias": (1000,)}


def vgg16_shapes(with_bn: bool) -> dict[str, tuple[int, ...]]:
    """Torchvision's VGG16, after its public source (models/vgg.py)."""
    shapes: dict[str, tuple[int, ...]] = {}
    layer, before = 0, 3
    for channels in VGG16:
        if channels == "M":
            layer += 1
            continue
        shapes[f"features.{layer}.weight"] = (channels, before, 3, 3)
        shapes[f"features.{layer}.bias"] = (channels,)
        if with_bn:
            shapes |= norm(f"features.{layer + 1}", channels)
        layer += 3 if with_bn else 2
        before = channels
    for layer, (a, b) in {0: (25088, 4096), 3: (4096, 4096), 6: (4096, 1000)}.items():
        shapes |= {f"classifier.{layer}.weight": (b, a), f"classifier.{layer}.bias": (b,)}
    return shapes


def recorded_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Of a code base's own model, see the head of the file."""
    shapes = {}
    for line in (DATA / f"{name}.txt").read_text().splitlines():
        if not line.startswith("#"):
            key, _, shape = line.partition(" ")
            shapes[key] = tuple(int(side) for side in shape.split("x") if side)
    return shapes


def source_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a format's checkpoints."""
    if name.startswith("torchvision-resnet"):
        return resnet_shapes(int(name.removeprefix("torchvision-resnet")))
    if name.startswith("torchvision-vgg16"):
        return vgg16_shapes(name.endswith("_bn"))
    return recorded_shapes(name)


def state_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors of these shapes that hold one number each, so that their files are small."""
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}

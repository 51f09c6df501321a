"""FastestDet: a detector of 0.24 million parameters, with the names of its published weights.

ShuffleNetV2, whose three levels are joined at a stride of 16, one context module, and a head of
separable 5x5 convolutions (github.com/dog-qiuqiu/FastestDet). The weights are not part of this
repository.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# COCO's, in the order of the network's outputs.
CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog"),
    *("horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella"),
    *("handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite"),
    *("baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle"),
    *("wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich"),
    *("orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote"),
    *("keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book"),
    *("clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)
# Sides of a box are told in units of the side that the network was trained at.
_TRAINED_SIDE = 352
_STRIDE = 32
_CELL = 16


def fastestdet(checkpoint: str | None = None, scale: float = 1.0) -> FastestDetModel:
    """Make the detector for :mod:`benchmarks.policies`.

    Args:
        checkpoint: The published ``FastestDet.pth``; None leaves random weights.
        scale: Size of the network's input to that of the frames.
    """
    return FastestDetModel(checkpoint, scale)


class FastestDetModel:
    """The network, what comes before and what comes after.

    Args:
        checkpoint: A state dict of :class:`FastestDet`, or None.
        scale: Size of the network's input to that of the frames.

    Attributes:
        module: The network, in eval mode.
        classes: Names by label.

    Raises:
        ValueError: If the scale is not above 0.
    """

    classes = CLASSES

    def __init__(self, checkpoint: str | Path | None = None, scale: float = 1.0) -> None:
        if not scale > 0:
            raise ValueError(
                f"scale is {scale!r}, expected a factor above 0; 1 keeps the frame's size"
            )
        self.scale = scale
        self.module = FastestDet(len(CLASSES)).eval()
        if checkpoint is not None:
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
            self.module.load_state_dict(state)

    def preprocess(self, frame: np.ndarray) -> Tensor:
        """Resize a frame to a multiple of 32 px.

        Args:
            frame: uint8 ``(H, W, 3)``, BGR.

        Returns:
            float32 ``(1, 3, h, w)``, 0 to 1.
        """
        sides = [max(round(self.scale * side / _STRIDE), 1) * _STRIDE for side in frame.shape[:2]]
        if tuple(sides) != frame.shape[:2]:
            shrinks = sides[0] * sides[1] < frame.shape[0] * frame.shape[1]
            how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            frame = cv2.resize(frame, sides[::-1], interpolation=how)
        picture = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
        return picture.float().div_(255)

    def decode(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes of an image, without those that others hide.

        Args:
            outputs: ``(1, 85, h, w)``, of :class:`FastestDet`.

        Returns:
            Boxes ``(K, 4)``, ``x1, y1, x2, y2`` in pixels of the network's input, scores ``(K,)``,
            best first, and labels int64 ``(K,)``.
        """
        return decode_boxes(outputs[0].float())


def decode_boxes(
    cells: Tensor, least_score: float = 0.05, most_overlap: float = 0.45, count: int = 100
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn the numbers of each cell into boxes.

    Args:
        cells: float32 ``(5 + classes, h, w)``.
        least_score: Score below which a cell has found nothing.
        most_overlap: IoU above which the better of two boxes of a class hides the other.
        count: Boxes at most.

    Returns:
        See :meth:`FastestDetModel.decode`.
    """
    height, width = cells.shape[1:]
    probability, labels = cells[5:].flatten(1).max(0)
    objectness, x, y, w, h = cells[:5].flatten(1)
    scores = objectness.clamp_min(0) ** 0.6 * probability**0.4
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    centre = torch.stack([column + x.tanh(), row + y.tanh()], 1) * _CELL
    half = torch.stack([w, h], 1).sigmoid() * (_TRAINED_SIDE / 2)
    limits = torch.tensor([width, height, width, height]) * _CELL
    boxes = torch.cat([centre - half, centre + half], 1).clamp_min(0).minimum(limits)

    found = (scores >= least_score).nonzero().flatten()
    found = found[scores[found].argsort(descending=True, stable=True)]
    boxes, scores, labels = boxes[found], scores[found], labels[found]
    kept = _not_hidden(boxes, labels, most_overlap)[:count]
    return boxes[kept], scores[kept], labels[kept]


def _not_hidden(boxes: Tensor, labels: Tensor, most_overlap: float) -> Tensor:
    """Indices of the boxes, best first, that no better one of their class overlaps too much."""
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clamp_min(0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    iou = shared / (area[:, None] + area[None, :] - shared).clamp_min(1e-9)
    hides = ((iou > most_overlap) & (labels[:, None] == labels[None, :])).numpy()
    kept: list[int] = []
    for index in range(len(boxes)):
        if not hides[kept, index].any():
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64)


class FastestDet(nn.Module):
    """The network.

    Args:
        classes: How many.
    """

    def __init__(self, classes: int = 80) -> None:
        super().__init__()
        self.backbone = _ShuffleNetV2((24, 48, 96, 192), (4, 8, 4))
        channels = 96
        self.avg_pool = nn.AvgPool2d(3, 2, 1)
        self.SPP = _Context(48 + 96 + 192, channels)
        self.detect_head = _Head(channels, classes)

    def forward(self, frame: Tensor) -> Tensor:
        """Detect.

        Args:
            frame: BGR, 0 to 1, ``(N, 3, H, W)``, sides multiples of 32.

        Returns:
            ``(N, 5 + classes, H / 16, W / 16)``: objectness, four numbers of the box (centre and
            sides, before tanh and sigmoid), probabilities of the classes.
        """
        fine, middle, coarse = self.backbone(frame)
        coarse = F.interpolate(coarse, scale_factor=2, mode="nearest")
        return self.detect_head(self.SPP(torch.cat([self.avg_pool(fine), middle, coarse], 1)))


class _ShuffleNetV2(nn.Module):
    def __init__(self, channels: tuple[int, ...], units: tuple[int, ...]) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(*_conv(3, channels[0], 3, stride=2))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(_DownUnit(before, after), *(_Unit(after) for _ in range(count - 1)))
            for before, after, count in zip(channels[:-1], channels[1:], units, strict=True)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.stage2(self.maxpool(self.first_conv(x)))
        middle = self.stage3(fine)
        return fine, middle, self.stage4(middle)


class _Unit(nn.Module):
    """Every second channel as it is, the others through convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch_main = _branch(half, half, half, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        images, channels, height, width = x.shape
        pairs = x.view(images, channels // 2, 2, height, width)
        sorted_ = pairs.transpose(1, 2).reshape(images, channels, height, width)
        kept, worked = sorted_.chunk(2, 1)
        return torch.cat([kept, self.branch_main(worked)], 1)


class _DownUnit(nn.Module):
    """All channels through two branches of stride 2, whose results stand one behind the other."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.branch_main = _branch(before, after // 2, after - before, stride=2)
        self.branch_proj = nn.Sequential(
            *_conv(before, before, 3, stride=2, groups=before, relu=False),
            *_conv(before, before, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch_proj(x), self.branch_main(x)], 1)


class _Context(nn.Module):
    """One, two and three depthwise convolutions side by side, added to what they read."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.Conv1x1 = _Wrapped("conv1x1", *_conv(before, channels, 1))
        self.S1, self.S2, self.S3 = (
            nn.Sequential(
                *(
                    layer
                    for _ in range(count)
                    for layer in _conv(channels, channels, 5, groups=channels)
                )
            )
            for count in (1, 2, 3)
        )
        self.output = nn.Sequential(*_conv(3 * channels, channels, 1, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv1x1(x)
        return F.relu(x + self.output(torch.cat([self.S1(x), self.S2(x), self.S3(x)], 1)))


class _Head(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1x1 = _Wrapped("conv1x1", *_conv(channels, channels, 1))
        self.obj_layers, self.reg_layers, self.cls_layers = (
            _Wrapped(
                "conv5x5",
                *_conv(channels, channels, 5, groups=channels),
                *_conv(channels, results, 1, relu=False),
            )
            for results in (1, 4, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1x1(x)
        objectness, classes = self.obj_layers(x).sigmoid(), self.cls_layers(x).softmax(1)
        return torch.cat([objectness, self.reg_layers(x), classes], 1)


class _Wrapped(nn.Module):
    """Layers one after the other under a name of their own, as the published weights have them."""

    def __init__(self, name: str, *layers: nn.Module) -> None:
        super().__init__()
        self._name = name
        self.add_module(name, nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self._name)(x)


def _branch(before: int, middle: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        *_conv(before, middle, 1),
        *_conv(middle, middle, 3, stride=stride, groups=middle, relu=False),
        *_conv(middle, after, 1),
    )


def _conv(
    before: int, after: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(after), *([nn.ReLU(inplace=True)] if relu else [])]

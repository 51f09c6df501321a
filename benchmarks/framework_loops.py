"""Loops over a video as users of each framework write them, with networks of random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from .zoo.weights import draw_statistics_


@dataclass(frozen=True)
class Clip:
    """Some frames of a video.

    Attributes:
        path: A file with them.
        pictures: The same, uint8 ``(H, W, 3)``, blue first.
    """

    path: Path
    pictures: Sequence[np.ndarray]

    @classmethod
    def scaled(cls, source: Path, frames: int, size: tuple[int, int], path: Path) -> Clip:
        """The first frames of a video at another size.

        Args:
            source: The video; it starts again where it has fewer frames.
            frames: How many.
            size: ``(H, W)``, px.
            path: Where the file is written.
        """
        video = cv2.VideoCapture(str(source))
        found: list[np.ndarray] = []
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, size[::-1])
        while len(found) < frames:
            there, picture = video.read()
            if not there:
                video.set(cv2.CAP_PROP_POS_FRAMES, 0)
                continue
            found.append(cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA))
            writer.write(found[-1])
        writer.release()
        return cls(path, found)


@dataclass(frozen=True)
class Loop:
    """One loop.

    Attributes:
        name: For people.
        packages: Without which it cannot be run.
        make: Makes the object that users call.
        run: ``run(object, clip, threshold)`` gives the result of one frame after the other; of
            objects those with scores above the threshold.
        scores: The scores of the objects in a result; ``None`` for a loop without objects.
        size: ``(H, W)`` of the pictures, px.
        block: Block size, px.
    """

    name: str
    packages: tuple[str, ...]
    make: Callable[[], Any]
    run: Callable[[Any, Clip, float], Iterator[Any]]
    scores: Callable[[Any], Sequence[float]] | None
    size: tuple[int, int]
    block: int = 64


def _yolo(name: str, size: int) -> Loop:
    def make() -> Any:
        from ultralytics import YOLO

        yolo = YOLO(f"{name}.yaml", verbose=False)
        _normalise(yolo.model)
        return yolo

    def run(yolo: Any, clip: Clip, threshold: float) -> Iterator[Any]:
        return yolo.predict(
            source=str(clip.path), stream=True, imgsz=size, conf=threshold, verbose=False
        )

    return Loop(
        f"YOLO('{name}').predict(video, stream=True, imgsz={size})",
        ("ultralytics",),
        make,
        run,
        lambda result: result.boxes.conf.tolist(),
        (size * 3 // 4, size),
    )


def _torchvision(name: str) -> Loop:
    def make() -> Any:
        from torchvision.models import detection
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
        from torchvision.ops.feature_pyramid_network import LastLevelP6P7

        pyramid = {}
        if name == "RetinaNet":
            pyramid = dict(returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
        # Its norms are frozen, as in the models with weights.
        backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, **pyramid)
        return getattr(detection, name)(backbone, num_classes=91).eval()

    def run(model: Any, clip: Clip, threshold: float) -> Iterator[Any]:
        getattr(model, "roi_heads", model).score_thresh = threshold
        for picture in clip.pictures:
            image = torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1).float().div(255)
            with torch.inference_mode():
                yield model([image])

    return Loop(
        f"{name}([image])",
        ("torchvision",),
        make,
        run,
        lambda result: result[0]["scores"].tolist(),
        (600, 800),
        128,
    )


def _pipeline(task: str, kind: str, processor: str) -> Loop:
    finds_objects = task == "object-detection"

    def make() -> Any:
        import transformers

        from blockcopy_plugins.integrations.framework import framework_called

        model = framework_called("transformers").build(kind)
        _normalise(model)
        size = dict(height=640, width=640)
        return transformers.pipeline(
            task, model=model, image_processor=getattr(transformers, processor)(size=size)
        )

    def run(pipe: Any, clip: Clip, threshold: float) -> Iterator[Any]:
        from PIL import Image

        options = dict(threshold=threshold) if finds_objects else {}
        for picture in clip.pictures:
            yield pipe(Image.fromarray(picture[..., ::-1]), **options)

    def scores(result: Any) -> list[float]:
        return [found["score"] for found in result]

    return Loop(
        f"pipeline({task!r}), {kind}",
        ("transformers", "torchvision"),
        make,
        run,
        scores if finds_objects else None,
        (480, 640),
    )


def _tracker() -> Loop:
    def make() -> Any:
        import mmdet
        from mmdet.apis import init_track_model
        from mmdet.utils import register_all_modules
        from mmengine.config import Config

        register_all_modules()
        folder = Path(mmdet.__path__[0]) / ".mim/configs/bytetrack"
        config = Config.fromfile(
            folder / "bytetrack_yolox_x_8xb4-80e_crowdhuman-mot17halftrain_test-mot17halfval.py"
        )
        detector = config.model.detector
        detector.pop("init_cfg", None)
        detector.backbone.update(deepen_factor=0.33, widen_factor=0.5)
        detector.neck.update(in_channels=[128, 256, 512], out_channels=128, num_csp_blocks=1)
        detector.bbox_head.update(in_channels=128, feat_channels=128)
        model = init_track_model(config, device="cpu")
        _normalise(model.detector, scale=255.0)
        for layer in model.detector.bbox_head.multi_level_conv_reg:
            # Boxes of four strides: a tracker cannot follow boxes of no height.
            layer.weight.data *= 0.01
            layer.bias.data.copy_(torch.tensor([0.0, 0.0, 1.4, 1.4]))
        return model

    def run(model: Any, clip: Clip, threshold: float) -> Iterator[Any]:
        from mmdet.apis import inference_mot

        model.detector.test_cfg.score_thr = threshold
        # Without a threshold there are thousands of boxes; none of them is tracked.
        tracked = threshold or 1.0
        model.tracker.obj_score_thrs = dict(high=tracked, low=tracked)
        model.tracker.init_track_thr = tracked
        for number, picture in enumerate(clip.pictures):
            yield inference_mot(model, picture, number, len(clip.pictures))

    return Loop(
        "inference_mot, ByteTrack, YOLOX-s",
        ("mmdet", "lap"),
        make,
        run,
        lambda result: result[0].pred_instances.scores.tolist(),
        (810, 1080),
    )


def _normalise(model: torch.nn.Module, scale: float = 1.0) -> None:
    """Set the statistics of batch norms so that random weights leave no denormals.

    Args:
        model: Takes frames ``(N, 3, H, W)``.
        scale: Largest value in them.
    """
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        draw_statistics_(model, scale * torch.rand(1, 3, 256, 256, generator=draw), draw)


LOOPS: tuple[Loop, ...] = (
    _yolo("yolo11n", 640),
    _yolo("yolo11n", 1280),
    _yolo("yolov8s", 640),
    _yolo("yolov8s", 1280),
    _torchvision("FasterRCNN"),
    _torchvision("RetinaNet"),
    _pipeline("image-segmentation", "SegformerForSemanticSegmentation", "SegformerImageProcessor"),
    _pipeline("object-detection", "RTDetrForObjectDetection", "RTDetrImageProcessor"),
    _tracker(),
)

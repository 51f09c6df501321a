"""Whole frames as users of each framework see them: from the picture in memory to the result.

``python -m benchmarks.user_loops`` runs what is installed, dense beside block-sparse in turn in one
process, with random weights, a dictated quarter of the blocks and one thread, and writes
``benchmarks/results/user_loops.json``. The figures are CPU time, so that what else runs on the
machine counts for less.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import blockcopy_plugins as bc

from .machine import describe

_RESULTS = Path(__file__).resolve().parent / "results" / "user_loops.json"
RATE = 0.25


@dataclass(frozen=True)
class Loop:
    """One user-level call.

    Attributes:
        name: For people.
        package: Without which it cannot be run.
        make: Makes the object that users call, with random weights.
        call: ``call(object, picture)`` runs a frame, uint8 ``(H, W, 3)``.
        size: ``(H, W)`` of the pictures, px.
        block: Block size, px.
    """

    name: str
    package: str
    make: Callable[[], Any]
    call: Callable[[Any, np.ndarray], Any]
    size: tuple[int, int]
    block: int = 64


def _yolo(name: str, size: int) -> Loop:
    def make() -> Any:
        from ultralytics import YOLO

        return YOLO(f"{name}.yaml", verbose=False)

    def call(yolo: Any, picture: np.ndarray) -> Any:
        return yolo.predict(picture, imgsz=size, verbose=False, save=False)

    height = size * 3 // 4
    return Loop(f"YOLO('{name}').predict, {size}", "ultralytics", make, call, (height, size))


def _torchvision(name: str) -> Loop:
    def make() -> Any:
        from torchvision.models import get_model

        return get_model(name, weights=None, weights_backbone=None).eval()

    def call(model: Any, picture: np.ndarray) -> Any:
        image = torch.from_numpy(picture).permute(2, 0, 1).float().div(255)
        with torch.inference_mode():
            return model([image])

    return Loop(f"{name}([image])", "torchvision", make, call, (600, 800), 128)


def _pipeline(task: str, kind: str, processor: str) -> Loop:
    def make() -> Any:
        import transformers

        from blockcopy_plugins.integrations.framework import framework_called

        model = framework_called("transformers").build(kind)
        size = dict(height=640, width=640)
        return transformers.pipeline(
            task, model=model, image_processor=getattr(transformers, processor)(size=size)
        )

    def call(pipe: Any, picture: np.ndarray) -> Any:
        from PIL import Image

        return pipe(Image.fromarray(picture))

    return Loop(f"pipeline({task!r}), {kind}", "transformers", make, call, (480, 640))


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
        return init_track_model(config, device="cpu")

    def call(model: Any, picture: np.ndarray) -> Any:
        from mmdet.apis import inference_mot

        model.frames_seen = getattr(model, "frames_seen", -1) + 1
        return inference_mot(model, picture, model.frames_seen, 10_000)

    return Loop("inference_mot, ByteTrack, YOLOX-s", "mmdet", make, call, (800, 1440))


LOOPS: tuple[Loop, ...] = (
    _yolo("yolo11n", 640),
    _yolo("yolo11n", 1280),
    _yolo("yolov8s", 640),
    _yolo("yolov8s", 1280),
    _torchvision("fasterrcnn_resnet50_fpn"),
    _torchvision("retinanet_resnet50_fpn"),
    _pipeline("image-segmentation", "SegformerForSemanticSegmentation", "SegformerImageProcessor"),
    _pipeline("object-detection", "RTDetrForObjectDetection", "RTDetrImageProcessor"),
    _tracker(),
)


class _Quarter:
    """A policy that executes as many blocks as it is told, others in each frame."""

    def __init__(self) -> None:
        self._draw = torch.Generator().manual_seed(0)

    def __call__(self, frame: Tensor, context: Any) -> Tensor:
        count = context.grid_shape[1] * context.grid_shape[2]
        grid = torch.zeros(context.grid_shape[0], count, dtype=torch.bool)
        grid[:, torch.randperm(count, generator=self._draw)[: max(1, round(RATE * count))]] = True
        return grid.view(context.grid_shape)


def pictures(size: tuple[int, int], count: int) -> list[np.ndarray]:
    """Frames of noise of the scale of pictures, uint8 ``(H, W, 3)``."""
    random = np.random.default_rng(0)
    cells = random.integers(0, 255, (-(-size[0] // 16), -(-size[1] // 16), 3), dtype=np.uint8)
    background = cells.repeat(16, 0).repeat(16, 1)[: size[0], : size[1]]
    frames = []
    for t in range(count):
        frame = background.copy()
        frame[100:200, 20 * t : 20 * t + 100] = (255, 30, 30)
        frames.append(frame)
    return frames


def measure(loop: Loop, rounds: int) -> dict[str, Any]:
    """One row: medians of the CPU time of a frame, dense and block-sparse in turn."""
    torch.manual_seed(0)
    dense = loop.make()
    torch.manual_seed(0)
    ours = loop.make()
    bc.blockcopy_(ours, bc.BlockCopyConfig(block_size=loop.block, policy=_Quarter()))
    spent: dict[str, list[float]] = {"dense": [], "ours": []}
    for number, picture in enumerate(pictures(loop.size, rounds + 2)):
        for name, owner in (("dense", dense), ("ours", ours)):
            start = time.process_time()
            loop.call(owner, picture)
            if number > 1:
                spent[name].append(time.process_time() - start)
    report = copy.copy(bc.report(ours))
    record = bc.handle(ours).last
    times = {name: 1e3 * statistics.median(found) for name, found in spent.items()}
    return {
        "name": loop.name,
        "size": list(loop.size),
        "block": loop.block,
        "dense_ms": round(times["dense"], 1),
        "ours_ms": round(times["ours"], 1),
        "speedup": round(times["dense"] / times["ours"], 2),
        "rate": float(record.host_grid.float().mean()),
        "share_on_blocks": round(report.share_on_blocks, 4),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is installed; rows of other environments stay in the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.user_loops", description=__doc__)
    parser.add_argument("--only", default="", help="loops with this in their name")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=_RESULTS)
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    kept = json.loads(args.json.read_text())["rows"] if args.json.exists() else []
    rows = {row["name"]: row for row in kept}
    for loop in LOOPS:
        if args.only not in loop.name or find_spec(loop.package) is None:
            continue
        row = rows[loop.name] = {**measure(loop, args.rounds), "machine": describe("default")}
        print(f"{row['name']:60s} {row['dense_ms']:8.1f} {row['ours_ms']:8.1f} {row['speedup']}x")
        found = [rows[known.name] for known in LOOPS if known.name in rows]
        result = {"benchmark": "user_loops", "rate": RATE, "rows": found}
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

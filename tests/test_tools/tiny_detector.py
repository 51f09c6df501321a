"""A tiny Mask R-CNN with random weights, and clips for it: what tools and loops are tested on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
SIZE = (128, 160)
BLOCK = 32

_CONFIG = """
_base_ = {base!r}
default_scope = 'mmdet'
model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[4], ratios=[1.0])),
    test_cfg=dict(rpn=dict(nms_pre=50, max_per_img=20), rcnn=dict(max_per_img=10)))
load_from = {weights!r}
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(160, 128), keep_ratio=True),
    dict(type='PackDetInputs',
         meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CocoDataset', data_root='nowhere/', ann_file='missing.json',
                 metainfo=dict(classes=('thing',)), test_mode=True, pipeline=test_pipeline))
test_evaluator = dict(type='CocoMetric', ann_file='nowhere/missing.json')
test_cfg = dict(type='TestLoop')
"""
_HOOK = """
custom_hooks = [dict(type='blockcopy_plugins.BlockCopyHook', block_size=32,
                     policy=dict(type='RLPolicy', target=0.3, seed=0))]
"""


def write_clip(path: Path, frames: int, seed: int) -> Path:
    """A square that moves over a still background."""
    from blockcopy_plugins.visualization import VideoWriter

    height, width = SIZE
    random = np.random.default_rng(seed)
    cells = random.integers(0, 255, (height // 16, width // 16, 3), dtype=np.uint8)
    background = cells.repeat(16, 0).repeat(16, 1)
    with VideoWriter(path, fps=10, crf=5) as video:
        for t in range(frames):
            frame = background.copy()
            x = (7 * t) % (width - 32)
            frame[40:72, x : x + 32] = (255, 30, 30)
            video.write(frame)
    return path


def write_config(folder: Path, weights: Path, name: str = "tiny.py", hook: bool = True) -> Path:
    """The config of the detector; its test data set is one that does not exist."""
    base = str(ROOT / "configs/_base_/models/mask-rcnn_r18-thin_fpn.py")
    text = _CONFIG.format(base=base, weights=str(weights)) + (_HOOK if hook else "")
    path = folder / name
    path.write_text(text)
    return path


def write_weights(folder: Path) -> Path:
    """Random weights whose scores and masks are far apart, so that rounding decides nothing."""
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    path = folder / "tiny.pth"
    config = Config.fromfile(write_config(folder, path, "for_weights.py"))
    with DefaultScope.overwrite_default_scope("mmdet"), torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS.build(config.model)
        model.init_weights()
    with torch.no_grad():
        model.rpn_head.rpn_cls.weight.mul_(60)
        model.roi_head.bbox_head.fc_cls.weight.mul_(40)
        for layer in model.roi_head.mask_head.modules():
            if isinstance(layer, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
                layer.weight.mul_(2)
    torch.save({"state_dict": model.state_dict()}, path)
    return path


def write_coco(path: Path, clip: str, frames: int) -> Path:
    """COCO annotations of the moving square in every frame of a clip."""
    annotations = [
        {
            "id": t + 1,
            "image_id": t + 1,
            "category_id": 1,
            "iscrowd": 0,
            "area": 32 * 32,
            "bbox": [(7 * t) % (SIZE[1] - 32), 40, 32, 32],
        }
        for t in range(frames)
    ]
    images = [
        {
            "id": t + 1,
            "file_name": f"{clip}/{t:06d}.jpg",
            "height": SIZE[0],
            "width": SIZE[1],
            "frame_id": t,
            "video_id": 1,
        }
        for t in range(frames)
    ]
    path.write_text(
        json.dumps(
            {
                "images": images,
                "annotations": annotations,
                "categories": [{"id": 1, "name": "thing"}],
                "videos": [{"id": 1, "name": clip}],
            }
        )
    )
    return path

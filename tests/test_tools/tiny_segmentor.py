"""A tiny segmentor with random weights, frames for it, and label images of some of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

SIZE = (128, 160)
BLOCK = 32
CLASSES = ("ground", "square", "rest")
PALETTE = [[10, 200, 10], [250, 30, 30], [30, 30, 250]]

_CONFIG = """
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[120.0] * 3, std=[60.0] * 3,
                           bgr_to_rgb=True),
    pretrained='open-mmlab://resnet18_v1c',
    backbone=dict(type='ResNetV1c', depth=18, base_channels=8, stem_channels=8,
                  strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True),
    decode_head=dict(type='FCNHead', in_channels=64, in_index=3, channels=16, num_convs=1,
                     num_classes=3, norm_cfg=dict(type='BN')),
    test_cfg=dict(mode='whole'))
load_from = {weights!r}
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(160, 128), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')]
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='BaseSegDataset', data_root='nowhere/', img_suffix='_img.png',
                 seg_map_suffix='_ids.png', reduce_zero_label=True,
                 metainfo=dict(classes={classes!r}, palette={palette!r}),
                 pipeline=test_pipeline))
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'], ignore_index=255)
test_cfg = dict(type='TestLoop')
"""
_HOOK = """
custom_hooks = [dict(type='blockcopy_plugins.BlockCopyHook', block_size=32,
                     policy=dict(type='RLPolicy', target=0.3, seed=0))]
"""


def write_config(folder: Path, weights: Path, name: str = "seg.py", hook: bool = True) -> Path:
    """The config of the segmentor; its test data set is one that does not exist."""
    text = _CONFIG.format(weights=str(weights), classes=CLASSES, palette=PALETTE)
    path = folder / name
    path.write_text(text + (_HOOK if hook else ""))
    return path


def picture(t: int) -> tuple[np.ndarray, np.ndarray]:
    """A square that moves over a still background, BGR, and its labels; 0 is to be ignored."""
    height, width = SIZE
    random = np.random.default_rng(1)
    frame = random.integers(0, 255, (height // 16, width // 16, 3), dtype=np.uint8)
    frame = frame.repeat(16, 0).repeat(16, 1)
    labels = np.ones(SIZE, np.uint8)
    labels[:40] = 3
    labels[100:] = 0
    x = (7 * t) % (width - 32)
    frame[40:72, x : x + 32] = (30, 30, 255)
    labels[40:72, x : x + 32] = 2
    return frame, labels


def write_frames(folder: Path, frames: int, labelled: tuple[int, ...]) -> tuple[Path, Path]:
    """A folder of frames, and one with the label images of some of them."""
    pictures, label_images = folder / "frames", folder / "labels"
    pictures.mkdir(parents=True)
    label_images.mkdir()
    for t in range(frames):
        frame, labels = picture(t)
        cv2.imwrite(str(pictures / f"{t:04d}_img.png"), frame)
        if t in labelled:
            cv2.imwrite(str(label_images / f"{t:04d}_ids.png"), labels)
            cv2.imwrite(str(label_images / f"{t:04d}_colour.png"), frame)
    return pictures, label_images


def write_weights(folder: Path) -> Path:
    """Random weights, evened out so that each class wins somewhere."""
    from mmengine.config import Config
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS

    path = folder / "seg.pth"
    config = Config.fromfile(write_config(folder, path, "for_weights.py"))
    config.model.pretrained = None
    with DefaultScope.overwrite_default_scope("mmseg"), torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS.build(config.model)
        model.init_weights()
    model.eval()
    frame = (torch.from_numpy(picture(0)[0]).permute(2, 0, 1)[None].flip(1) - 120.0) / 60.0
    classifier = model.decode_head.conv_seg
    with torch.no_grad():
        logits = model(frame)
        mean, std = logits.mean((0, 2, 3)), logits.std((0, 2, 3))
        classifier.bias.sub_(mean).div_(std)
        classifier.weight.div_(std[:, None, None, None])
    torch.save({"state_dict": model.state_dict()}, path)
    return path

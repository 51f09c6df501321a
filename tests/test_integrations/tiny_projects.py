"""Configs, weights and moving pictures, as somebody with a model and a video has them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch

from tests.test_tools import tiny_detector, tiny_segmentor

SIZE, BLOCK = tiny_detector.SIZE, tiny_detector.BLOCK
# The inferencers for images want one in the config.
_VISUALIZER = """
visualizer = dict(
    type={kind!r}, vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
"""


def write_detector(folder: Path, hook: bool = False) -> tuple[Path, Path]:
    """Config and weights of a tiny Mask R-CNN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = tiny_detector.write_weights(folder)
    config = tiny_detector.write_config(folder, weights, "detector.py", hook=hook)
    config.write_text(config.read_text() + _VISUALIZER.format(kind="DetLocalVisualizer"))
    return config, weights


def write_segmentor(folder: Path) -> tuple[Path, Path]:
    """Config and weights of a tiny FCN, with SyncBN as in most configs of MMSegmentation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = tiny_segmentor.write_weights(folder)
    meta = dict(classes=tiny_segmentor.CLASSES, palette=tiny_segmentor.PALETTE)
    torch.save({**torch.load(weights), "meta": {"dataset_meta": meta}}, weights)
    config = tiny_segmentor.write_config(folder, weights, "segmentor.py", hook=False)
    text = config.read_text().replace("dict(type='BN')", "dict(type='SyncBN')")
    config.write_text(text + _VISUALIZER.format(kind="SegLocalVisualizer"))
    return config, weights


def pictures(
    count: int, seed: int = 1, size: tuple[int, int] = SIZE, speed: int = 7
) -> list[np.ndarray]:
    """Frames of a square that moves over a still background, uint8 (H, W, 3), BGR."""
    height, width = size
    random = np.random.default_rng(seed)
    cells = random.integers(0, 255, (-(-height // 16), -(-width // 16), 3), dtype=np.uint8)
    background = cells.repeat(16, 0).repeat(16, 1)[:height, :width]
    frames = []
    for t in range(count):
        frame = background.copy()
        x = (speed * t) % (width - 32)
        frame[40:72, x : x + 32] = (30, 30, 255)
        frames.append(frame)
    return frames


def same_detections(found, wanted) -> None:
    """Detections of data samples, to rounding."""
    found, wanted = found.pred_instances, wanted.pred_instances
    assert len(wanted) >= 3, "with no detections this would say nothing"
    assert torch.equal(found.labels, wanted.labels)
    torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.bboxes, wanted.bboxes, rtol=1e-3, atol=2e-2)
    found, wanted = (torch.as_tensor(x.masks) for x in (found, wanted))
    assert found.shape == wanted.shape and wanted.any()
    # A pixel right on the threshold may fall on either side.
    assert (found != wanted).float().mean() < 1e-4


def same_labels(found, wanted) -> None:
    """Segmentations of data samples, to rounding."""
    logits = wanted.seg_logits.data
    assert (found.seg_logits.data - logits).abs().max() <= 1e-4 * logits.abs().max()
    assert len(wanted.pred_sem_seg.data.unique()) > 1, "one class alone would say nothing"
    different = found.pred_sem_seg.data != wanted.pred_sem_seg.data
    assert different.float().mean() < 1e-3

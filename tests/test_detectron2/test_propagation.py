"""Outputs of Detectron2's models that are copied or moved from frame to frame."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("detectron2")

from benchmarks.zoo import detectron2_models as models  # noqa: E402
from blockcopy_plugins.engine.convert import handle  # noqa: E402
from blockcopy_plugins.errors import ConfigError  # noqa: E402
from blockcopy_plugins.integrations.detectron2 import (  # noqa: E402
    BlockCopyPredictor,
    add_blockcopy_config,
    blockcopy_config,
)
from tests.test_detectron2 import laws  # noqa: E402


def moved_by(x, y):
    return lambda frame, context: [(x, y)] * len(frame)


def options(**given):
    policy = dict(type="EveryNthFramePolicy", n=5)
    return dict(block_size=64, policy=policy, propagate="move", **given)


def test_boxes_and_masks_move(cfg, pictures):
    height, width = pictures[0].shape[:2]
    with BlockCopyPredictor(cfg, options(motion=moved_by(4, -2))) as predictor:
        first, later = (predictor(picture)["instances"] for picture in pictures[:2])
        calls = handle(predictor.model).propagation.report()
    moved = first.pred_boxes.tensor + torch.tensor([4.0, -2, 4, -2])
    there = (moved[:, 2:] > 0).all(1) & (moved[:, :2] < torch.tensor([width, height])).all(1)
    limits = torch.tensor([width, height] * 2)
    assert there.any()
    torch.testing.assert_close(later.pred_boxes.tensor, moved[there].clamp_min(0).minimum(limits))
    torch.testing.assert_close(later.scores, first.scores[there] * 0.98)
    assert torch.equal(later.pred_classes, first.pred_classes[there])
    assert torch.equal(later.pred_masks[:, :-2, 4:], first.pred_masks[there][:, 2:, :-4])
    assert later.image_size == first.image_size == (height, width)
    assert calls.repeated == 1 and calls.moved == 1


def test_without_motion_the_last_outputs_are_given_again(cfg, pictures):
    with BlockCopyPredictor(cfg, options(motion=moved_by(0, 0))) as predictor:
        first, later = (predictor(picture) for picture in pictures[:2])
        assert laws.output_deviation([later], [first]) == 0
        assert handle(predictor.model).propagation.report().repeated == 1


def test_keys(cfg):
    cfg.MODEL.BLOCKCOPY.PROPAGATE = "auto"
    cfg.MODEL.BLOCKCOPY.MOTION = "dict(type='GlobalMotion', model='affine')"
    found = blockcopy_config(cfg)
    assert found.propagate == "auto" and found.motion == dict(type="GlobalMotion", model="affine")
    found = blockcopy_config(cfg, propagate="move")
    assert found.propagate == "move" and found.motion is None
    cfg.MODEL.BLOCKCOPY.PROPAGATE = "copy"
    with pytest.raises(ConfigError, match="moves nothing"):
        blockcopy_config(cfg)
    fresh = models.config_of("mask_rcnn_R_50_FPN", small=True)
    add_blockcopy_config(fresh)
    assert blockcopy_config(fresh).propagate == "copy" and blockcopy_config(fresh).motion is None

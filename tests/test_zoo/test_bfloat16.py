"""Whole detectors whose weights are bfloat16, converted by one call, up to their predictions."""

from __future__ import annotations

import pytest
import torch
from torch.utils._pytree import tree_leaves

import blockcopy_plugins as bc
from benchmarks.zoo.architectures import DETECTORS
from benchmarks.zoo.build import build, samples
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.policy.dictated import DictatedPolicy
from tests.test_zoo.laws import frames, grids

NAMES = ("Mask R-CNN R50-FPN", "Faster R-CNN R50-C4", "RetinaNet R18", "RTMDet tiny", "YOLOX tiny")


def head_of(model):
    return model.rpn_head if hasattr(model, "rpn_head") else model.bbox_head


def run(model, architecture, frame):
    """The maps that leave the dense head, and the prediction."""
    kept = []
    hook = head_of(model).register_forward_hook(lambda m, args, maps: kept.append(maps))
    (out,) = model(frame, samples("mmdet", 1, architecture.size), mode="predict")
    hook.remove()
    return kept[0], out.pred_instances


def distance(found, expected):
    """Of the worst map, relative to its own length."""
    pairs = zip(tree_leaves(found), tree_leaves(expected), strict=True)
    return max(((a.double() - b.double()).norm() / b.double().norm()).item() for a, b in pairs)


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(a, id=a.name, marks=() if a.name == NAMES[0] else pytest.mark.slow)
        for a in DETECTORS
        if a.name in NAMES
    ],
)
@torch.no_grad()
def test_whole_detectors_run_in_bfloat16(architecture):
    """As near to float32 as torch's bfloat16 is, fully executed and by any grid."""
    unit = build(architecture).float()
    model = unit.model
    video, plan = [f.float() for f in frames(architecture, 1)], grids(architecture, 1)
    oracle = MaskedReference(unit, architecture.block)
    wide = [oracle(*one)[1][0] for one in zip(plan, video, strict=True)]
    model.bfloat16()
    plain = head_of(model)(model.extract_feat(video[0].bfloat16()))
    rounding = distance(plain, wide[0])
    assert 0.01 < rounding < 0.6  # RTMDet has exponentials
    policy = DictatedPolicy()
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=architecture.block, policy=policy))
    for frame, policy.grid, expected in zip(video, plan, wide, strict=True):
        maps, found = run(model, architecture, frame)
        assert len(found) and found.bboxes.dtype == found.scores.dtype == torch.float32
        assert distance(maps, expected) < 1.2 * rounding
    assert bc.report(model).executed_rate < 0.7

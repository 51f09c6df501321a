"""Whole detectors and segmentors, whose parts are programs: the same as without."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_leaves

import blockcopy_plugins as bc

BLOCK, SIZE, SHAPE = 32, (96, 128), (3, 4)


class Dictated:
    """A policy that gives the grid it was told."""

    grid = None

    def __call__(self, frame, context):
        return self.grid


def pair(model):
    found = []
    for programs in (True, False):
        config = bc.BlockCopyConfig(block_size=BLOCK, policy=Dictated(), programs=programs)
        found.append(bc.blockcopy_(copy.deepcopy(model).eval(), config))
    return found


def grid_of(executed, draw, images=1):
    blocks = images * SHAPE[0] * SHAPE[1]
    grid = torch.zeros(blocks, dtype=torch.bool)
    grid[torch.randperm(blocks, generator=draw)[:executed]] = True
    return grid.view(images, *SHAPE)


def tensors(results):
    found = []
    for result in results:
        for name in ("pred_instances", "seg_logits", "pred_sem_seg"):
            data = getattr(result, name, None)
            if data is not None:
                found += [v for v in data.values() if isinstance(v, torch.Tensor)]
        if isinstance(result, dict):
            found += [v for v in tree_leaves(result) if isinstance(v, torch.Tensor)]
    assert found
    return found


def run(nets, step, counts, draw, images=1):
    """The same frames through all, and the same results wanted."""
    most = 0
    for i, executed in enumerate(counts):
        grid = grid_of(executed, draw, images)
        found = []
        for net in nets:
            bc.handle(net).policy.function.grid = grid
            with torch.no_grad():
                found.append(tensors(step(net, i)))
        for a, b in zip(*found, strict=True):
            assert a.shape == b.shape
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
            most = max(most, a.numel())
    assert most > 8, "with nothing found this would say nothing"


COUNTS = (12, 5, 9, 3, 7, 1, 12, 12, 12, 2, 0, 8, 4)


def parts(net):
    return bc.report(net).programs.parts


def published(path, least_score):
    """A config of MMDetection without its weights."""
    import mmdet
    from mmengine.config import Config

    file = Path(mmdet.__file__).parent / ".mim" / "configs" / path
    if not file.exists():
        pytest.skip(f"MMDetection is installed without {path}")
    found = Config.fromfile(file).model
    found.backbone.pop("init_cfg", None)
    found.test_cfg.score_thr = least_score
    return found


def config_of(tiny, kind):
    if kind == "mask_rcnn":
        return tiny.mask_rcnn()
    if kind.endswith("Head"):
        return tiny.one_stage(kind)
    if kind == "rtmdet":
        return published("rtmdet/rtmdet_tiny_8xb32-300e_coco.py", 0.3)
    return published("yolox/yolox_tiny_8xb8-300e_coco.py", 0.2)


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("yolox", "rtmdet")]


@pytest.mark.parametrize("kind", ["mask_rcnn", "RetinaHead", "FCOSHead", *SLOW])
def test_detectors(tiny, kind):
    model = tiny.build(config_of(tiny, kind))
    if kind == "rtmdet":
        for layer in model.bbox_head.rtm_reg:
            layer.bias.data.fill_(3.0)  # boxes with an area
    nets = pair(model)

    def step(net, i):
        return net.test_step(tiny.batch([tiny.picture(SIZE, i)]))

    run(nets, step, COUNTS, torch.Generator().manual_seed(1))
    found = parts(nets[0])
    assert found.made >= 6 and found.replayed >= 19 and not found.eager_calls
    assert "with data samples" in next(iter(bc.report(nets[0]).programs.eager_calls))
    figures = [bc.report(net).as_dict() for net in nets]
    for each in figures:
        for name in ("ms_model", "ms_policy", "programs"):
            del each[name]
    assert figures[0] == figures[1]


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("pspnet", "danet", "ocr")]


@pytest.mark.parametrize("kind", ["deeplabv3plus", "point_rend", *SLOW])
def test_segmentors(tiny_seg, kind):
    nets = pair(tiny_seg.build(tiny_seg.config(kind)))

    def step(net, i):
        return net.test_step(tiny_seg.batch([tiny_seg.picture(SIZE, i)]))

    run(nets, step, COUNTS, torch.Generator().manual_seed(1))
    found = parts(nets[0])
    assert found.replayed >= 10, str(bc.report(nets[0]))


def test_videos_that_come_and_go(tiny):
    nets = pair(tiny.build(tiny.one_stage("RetinaHead")))
    draw = torch.Generator().manual_seed(1)
    frames = {"a": 0, "b": 0, "c": 0}
    batches = [["a"]] * 4 + [["b"]] * 3 + [["a", "b"]] * 4 + [["b"], ["c"], ["a"]] + [["c"]] * 3
    for i, videos in enumerate(batches):
        grid = grid_of(5 + i % 3, draw, len(videos))
        given = {
            "video_id": videos,
            "frame_id": [frames[video] for video in videos],
            "scale": [1.0] * len(videos),
        }
        found = []
        for net in nets:
            bc.handle(net).policy.function.grid = grid
            batch = tiny.batch([tiny.picture(SIZE, i + j) for j in range(len(videos))], **given)
            with torch.no_grad():
                found.append(tensors(net.test_step(batch)))
        for video in videos:
            frames[video] += 1
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    assert parts(nets[0]).replayed >= 12


def test_frames_of_another_size(tiny):
    nets = pair(tiny.build(tiny.one_stage("FCOSHead")))
    draw = torch.Generator().manual_seed(1)
    for i in range(20):
        size, shape = ((96, 128), (3, 4)) if i // 5 % 2 else ((64, 160), (2, 5))
        grid = torch.rand(1, *shape, generator=draw) < 0.5
        grid[0, 0, 0] = True
        found = []
        for net in nets:
            if i % 5 == 0:
                bc.reset_(net)
            bc.handle(net).policy.function.grid = grid
            with torch.no_grad():
                found.append(tensors(net.test_step(tiny.batch([tiny.picture(size, i)]))))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    assert parts(nets[0]).replayed >= 10


def test_restored_detectors_have_their_own_forwards(tiny):
    model = tiny.build(tiny.one_stage("RetinaHead"))
    before = {path: set(vars(module)) for path, module in model.named_modules()}
    net, _ = pair(model)

    def step(net, i):
        return net.test_step(tiny.batch([tiny.picture(SIZE, i)]))

    run((net, net), step, COUNTS[:5], torch.Generator().manual_seed(1))
    bc.restore_(net)
    assert {path: set(vars(module)) for path, module in net.named_modules()} == before

"""Whole detectors of MMDetection on blocks, against themselves dense and against the oracle."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import blockcopy_plugins as bc
from blockcopy_plugins.engine.adapter import Call
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.errors import DensifiedError, FrameError, StateError
from blockcopy_plugins.policy import Policy

BLOCK = 32


@pytest.fixture()
def adapter_type(tiny):
    from blockcopy_plugins.integrations.mmdet import DetectorAdapter

    return DetectorAdapter


@pytest.fixture(scope="module")
def pristine(tiny):
    return tiny.build(tiny.mask_rcnn())


@pytest.fixture()
def model(pristine):
    return copy.deepcopy(pristine)


def same_detections(found, wanted, masks=True):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        a, b = a.pred_instances, b.pred_instances
        assert len(b) >= 3, "with no detections this would say nothing"
        assert torch.equal(a.labels, b.labels)
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(a.bboxes, b.bboxes, rtol=1e-3, atol=2e-2)
        if masks:
            assert a.masks.shape == b.masks.shape and b.masks.any()
            # A pixel right on the threshold may fall on either side.
            assert (a.masks != b.masks).float().mean() < 1e-4


def close(found, wanted):
    found, wanted = (
        [x for x in tree_leaves(y) if isinstance(x, torch.Tensor)] for y in (found, wanted)
    )
    assert len(found) == len(wanted) > 0
    for a, b in zip(found, wanted, strict=True):
        assert type(a) is torch.Tensor and a.shape == b.shape
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


@pytest.mark.parametrize("size", [(96, 128), (100, 150), (77, 90)])
@pytest.mark.parametrize("pack", [False, True])
def test_mask_rcnn_with_all_blocks_is_mask_rcnn(model, tiny, size, pack):
    batches = [tiny.batch([tiny.picture(size, seed)], scale=[0.5]) for seed in (1, 2)]
    with torch.no_grad():
        wanted = [model.test_step(copy.deepcopy(batch)) for batch in batches]
    config = bc.BlockCopyConfig(block_size=BLOCK, policy="all", strict=True, pack_whole_frames=pack)
    bc.blockcopy_(model, config)
    with torch.no_grad():
        for batch, want in zip(batches, wanted, strict=True):
            same_detections(model.test_step(batch), want)
    assert bc.report(model).dense_ops == ()


def test_images_of_two_sizes_are_padded_to_one_batch(model, tiny):
    pictures = [tiny.picture((96, 128), 1), tiny.picture((70, 110), 2)]
    with torch.no_grad():
        wanted = model.test_step(tiny.batch(pictures))
    config = bc.BlockCopyConfig(block_size=BLOCK, policy="all", pack_whole_frames=True)
    bc.blockcopy_(model, config)
    for _ in range(2):
        same_detections(model.test_step(tiny.batch(pictures)), wanted)


def test_still_picture_and_empty_grid(model, tiny):
    grids = [torch.rand(1, 3, 4) < rate for rate in (2, 0.5, 0.2, 0.0)]
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=BLOCK, policy=lambda f, c: grids.pop(0)))
    with torch.no_grad():
        first = model.test_step(tiny.batch([tiny.picture((96, 128), 1)]))
        for _ in range(2):
            same_detections(model.test_step(tiny.batch([tiny.picture((96, 128), 1)])), first)
        last = model.test_step(tiny.batch([tiny.picture((96, 128), 2)]))
    same_detections(last, first)


class Maps(nn.Module):
    """Backbone, neck and dense head of a detector: all that runs on blocks."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        features = self.model.extract_feat(x)
        head = self.model.rpn_head if hasattr(self.model, "rpn_head") else self.model.bbox_head
        return features, head(features)


@pytest.mark.parametrize("kind", ["MaskRCNN", "RetinaHead", "FCOSHead"])
@pytest.mark.parametrize("size", [(96, 128), (100, 150), (77, 90)])
def test_any_grids_are_the_masked_reference(tiny, kind, size):
    model = tiny.build(tiny.mask_rcnn() if kind == "MaskRCNN" else tiny.one_stage(kind))
    net = Maps(model).eval()
    shape = (2, -(-size[0] // BLOCK), -(-size[1] // BLOCK))
    grids = [torch.rand(shape) < rate for rate in (2, 0.5, 0.2, 0.0, 0.3)]
    frames = [torch.randn(2, 3, *size) for _ in grids]
    with torch.no_grad():
        dense = net(frames[0])
    reference = MaskedReference(net, BLOCK)
    wanted = [reference(grid, frame) for grid, frame in zip(grids, frames, strict=True)]
    left = list(grids)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=BLOCK, policy=lambda f, c: left.pop(0)))
    for i, (frame, want) in enumerate(zip(frames, wanted, strict=True)):
        with torch.inference_mode():
            found = net(frame)
        close(found, want)
        if i == 0:
            close(found, dense)
    assert bc.report(net).dense_ops == ()


def test_whole_mask_rcnn_is_the_masked_reference(model, tiny, adapter_type):
    """Boxes, scores and masks after partly executed frames, RoI head included."""
    reference = MaskedReference(copy.deepcopy(model), BLOCK, adapter_type())
    grids = [torch.rand(1, 3, 4) < rate for rate in (2, 0.5, 0.3)]
    left = list(grids)
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=BLOCK, policy=lambda f, c: left.pop(0)))
    for seed, grid in enumerate(grids):
        data = model.data_preprocessor(tiny.batch([tiny.picture((96, 128), seed)]), False)
        wanted = reference(grid, copy.deepcopy(data["inputs"]), data["data_samples"], "predict")
        wanted = copy.deepcopy(wanted)
        found = model.test_step(tiny.batch([tiny.picture((96, 128), seed)]))
        same_detections(found, wanted)


def test_streams_are_the_videos_of_the_samples(model, tiny):
    config = bc.BlockCopyConfig(block_size=BLOCK, policy="none")
    bc.blockcopy_(model, config)
    handle = bc.handle(model)

    def run(videos, frames, seeds):
        pictures = [tiny.picture((64, 96), seed) for seed in seeds]
        with torch.no_grad():
            out = model.test_step(tiny.batch(pictures, video_id=videos, frame_id=frames))
        return out, handle.last.grid.flatten(1).all(1).tolist()

    first, full = run(["a", "b"], [0, 0], [1, 2])
    assert full == [True, True] and handle.last.streams == ("a", "b")
    second, full = run(["b", "a"], [1, 1], [3, 4])
    assert full == [False, False]
    same_detections(second, first[::-1])
    _, full = run(["b"], [2], [3])
    assert full == [False]
    _, full = run(["a", "b"], [0, 3], [3, 3])  # Video a starts again.
    assert full == [True, False]
    _, full = run(["a", "b"], [1, 1], [3, 3])  # Video b jumps back.
    assert full == [False, True]
    assert set(handle.states.ids()) == {"a", "b"}


def test_a_refused_first_frame_does_not_hide_that_the_video_starts_again(model, tiny):
    """Frame 3 after frame 7 is another pass; that frame 3 was refused once changes nothing."""
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=BLOCK, policy="none"))
    handle = bc.handle(model)
    for frame_id in (6, 7):
        model.test_step(
            tiny.batch([tiny.picture((64, 96), 1)], video_id=["a"], frame_id=[frame_id])
        )
    bad = torch.full((1, 3, 64, 96), float("nan"))
    sample = tiny.sample((64, 96), "a", 3)
    with pytest.raises(FrameError, match="nan"), torch.no_grad():
        model(bad, [sample], mode="predict")
    model.test_step(tiny.batch([tiny.picture((64, 96), 2)], video_id=["a"], frame_id=[3]))
    assert handle.last.executed_rate == 1


def test_streams_of_videos_count_against_the_limit(model, tiny):
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=BLOCK, policy="none", max_streams=2))
    picture = tiny.picture((64, 96), 1)
    for name in ("a", "b"):
        model.test_step(tiny.batch([picture], video_id=[name], frame_id=[0]))
    with pytest.raises(StateError, match="max_streams=2"):
        model.test_step(tiny.batch([picture], video_id=["c"], frame_id=[0]))
    model.test_step(tiny.batch([picture], video_id=["a"], frame_id=[0]))  # A restart is no other.


def test_loss_is_refused(model, tiny):
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=BLOCK, policy="all"))
    with pytest.raises(FrameError, match=r"restore_\(model\) before training"):
        model(torch.zeros(1, 3, 64, 96), [tiny.sample((64, 96))], mode="loss")
    with pytest.raises(FrameError, match="data_preprocessor"):
        model([torch.zeros(3, 64, 96)], [tiny.sample((64, 96))], mode="predict")


def test_task_outputs_are_in_pixels_of_the_network_input(adapter_type, tiny):
    """A picture of 40 x 80 px, enlarged to 60 x 160 (x by 2, y by 1.5), padded to 64 x 160."""
    from mmengine.structures import InstanceData

    masks = np.zeros((2, 40, 80), dtype=bool)
    masks[0, 10:20, 30:60] = True  # In the network input: rows 15 to 30, columns 60 to 120.
    masks[1, 0:40, 0:80] = True
    sample = tiny.sample((60, 160), original=(40, 80))
    sample.set_metainfo(dict(scale_factor=(2.0, 1.5)))
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([[30.0, 10.0, 60.0, 20.0], [0.0, 0.0, 80.0, 40.0]]),
        scores=torch.tensor([0.9, 0.4]),
        labels=torch.tensor([2, 0]),
        masks=masks,
    )
    call = Call(frame=torch.zeros(1, 3, 64, 160), replace=None)
    (found,) = adapter_type().task_outputs([sample], call)
    assert found.size == (64, 160)
    assert found.boxes.tolist() == [[60.0, 15.0, 120.0, 30.0], [0.0, 0.0, 160.0, 60.0]]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.4]))
    assert found.labels.tolist() == [2, 0]
    # Sampled in the middle of every four pixels: rows 18, 22, 26 and columns 62 ... 118.
    assert found.masks.shape == (2, 16, 40) and found.masks.dtype == torch.bool
    wanted = torch.zeros(16, 40, dtype=torch.bool)
    wanted[4:7, 15:30] = True
    assert torch.equal(found.masks[0], wanted)
    # The last row of samples, at 62 px, lies in the padding: the picture ends at 60.
    assert found.masks[1, :15].all() and not found.masks[1, 15:].any()


def test_masks_of_detectors_without_boxes_are_looked_at_whole(adapter_type, tiny):
    """SOLO gives masks and boxes of nothing."""
    from mmengine.structures import InstanceData

    masks = np.zeros((1, 64, 96), dtype=bool)
    masks[0, 32:48, 8:40] = True
    sample = tiny.sample((64, 96))
    sample.pred_instances = InstanceData(
        bboxes=torch.zeros(1, 4), scores=torch.ones(1), labels=torch.zeros(1).long(), masks=masks
    )
    call = Call(frame=torch.zeros(1, 3, 64, 96), replace=None)
    (found,) = adapter_type().task_outputs([sample], call)
    wanted = torch.zeros(16, 24, dtype=torch.bool)
    wanted[8:12, 2:10] = True
    assert torch.equal(found.masks[0], wanted)


def test_task_outputs_without_detections(adapter_type, tiny):
    from mmengine.structures import InstanceData

    sample = tiny.sample((64, 96))
    sample.pred_instances = InstanceData(
        bboxes=torch.zeros(0, 4),
        scores=torch.zeros(0),
        labels=torch.zeros(0, dtype=torch.int64),
        masks=np.zeros((0, 64, 96), dtype=bool),
    )
    call = Call(frame=torch.zeros(1, 3, 64, 96), replace=None)
    (found,) = adapter_type().task_outputs([sample], call)
    assert len(found) == 0 and found.masks.shape[0] == 0


def test_task_outputs_of_a_real_frame_lie_on_the_objects(model, tiny):
    """Boxes that a policy is given are those of the results, times the scale."""
    seen = []

    class Watching(Policy):
        needs_outputs = True

        def select(self, frame, context):
            return torch.ones(context.grid_shape, dtype=torch.bool)

        def feedback(self, frame, grid, outputs, context):
            seen.append((frame, outputs))
            return {}

    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=BLOCK, policy=Watching()))
    picture = tiny.picture((70, 90), 3)
    out = model.test_step(tiny.batch([picture], scale=[0.5]))[0].pred_instances
    frame, (found,) = seen[0]
    assert tuple(frame.shape) == (1, 3, 96, 96) and found.size == (96, 96)
    torch.testing.assert_close(found.boxes, out.bboxes * 0.5)
    assert found.boxes[:, 0::2].max() <= 90 and found.boxes[:, 1::2].max() <= 70
    for box, mask in zip(found.boxes, found.masks, strict=True):
        rows, cols = mask.nonzero().unbind(1)
        if len(rows):
            assert cols.min() * 4 + 2 >= box[0] - 3 and cols.max() * 4 + 2 <= box[2] + 3
            assert rows.min() * 4 + 2 >= box[1] - 3 and rows.max() * 4 + 2 <= box[3] + 3


def test_deformable_convolution_runs_dense_and_is_reported(tiny):
    backbone = tiny.backbone(
        dcn=dict(type="DCNv2", deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, False, False, True),
    )
    backbone["depth"] = 50
    config = tiny.mask_rcnn(backbone=backbone)
    config["neck"]["in_channels"] = [32, 64, 128, 256]
    model = tiny.build(config)
    batch = tiny.batch([tiny.picture((64, 96), 1)])
    with torch.no_grad():
        wanted = model.test_step(copy.deepcopy(batch))
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=BLOCK, policy="all"))
    same_detections(model.test_step(copy.deepcopy(batch)), wanted)
    (paths, ops) = zip(*{(op.path, op.op) for op in bc.report(model).dense_ops}, strict=True)
    assert "backbone.layer4.0.conv2" in paths and "ModulatedDeformConv2d" in ops
    bc.restore_(model)
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=BLOCK, policy="all", strict=True))
    with pytest.raises(DensifiedError, match=r"backbone.layer4.0.conv2"):
        model.test_step(batch)

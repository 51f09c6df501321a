"""Whole models of Detectron2's zoo: laws 1 and 3 against the plain model and the masked one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("detectron2")

from detectron2.modeling import GeneralizedRCNN  # noqa: E402

import blockcopy_plugins as bc  # noqa: E402
from benchmarks.zoo import detectron2_models as models  # noqa: E402
from blockcopy_plugins.errors import ConfigError, FrameError  # noqa: E402
from blockcopy_plugins.integrations.detectron2 import MetaArchAdapter  # noqa: E402
from blockcopy_plugins.integrations.detectron2.adapter import upright_boxes  # noqa: E402
from tests.test_detectron2 import laws  # noqa: E402

MAPS, OUTPUTS = 2e-5, 2e-4
# Three box heads in a row, each of which pools where the one before has put the boxes.
OF_CASCADES = 1e-3
FAST = ("mask_rcnn_R_50_FPN", "faster_rcnn_R_50_C4", "retinanet_R_50_FPN")


@pytest.mark.parametrize(
    "name",
    [n if n in FAST else pytest.param(n, marks=pytest.mark.weekly) for n in models.ARCHITECTURES],
)
def test_all_sizes(name):
    model = models.build(models.config_of(name, small=True))
    keys = list(model.state_dict())
    for size in models.ARCHITECTURES[name].small_sizes:
        found = laws.check(model, size, block=64)
        assert found.law_1 < MAPS and found.law_3 < MAPS, found
        outputs = OF_CASCADES if name.startswith("cascade") else OUTPUTS
        assert found.law_1_outputs < outputs and found.law_3_outputs < outputs, found
        assert found.share >= 0.95, found
        assert found.moved > 0.05, "skipped blocks did not matter, so law 3 was not tested"
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize("name", [n for n in models.ARCHITECTURES if n not in FAST])
def test_one_size(name):
    model = models.build(models.config_of(name, small=True))
    found = laws.check(model, models.ARCHITECTURES[name].small_sizes[0], block=64)
    assert found.law_1 < MAPS and found.law_3 < MAPS, found
    outputs = OF_CASCADES if name.startswith("cascade") else OUTPUTS
    assert found.law_1_outputs < outputs and found.law_3_outputs < outputs, found
    assert found.share >= 0.95 and found.moved > 0.05, found


@pytest.fixture(scope="module")
def model():
    return models.build(models.config_of("mask_rcnn_R_50_FPN", small=True))


def test_nothing_changed_nothing_changes(model):
    frame = laws.frames((128, 192), 2)
    grids = iter([1.0, 0.0, 0.3, 0.7])

    def policy(pixels, context):
        rate = next(grids)
        return torch.rand(context.grid_shape) < rate

    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=64, policy=policy))
    try:
        first = model(frame[0])
        other = model(frame[1])  # nothing executed
        assert torch.equal(
            first[0]["instances"].pred_boxes.tensor, other[0]["instances"].pred_boxes.tensor
        )
        for _ in range(2):
            assert laws.output_deviation(model(frame[0]), first) < OUTPUTS
    finally:
        bc.restore_(model)


def test_restored_is_as_before(model):
    attributes = set(model.__dict__)
    hooks = len(model.backbone._forward_pre_hooks)
    frame = laws.frames((128, 192), 1)[0]
    with torch.no_grad():
        before = model(frame)
    bc.restore_(bc.blockcopy_(model, bc.BlockCopyConfig(block_size=64, policy="all")))
    assert set(model.__dict__) == attributes
    assert len(model.backbone._forward_pre_hooks) == hooks
    with torch.no_grad():
        assert laws.output_deviation(model(frame), before) == 0


def test_dense_beside_sparse_leaves_the_stream_alone(model):
    frames = laws.frames((128, 192), 3)
    with torch.no_grad():
        plain = model(frames[1])
    config = bc.BlockCopyConfig(block_size=64, policy="none")
    bc.blockcopy_(model, config)
    try:
        first = model(frames[0])
        with bc.handle(model).paused(), torch.no_grad():
            assert laws.output_deviation(model(frames[1]), plain) == 0
        assert laws.output_deviation(model(frames[2]), first) == 0
    finally:
        bc.restore_(model)


def test_streams_by_video_id(model):
    a, b, c = laws.frames((128, 192), 3)
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=64, policy="none"))
    try:
        with_ids = [
            [{**x[0], "video_id": v, "frame_id": f}]
            for x, v, f in ((a, 0, 0), (b, 1, 0), (c, 0, 1))
        ]
        first, _, third = (model(x) for x in with_ids)
        assert list(bc.handle(model).states.ids()) == [0, 1]
        assert laws.output_deviation(third, first) == 0  # of video 0, not of video 1
        model([{**b[0], "video_id": 0, "frame_id": 0}])  # starts again
        assert bc.handle(model).last.executed_rate == 1
    finally:
        bc.restore_(model)


def test_a_batch_of_two_streams(model):
    a, b = laws.frames((128, 192), 2)
    with torch.no_grad():
        wanted = model(a) + model(b)
    config = bc.BlockCopyConfig(block_size=64, policy="all", pack_whole_frames=True)
    bc.blockcopy_(model, config)
    try:
        assert laws.output_deviation(model([a[0], b[0]]), wanted) < OUTPUTS
    finally:
        bc.restore_(model)


def test_a_copy_has_its_own_state(model):
    a, b = laws.frames((128, 192), 2)
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=64, policy="none"))
    try:
        first = model(a)
        copied = copy.deepcopy(model)
        bc.reset_(copied)
        copied(b)
        assert laws.output_deviation(model(b), first) == 0
    finally:
        bc.restore_(model)


def test_what_the_policy_compares_is_at_the_scale_of_the_network(model):
    from detectron2.structures import Instances, RotatedBoxes

    (one,) = laws.frames((128, 192), 1)[0]
    inputs = [{**one, "height": 256, "width": 288}]  # an image that was larger
    adapter = MetaArchAdapter(model)
    call = adapter.read_call((inputs,), {})
    with torch.no_grad():
        found = adapter.task_outputs(model(inputs), call)[0]
        raw = model.inference(inputs, do_postprocess=False)[0]
    assert call.sizes == ((128, 192),) and found.size == tuple(call.frame.shape[2:])
    assert len(found) == len(raw) > 2
    assert torch.allclose(found.boxes, raw.pred_boxes.tensor, atol=1e-3)
    assert found.masks.shape[1:] == (32, 48)
    # Masks of the image, 2 x 1.5 times as large, on every fourth pixel of the network input.
    area = found.masks.flatten(1).sum(1) * 16 * 2 * 1.5
    with torch.no_grad():
        wanted = model(inputs)[0]["instances"].pred_masks.flatten(1).sum(1)
    large = wanted > 2000
    assert not large.any() or (area[large] / wanted[large] - 1).abs().max() < 0.2

    turned = Instances((100, 200), pred_boxes=RotatedBoxes(torch.tensor([[50.0, 40, 20, 10, 90]])))
    assert torch.allclose(upright_boxes(turned), torch.tensor([[45.0, 30, 55, 50]]), atol=1e-4)


def test_what_is_no_list_of_dicts_is_refused(model):
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=64, policy="all"))
    try:
        with pytest.raises(FrameError, match="list of dicts.*DatasetMapper"):
            model(torch.zeros(1, 3, 64, 64))
        with pytest.raises(FrameError, match=r"dicts with \['file_name'\]"):
            model([{"file_name": "x.png"}])
    finally:
        bc.restore_(model)


def test_augmentation_is_refused(model):
    from detectron2.modeling import GeneralizedRCNNWithTTA

    wrapped = GeneralizedRCNNWithTTA(models.config_of("mask_rcnn_R_50_FPN", small=True), model)
    with pytest.raises(ConfigError, match="GeneralizedRCNNWithTTA.*flipped and resized"):
        bc.blockcopy_(wrapped, bc.BlockCopyConfig(block_size=64))


def test_a_model_of_ones_own_is_taken_too():
    class Mine(GeneralizedRCNN):
        """A user's subclass."""

    model = models.build(models.config_of("mask_rcnn_R_50_FPN", small=True))
    model.__class__ = Mine
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=64, policy="all"))
    model(laws.frames((128, 192), 1)[0])
    assert bc.report(model).macs_dense > 0
    assert not any(isinstance(m, nn.Conv2d) and m.training for m in model.modules())

"""MGAN on blocks, its training and its parts; weights of Pedestron's: test_mgan_pedestron.py."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("mmdet")

from mmcv.cnn import VGG as MMCVVGG
from mmcv.transforms import Compose
from mmdet.registry import MODELS, TRANSFORMS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import PolygonMasks
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

import blockcopy_plugins as bc
from blockcopy_plugins.engine.macs import MacCounter
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
BLOCK = 32
NARROW = {
    "backbone": {"base_channels": 4, "init_cfg": None},
    "rpn_head": {"in_channels": 32, "feat_channels": 32},
    "roi_head": {
        "bbox_roi_extractor": {"out_channels": 32},
        "mgan_head": {"in_channels": 32, "conv_out_channels": 32},
        "bbox_head": {"in_channels": 32, "fc_out_channels": 64},
    },
    "rpn_head.anchor_generator": {"scales": [2.0, 4.0, 6.0]},
    "test_cfg": {"rpn": {"nms_pre": 100, "max_per_img": 30}},
}


def build(**changes) -> nn.Module:
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    config = Config.fromfile(ROOT / "configs/_base_/models/mgan_vgg16.py")
    config.merge_from_dict({f"model.{key}": value for key, value in {**NARROW, **changes}.items()})
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(config.model)
    model.init_weights()
    return model.eval()


@pytest.fixture()
def model():
    return build()


def frames(size, count=3):
    return [torch.randn(1, 3, *size) for _ in range(count)]


class Maps(nn.Module):
    """What runs before anything is decided by score."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, x):
        features = self.model.extract_feat(x)
        return features, self.model.rpn_head(features)


def run(model, plan, video, **options):
    grids = iter(plan)
    config = bc.BlockCopyConfig(block_size=BLOCK, policy=lambda f, c: next(grids), **options)
    bc.blockcopy_(model, config)
    outputs = [model(frame) for frame in video]
    report = bc.report(model)
    bc.restore_(model)
    return outputs, report


def tensors(outputs):
    for features, (scores, deltas) in outputs:
        yield from (*features, *scores, *deltas)


def close(found, wanted):
    for a, b in zip(tensors(found), tensors(wanted), strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


SIZES = [(96, 128), (90, 131), (77, 150)]


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_all_executed_is_dense(model, size):
    maps, video = Maps(model), frames(size)
    wanted = [maps(frame) for frame in video]
    shape = (1, math.ceil(size[0] / BLOCK), math.ceil(size[1] / BLOCK))
    plan = [torch.ones(shape, dtype=torch.bool)] * len(video)
    found, report = run(maps, plan, video, strict=True, pack_whole_frames=True)
    close(found, wanted)
    assert report.dense_ops == ()
    assert report.share_on_blocks == 1


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_any_grid_is_the_masked_reference(model, size):
    maps, video = Maps(model), frames(size, 4)
    shape = (1, math.ceil(size[0] / BLOCK), math.ceil(size[1] / BLOCK))
    plan = [torch.rand(shape) < rate for rate in (2, 0.5, 0.3, 0.6)]
    reference = MaskedReference(maps, BLOCK)
    wanted = [reference(grid, frame) for grid, frame in zip(plan, video, strict=True)]
    found, _ = run(maps, plan, video, strict=True)
    close(found, wanted)
    dense = maps(video[-1])[0][0]
    assert (found[-1][0][0] - dense).abs().max() > 0.1 * dense.abs().max()


def batch(size, scale=0.5):
    sample = DetDataSample()
    height, width = size
    sample.set_metainfo(
        {
            "img_shape": size,
            "ori_shape": (round(height / scale), round(width / scale)),
            "scale_factor": (scale, scale),
        }
    )
    return {"inputs": [torch.randint(0, 255, (3, *size)).byte()], "data_samples": [sample]}


@torch.no_grad()
def test_the_detector_with_all_blocks_is_the_detector(model):
    for parameter in model.rpn_head.parameters():
        parameter.mul_(30)  # Scores apart, so that rounding turns no order round.
    nn.init.normal_(model.roi_head.bbox_head.fc_cls.weight, std=1.0)
    batches = [batch((90, 130)) for _ in range(2)]
    wanted = [model.test_step(copy.deepcopy(b)) for b in batches]
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=BLOCK, policy="all", strict=True))
    for given, want in zip(batches, wanted, strict=True):
        a, b = model.test_step(given)[0].pred_instances, want[0].pred_instances
        assert len(b) >= 5
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(a.bboxes, b.bboxes, rtol=1e-3, atol=2e-2)
    assert bc.report(model).dense_ops == ()


@torch.no_grad()
def test_macs_of_a_frame_of_cityscapes():
    """By hand: kernel area x input x output channels, for each pixel of the output."""
    config = Config.fromfile(ROOT / "configs/_base_/models/mgan_vgg16.py")
    config.model.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(config.model).to("meta").eval()
    with MacCounter() as backbone:
        features = model.extract_feat(torch.empty(1, 3, 1024, 2048, device="meta"))
    with MacCounter() as rpn:
        model.rpn_head(features)
    pixels = 1024 * 2048
    layers = [(3, 64, 1), (64, 64, 1), (64, 128, 4), (128, 128, 4), (128, 256, 16)]
    layers += [(256, 256, 16)] * 2 + [(256, 512, 64)] + [(512, 512, 64)] * 5
    assert backbone.macs == sum(9 * i * o * (pixels // area) for i, o, area in layers)
    assert rpn.macs == (9 * 512 * 512 + 512 * 55) * (pixels // 64)


# What is visible.

INSTANCES = [
    {"bbox": [10, 20, 50, 90], "bbox_vis": [10, 20, 50, 52], "bbox_label": 0, "ignore_flag": 0},
    {"bbox": [60, 0, 70, 40], "bbox_vis": [60, 0, 70, 40], "bbox_label": 0, "ignore_flag": 1},
    {"bbox": [80, 30, 110, 70], "bbox_label": 0, "ignore_flag": 0},
]


def image_results():
    image = np.zeros((100, 120, 3), np.uint8)
    return {
        "img": image,
        "img_shape": image.shape[:2],
        "ori_shape": image.shape[:2],
        "instances": copy.deepcopy(INSTANCES),
    }


def pipeline(*steps):
    load = [
        {"type": "mmdet.LoadAnnotations", "with_bbox": True},
        {"type": "blockcopy_plugins.LoadVisibleBoxes"},
    ]
    made = [TRANSFORMS.build(step) for step in (*load, *steps, {"type": "mmdet.PackDetInputs"})]
    return Compose(made)(image_results())["data_samples"]


def corners(masks: PolygonMasks):
    boxes = [np.reshape(polygons[0], (4, 2)) for polygons in masks.masks]
    return [[*box.min(0), *box.max(0)] for box in boxes]


def test_visible_boxes_follow_resizes_and_flips():
    sample = pipeline(
        {"type": "mmdet.Resize", "scale": (240, 200), "keep_ratio": True},
        {"type": "mmdet.RandomFlip", "prob": 1.0},
    )
    # Twice as large, and x counted from the other side of 240 px; without a visible box, all of it.
    assert corners(sample.gt_instances.masks) == [[140, 40, 220, 104], [20, 60, 80, 140]]
    assert sample.gt_instances.bboxes.tensor[0].tolist() == [140, 40, 220, 180]
    assert corners(sample.ignored_instances.masks) == [[100, 0, 120, 80]]


def test_visible_boxes_go_with_instances_that_are_dropped():
    sample = pipeline({"type": "mmdet.FilterAnnotations", "min_gt_bbox_wh": (35, 10)})
    assert corners(sample.gt_instances.masks) == [[10, 20, 50, 52]]
    assert len(sample.gt_instances.bboxes) == 1


class Sampled:
    """What the attention's targets read of a sampling result."""

    def __init__(self, boxes, persons):
        self.pos_priors = torch.tensor(boxes, dtype=torch.float32)
        self.pos_assigned_gt_inds = torch.tensor(persons)


def test_mask_targets_by_hand(model):
    masks = pipeline().gt_instances.masks
    # Cells of 10 px: the person's visible part, x 10..50 and y 20..52, has the centres 15..45 and
    # 25..45 in it. The second region is the same of the person who is all visible, x 80..110.
    regions = Sampled([[0, 0, 70, 70], [50, 0, 120, 70]], [0, 1])
    targets = model.roi_head.mgan_head.targets([regions], [masks])
    wanted = torch.zeros(2, 7, 7)
    wanted[0, 2:5, 1:5] = 1
    wanted[1, 3:7, 3:6] = 1
    assert torch.equal(targets, wanted)


@pytest.mark.parametrize("configured", [True, False])
def test_losses_by_hand(model, configured):
    from blockcopy_plugins.models.mgan import MGANHead

    # MMSegmentation has a CrossEntropyLoss too, which knows no masks.
    with DefaultScope.overwrite_default_scope("mmseg"):
        plain = MGANHead(in_channels=4, conv_out_channels=4)
    head = model.roi_head.mgan_head if configured else plain
    targets = torch.zeros(2, 7, 7)
    targets[0] = 1
    targets[1, :, :1] = 1  # One of seven columns: 6/7 occluded.
    logits = torch.full((2, 1, 7, 7), 2.0)
    cls_score = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    losses = head.loss(logits, targets, cls_score, torch.zeros(2, dtype=torch.long))
    seen, hidden = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    mask = (seen + (seen + 6 * hidden) / 7) / 2
    assert losses["loss_mask"].item() == pytest.approx(0.5 * mask, rel=1e-5)
    missed = math.log1p(math.exp(3))
    assert losses["loss_occ"].item() == pytest.approx(6 / 7 * missed / 2, rel=1e-5)


def test_no_positive_region_costs_nothing(model):
    head = model.roi_head.mgan_head
    empty = torch.zeros(0, 1, 7, 7, requires_grad=True)
    losses = head.loss(empty, torch.zeros(0, 7, 7), torch.zeros(0, 2), torch.zeros(0).long())
    assert [loss.item() for loss in losses.values()] == [0, 0]


def test_attention_multiplies_by_the_mask():
    x = torch.randn(2, 32, 7, 7)
    for attends in ("hidden", "rois"):
        head = build(**{"roi_head.mgan_head.attends": attends}).roi_head.mgan_head
        with torch.no_grad():
            head.conv_logits.weight.zero_()
            head.conv_logits.bias.fill_(math.log(3))  # A mask of 3/4.
            features, logits = head(x)
            attended = x if attends == "rois" else head.convs[1](head.convs[0](x))
        torch.testing.assert_close(features, 0.75 * attended)
        assert logits.shape == (2, 1, 7, 7)


# Training.


def training_batch(visible=True):
    draw = torch.Generator().manual_seed(1)
    image = torch.randint(0, 40, (3, 96, 128), generator=draw)
    boxes = torch.tensor([[20.0, 16, 44, 76], [80, 24, 104, 84]])
    image[:, 16:76, 20:44] += 150
    image[:, 24:58, 80:104] += 150  # Of the seven rows of a region, three are hidden.
    persons = InstanceData(bboxes=boxes, labels=torch.zeros(2, dtype=torch.long))
    if visible:
        seen = [[20, 16, 44, 16, 44, 76, 20, 76], [80, 24, 104, 24, 104, 58, 80, 58]]
        persons.masks = PolygonMasks([[np.array(x, np.float32)] for x in seen], 96, 128)
    size = {"img_shape": (96, 128), "ori_shape": (96, 128), "scale_factor": (1.0, 1.0)}
    sample = DetDataSample(metainfo=size, gt_instances=persons)
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
    return {"inputs": [image.byte()], "data_samples": [sample]}


def test_losses_fall_and_the_mask_learns_what_is_visible():
    model = build(
        **{
            "backbone.frozen_stages": -1,
            "train_cfg.rpn_proposal": {"nms_pre": 100, "max_per_img": 50},
        }
    ).train()
    optimizer = build_optim_wrapper(
        model, {"optimizer": {"type": "Adam", "lr": 5e-4}, "type": "OptimWrapper"}
    )
    history = []
    for _ in range(25):
        history.append(model.train_step(copy.deepcopy(training_batch()), optimizer))
    names = {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask", "loss_occ"}
    assert names < set(history[0])
    assert all(torch.isfinite(value).all() for losses in history for value in losses.values())
    for name in ("loss", "loss_mask", "loss_cls"):
        early = sum(losses[name].item() for losses in history[:5])
        late = sum(losses[name].item() for losses in history[-5:])
        assert late < 0.7 * early, name
    # The person half hidden: the mask is on in the upper half and off in the lower one.
    model.eval()
    with torch.no_grad():
        data = model.data_preprocessor(training_batch(), False)
        features = model.extract_feat(data["inputs"])
        found = model.roi_head._bbox_forward(features, torch.tensor([[0.0, 80, 24, 104, 84]]))
    mask = found["visible_logits"].sigmoid()[0, 0]
    assert mask[:3].mean() > 0.6 and mask[4:].mean() < 0.4


def test_losses_of_the_second_stage_by_hand():
    model = build().train()
    data = model.data_preprocessor(training_batch(), True)
    features = model.extract_feat(data["inputs"])
    # Both persons, one of them not quite, and what is none. Persons are sampled once more as such.
    boxes = [[20.0, 16, 44, 76], [80, 24, 106, 84], [0, 0, 18, 30]]
    persons = data["data_samples"][0].gt_instances.bboxes.tolist()
    losses = model.roi_head.loss(
        features, [InstanceData(bboxes=torch.tensor(boxes))], data["data_samples"]
    )
    positive = torch.tensor([[0.0, *box] for box in (*persons, *boxes[:2])])
    found = model.roi_head._bbox_forward(features, positive)
    missed = -found["cls_score"].log_softmax(1)[:, 0]
    # Of the larger region's seven columns, the last has its centre beyond the person.
    hidden = torch.tensor([0, 3 / 7, 0, 1 - 24 / 49])
    torch.testing.assert_close(losses["loss_occ"], (hidden * missed).mean())
    seen = torch.ones(4, 1, 7, 7)
    seen[1::2, :, 4:] = 0
    seen[3, :, :, 6] = 0
    mask = found["visible_logits"].sigmoid()
    wanted = -(seen * mask.log() + (1 - seen) * (1 - mask).log()).mean()
    torch.testing.assert_close(losses["loss_mask"].squeeze(), 0.5 * wanted)


def test_training_without_visible_parts_says_what_to_do(model):
    model.train()
    data = model.data_preprocessor(training_batch(visible=False), True)
    with pytest.raises(ConfigError, match="LoadVisibleBoxes"):
        model(**data, mode="loss")


def test_an_image_without_persons_trains():
    model = build().train()
    batch = training_batch()
    batch["data_samples"][0].gt_instances = batch["data_samples"][0].gt_instances[:0]
    data = model.data_preprocessor(batch, True)
    losses = model(**data, mode="loss")
    assert losses["loss_mask"] == 0 and losses["loss_occ"] == 0
    assert torch.isfinite(losses["loss_cls"])


# The parts.


def test_vgg_is_mmcvs_vgg_where_all_stages_pool():
    from blockcopy_plugins.models.mgan import VGG

    ours = VGG(11, out_indices=(2, 4), with_bn=True).eval()
    theirs = MMCVVGG(11, out_indices=(2, 4), with_bn=True, ceil_mode=True)
    theirs.eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 75, 90)
    with torch.no_grad():
        for a, b in zip(ours(x), theirs(x), strict=True):
            assert torch.equal(a, b)


def test_frozen_stages_are_not_trained():
    from blockcopy_plugins.models.mgan import VGG

    vgg = VGG(16, base_channels=4, frozen_stages=2).train()
    frozen = {name.split(".")[1] for name, p in vgg.named_parameters() if not p.requires_grad}
    assert frozen == {"0", "2", "5", "7"}


def test_batch_norms_keep_their_statistics_in_training():
    from blockcopy_plugins.models.mgan import VGG

    for norm_eval in (True, False):
        vgg = VGG(11, base_channels=4, with_bn=True, norm_eval=norm_eval).train()
        norms = [m for m in vgg.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms and all(norm.training != norm_eval for norm in norms)


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"depth": 17}, "depth is 17"),
        ({"strides": (2, 2, 2, 1)}, "strides is"),
        ({"strides": (2, 2, 2, 1, 4)}, "strides is"),
        ({"out_indices": (5,)}, "out_indices is"),
        ({"frozen_stages": 6}, "frozen_stages is 6"),
    ],
)
def test_a_wrong_vgg_is_an_error(wrong, says):
    from blockcopy_plugins.models.mgan import VGG

    with pytest.raises(ConfigError, match=says):
        VGG(**wrong)


def test_a_wrong_attention_or_extractor_is_an_error():
    from blockcopy_plugins.models.mgan import InclusiveRoIExtractor, MGANHead

    with pytest.raises(ConfigError, match="attends is 'both'"):
        MGANHead(attends="both")
    aligned = {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 2}
    with pytest.raises(ConfigError, match="featmap_strides"):
        InclusiveRoIExtractor(aligned, 8, [4, 8])
    with pytest.raises(ConfigError, match="aligned=True"):
        InclusiveRoIExtractor({**aligned, "aligned": False}, 8, [8])


def test_box_deltas_by_hand():
    from blockcopy_plugins.models.mgan import InclusiveDeltaXYWHBBoxCoder

    coder = InclusiveDeltaXYWHBBoxCoder(target_stds=(0.1, 0.1, 0.2, 0.2))
    # Columns 10 to 19 are ten, centre 14.5; rows 20 to 39 are twenty, centre 29.5.
    box, target = torch.tensor([[10.0, 20, 19, 39]]), torch.tensor([[12.0, 20, 31, 39]])
    deltas = coder.encode(box, target)
    wanted = torch.tensor([[(21.5 - 14.5) / 10 / 0.1, 0, math.log(2) / 0.2, 0]])
    torch.testing.assert_close(deltas, wanted)
    torch.testing.assert_close(coder.decode(box, deltas), target)
    two = coder.decode(box, torch.cat([deltas, torch.zeros(1, 4)], 1), max_shape=(35, 30))
    torch.testing.assert_close(two, torch.tensor([[12.0, 20, 29, 34, 10, 20, 19, 34]]))

"""What models of Detectron2 keep, by kernels: beside the framework's own functions."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.layers import batched_nms  # noqa: E402
from detectron2.modeling import detector_postprocess  # noqa: E402
from detectron2.structures import Boxes, Instances  # noqa: E402

import blockcopy_plugins as bc  # noqa: E402
from benchmarks.zoo import detectron2_models as models  # noqa: E402
from blockcopy_plugins.engine.conv import region_convolution  # noqa: E402
from blockcopy_plugins.integrations.common.rebound_methods import StandIn  # noqa: E402
from blockcopy_plugins.integrations.detectron2 import box_selection, mask_pasting  # noqa: E402
from blockcopy_plugins.ops import library  # noqa: E402
from tests.test_detectron2 import laws  # noqa: E402

ALL = bc.BlockCopyConfig(block_size=64, policy="all")
KERNELS = ("top_scores", "suppress_boxes", "paste_masks")
NAMES = ("mask_rcnn_R_50_FPN", "retinanet_R_50_FPN", "panoptic_fpn_R_50")

pytestmark = pytest.mark.skipif(
    not library.has_kernel("suppress_boxes", "cpu"), reason="there are no compiled kernels"
)


@pytest.fixture(scope="module")
def pristine():
    return {name: models.build(models.config_of(name, small=True)) for name in NAMES}


def stand_ins(model):
    return [v for owner in model.modules() for v in vars(owner).values() if isinstance(v, StandIn)]


def fields(outputs):
    """Of all instances; boxes as tensors."""
    found = [(k, v) for one in outputs for k, v in one["instances"].get_fields().items()]
    return [(name, getattr(value, "tensor", value)) for name, value in found]


@pytest.mark.parametrize("name", NAMES)
def test_results_are_bit_for_bit_those_of_the_framework(pristine, monkeypatch, name):
    model, other = (copy.deepcopy(pristine[name]) for _ in range(2))
    bc.blockcopy_(model, ALL)
    assert len(stand_ins(model)) >= 2
    has = library.has_kernel
    monkeypatch.setattr(library, "has_kernel", lambda n, d: n not in KERNELS and has(n, d))
    bc.blockcopy_(other, ALL)
    # What is left does not select.
    names = {type(each).__name__ for each in stand_ins(other)}
    assert names <= {"ChannelsLastRoIAlign", "RepeatedRegions"}
    for frame in laws.frames((160, 225), 2):
        # Results at another size than the network's input.
        frame[0] |= {"height": 130, "width": 180}
        found, wanted = fields(model(frame)), fields(other(frame))
        assert len(found) == len(wanted) >= 3
        for (field, a), (_, b) in zip(found, wanted, strict=True):
            assert len(b) >= 3, "with no detections this would say nothing"
            assert a.dtype == b.dtype and a.shape == b.shape, field
            # Of masks a pixel may lie at the threshold, where rounding decides.
            assert (a != b).sum() <= (2 if field == "pred_masks" else 0), field


def test_a_restored_model_has_its_own_methods_again(pristine):
    model = copy.deepcopy(pristine["mask_rcnn_R_50_FPN"])
    bc.blockcopy_(model, ALL)
    twin = copy.deepcopy(model)
    read = pickle.loads(pickle.dumps(model))
    for other in (twin, read):
        pairs = zip(stand_ins(other), stand_ins(model), strict=True)
        assert all(a.owner is not b.owner for a, b in pairs)
    bc.restore_(model)
    assert not stand_ins(model) and stand_ins(twin) and stand_ins(read)


def test_raw_results_stay_those_of_the_model(pristine):
    model = copy.deepcopy(pristine["mask_rcnn_R_50_FPN"])
    (frame,) = laws.frames((128, 192), 1)
    with torch.no_grad():
        (wanted,) = model.inference(frame, do_postprocess=False)
        bc.blockcopy_(model, ALL)
        (found,) = model.inference(frame, do_postprocess=False)
    assert type(found.pred_masks) is torch.Tensor
    torch.testing.assert_close(found.pred_masks, wanted.pred_masks, atol=1e-4, rtol=0)


@pytest.mark.parametrize("most", [7, 60, 100_000])
def test_proposals_are_those_of_the_network(pristine, most):
    model = copy.deepcopy(pristine["mask_rcnn_R_50_FPN"])
    rpn = model.proposal_generator
    rpn.pre_nms_topk[False] = most
    draw = torch.Generator().manual_seed(0)
    corner = 100 * torch.rand(2, 150, 2, generator=draw)
    anchors = [Boxes(torch.cat((one, one + 30), 1)) for one in corner]
    logits = [torch.randn(2, 150, generator=draw) for _ in anchors]
    deltas = [0.3 * torch.randn(2, 150, 4, generator=draw) for _ in anchors]
    given = anchors, logits, deltas, [(96, 128), (90, 100)]
    wanted = rpn.predict_proposals(*given)
    bc.blockcopy_(model, ALL)
    for a, b in zip(rpn.predict_proposals(*given), wanted, strict=True):
        assert len(b) >= 5 and a.image_size == b.image_size
        assert torch.equal(a.objectness_logits, b.objectness_logits)
        assert torch.equal(a.proposal_boxes.tensor, b.proposal_boxes.tensor)


# torchvision keeps classes apart in another way above 1000 boxes.
@pytest.mark.parametrize("count", [0, 1, 400, 1500])
def test_suppression_is_torchvisions(count):
    draw = torch.Generator().manual_seed(2)
    corner = 100 * torch.rand(count, 2, generator=draw)
    boxes = torch.cat((corner, corner + 30), 1)
    scores = torch.rand(count, generator=draw)
    labels = torch.randint(0, 3, (count,), generator=draw)
    found = box_selection.batched_nms(boxes, scores, labels, 0.5)
    assert torch.equal(found, batched_nms(boxes, scores, labels, 0.5))
    assert len(found) < count or count < 2
    # The kernel refuses what requires grad; the framework does not.
    assert torch.equal(
        found, box_selection.batched_nms(boxes, scores.requires_grad_(), labels, 0.5)
    )


@pytest.mark.parametrize("threshold", [0.5, -1])
@pytest.mark.parametrize("count", [0, 6])
def test_masks_are_pasted_as_by_the_framework(count, threshold):
    draw = torch.Generator().manual_seed(3)
    corner = torch.rand(count, 2, generator=draw) * torch.tensor([90.0, 60.0])
    boxes = torch.cat((corner, corner + 40 * torch.rand(count, 2, generator=draw)), 1)
    if count:
        boxes[1, 2:] = boxes[1, :2]  # nothing remains of it
    masks = torch.rand(count, 1, 28, 28, generator=draw)

    def instances():
        return Instances((80, 100), pred_boxes=Boxes(boxes.clone()), pred_masks=masks)

    found = mask_pasting.postprocess(instances(), 160, 150, threshold)
    wanted = detector_postprocess(instances(), 160, 150, threshold)
    assert len(found) == len(wanted) == max(count - 1, 0)
    assert found.pred_masks.dtype == wanted.pred_masks.dtype
    assert torch.equal(found.pred_masks, wanted.pred_masks)


def test_convolutions_of_regions_run_by_the_kernel(monkeypatch):
    """Detectron2 wraps its convolutions in a class of its own, with norm and activation."""
    cfg = models.config_of("mask_rcnn_R_50_FPN", small=True)
    cfg.merge_from_list(["MODEL.ROI_MASK_HEAD.CONV_DIM", 64, "MODEL.ROI_MASK_HEAD.NORM", "BN"])
    model = models.build(cfg)
    layers = list(model.roi_heads.mask_head)
    conv_blocks, regions, kept = region_convolution.ops.conv_blocks, [], []

    def watched(x, *rest):
        regions.append(tuple(x.shape[1:]))
        return conv_blocks(x, *rest)

    monkeypatch.setattr(region_convolution.ops, "conv_blocks", watched)
    bc.blockcopy_(model, ALL)
    for layer in (layers[0], layers[3]):
        layer.register_forward_hook(lambda m, args, out: kept.append((args[0].clone(), out)))
    with torch.no_grad():
        model(*laws.frames((128, 192), 1))
        assert regions.count((64, 14, 14)) == 3  # too little work in the first, of 16 channels
        bc.restore_(model)
        x, wanted = kept[0][0], kept[1][1]
        for layer in layers[:4]:
            x = layer(x)
    torch.testing.assert_close(wanted, x, atol=1e-4 * x.abs().max().item(), rtol=0)

"""What detectors of MMDetection keep, by kernels: beside the framework's own functions."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import blockcopy_plugins as bc
from blockcopy_plugins.integrations.common.rebound_methods import StandIn
from blockcopy_plugins.ops import library

BLOCK = 32
ALL = bc.BlockCopyConfig(block_size=BLOCK, policy="all")
KERNELS = ("top_scores", "suppress_boxes", "paste_masks")

pytestmark = pytest.mark.skipif(
    not library.has_kernel("suppress_boxes", "cpu"), reason="there are no compiled kernels"
)


def without_kernels(monkeypatch):
    """Detectors that are converted from now on run what follows heads by the framework."""
    has = library.has_kernel
    monkeypatch.setattr(library, "has_kernel", lambda n, d: n not in KERNELS and has(n, d))


def fields(samples):
    return [(n, v) for s in samples for n, v in s.pred_instances.items()]


def run(model, tiny, sizes=((96, 128), (100, 150))):
    found = []
    with torch.no_grad():
        for seed, size in enumerate(sizes):
            bc.reset_(model)
            found += fields(model.test_step(tiny.batch([tiny.picture(size, seed)], scale=[0.5])))
    return found


def stand_ins(model):
    owners = list(model.modules())
    owners += [vars(m)["prior_generator"] for m in owners if "prior_generator" in vars(m)]
    return [v for owner in owners for v in vars(owner).values() if isinstance(v, StandIn)]


@pytest.mark.parametrize("kind", ["MaskRCNN", "RetinaHead", "FCOSHead"])
def test_results_are_bit_for_bit_those_of_the_framework(tiny, monkeypatch, kind):
    config = tiny.mask_rcnn() if kind == "MaskRCNN" else tiny.one_stage(kind)
    model = tiny.build(config)
    other = copy.deepcopy(model)
    bc.blockcopy_(model, ALL)
    assert stand_ins(model)
    without_kernels(monkeypatch)
    bc.blockcopy_(other, ALL)
    # What is left does not select.
    names = {type(each).__name__ for each in stand_ins(other)}
    pooling = {"ChannelsLastExtractor", "ChannelsLastRoIAlign"}
    assert names <= {"KeptPriors", "NotedPreprocessing", "RepeatedRegions"} | pooling
    found, wanted = (run(m, tiny, ((96, 128), (96, 128), (100, 150))) for m in (model, other))
    assert len(found) == len(wanted) >= 9
    for (name, a), (_, b) in zip(found, wanted, strict=True):
        assert len(b) >= 3, "with no detections this would say nothing"
        assert torch.equal(a, b), name


def test_dense_calls_use_nothing_of_ours(tiny, monkeypatch):
    model = tiny.build(tiny.mask_rcnn())
    batch = tiny.batch([tiny.picture((96, 128), 0)], scale=[0.5])
    with torch.no_grad():
        wanted = fields(model.test_step(copy.deepcopy(batch)))
    bc.blockcopy_(model, ALL)

    def refuse(*args, **kwargs):
        raise AssertionError("a dense call ran a replacement")

    for each in stand_ins(model):
        monkeypatch.setattr(each, "replacement", refuse)
    with torch.no_grad(), bc.dense(model):
        found = fields(model.test_step(copy.deepcopy(batch)))
    for (name, a), (_, b) in zip(found, wanted, strict=True):
        assert len(b) >= 3 and torch.equal(a, b), name
    with torch.no_grad(), pytest.raises(AssertionError, match="ran a replacement"):
        model.test_step(copy.deepcopy(batch))


def test_a_plain_frame_selects_by_the_kernels(tiny, monkeypatch):
    """It is a frame of the converted model; only the layers on blocks run as they were."""
    model = tiny.build(tiny.mask_rcnn())
    policy = dict(type="EveryNthFramePolicy", n=1)
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=BLOCK, policy=policy))
    converted, used = bc.handle(model).converted, []
    for each in stand_ins(model):
        own = each.replacement

        def noted(*args, each=each, own=own, **kwargs):
            used.extend([type(each).__name__] * converted.plain.get())
            return own(*args, **kwargs)

        monkeypatch.setattr(each, "replacement", noted)
    with torch.no_grad():
        for seed in range(5):
            model.test_step(tiny.batch([tiny.picture((96, 128), seed)]))
    assert bc.report(model).plain_frames
    assert {"RankedProposals", "PastedMasks"} <= set(used)


def test_a_restored_model_has_its_own_methods_again(tiny):
    model = tiny.build(tiny.mask_rcnn())
    bc.blockcopy_(model, ALL)
    twin = copy.deepcopy(model)
    assert all(
        each.owner is not other.owner
        for each, other in zip(stand_ins(twin), stand_ins(model), strict=True)
    )
    bc.restore_(model)
    assert not stand_ins(model) and stand_ins(twin)


def test_a_pickled_detector_selects_as_before(tiny):
    model = tiny.build(tiny.mask_rcnn())
    bc.blockcopy_(model, ALL)
    wanted = run(model, tiny)
    twin = pickle.loads(pickle.dumps(model))
    assert len(stand_ins(twin)) == len(stand_ins(model))
    assert not {id(each.owner) for each in stand_ins(twin)} & set(map(id, model.modules()))
    for (name, a), (_, b) in zip(run(twin, tiny), wanted, strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("most", [-1, 5, 40, 100_000])
@pytest.mark.parametrize("sigmoid", [True, False])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_proposals_are_those_of_the_head(tiny, most, sigmoid, form):
    config = tiny.mask_rcnn()
    config["rpn_head"]["loss_cls"] = dict(type="CrossEntropyLoss", use_sigmoid=sigmoid)
    config["test_cfg"]["rpn"]["nms_pre"] = most
    model = tiny.build(config)
    head = model.rpn_head
    draw = torch.Generator().manual_seed(0)
    sizes = [(24, 32), (12, 16), (6, 8), (1, 1)]
    maps = [
        [torch.randn(2, c, *size, generator=draw).contiguous(memory_format=form) for size in sizes]
        for c in (head.num_base_priors * head.cls_out_channels, 4 * head.num_base_priors)
    ]
    infos = [{"img_shape": (96, 128)}, {"img_shape": (90, 100)}]
    with torch.no_grad():
        wanted = head.predict_by_feat(*maps, batch_img_metas=infos)
        bc.blockcopy_(model, ALL)
        found = head.predict_by_feat(*maps, batch_img_metas=infos)
    for a, b in zip(found, wanted, strict=True):
        assert len(b) >= 5
        assert torch.equal(a.scores, b.scores)
        assert torch.equal(a.bboxes, b.bboxes) and torch.equal(a.labels, b.labels)


@pytest.mark.parametrize("topk", [0, 7, 10_000])
@pytest.mark.parametrize("given", ["dict", "nothing", "list"])
def test_scores_are_selected_as_by_mmdet(tiny, topk, given):
    from mmdet.models.utils import filter_scores_and_topk

    from blockcopy_plugins.integrations.mmdet.box_selection import select_scores

    draw = torch.Generator().manual_seed(1)
    scores = torch.rand(300, 5, generator=draw)
    boxes = torch.rand(300, 4, generator=draw)
    results = {"dict": dict(boxes=boxes), "nothing": None, "list": [boxes]}[given]
    found = select_scores(scores, 0.6, topk, results)
    wanted = filter_scores_and_topk(scores, 0.6, topk, results)
    for a, b in zip(found[:3], wanted[:3], strict=True):
        assert torch.equal(a, b) and a.dtype == b.dtype
    if given == "dict":
        assert torch.equal(found[3]["boxes"], wanted[3]["boxes"])
    if given == "list":
        assert torch.equal(found[3][0], wanted[3][0])


@pytest.mark.parametrize(
    "options",
    [
        dict(type="nms", iou_threshold=0.5),
        dict(type="nms", iou_threshold=0.5, class_agnostic=True),
        dict(type="nms", iou_threshold=0.5, split_thr=100),
        dict(type="nms", iou_threshold=0.5, score_threshold=0.3, max_num=20),
        dict(iou_thr=0.5),
        dict(type="soft_nms", iou_threshold=0.5),
        None,
    ],
)
def test_all_kinds_of_suppression_are_mmcvs(tiny, options):
    from mmcv.ops import batched_nms

    from blockcopy_plugins.integrations.mmdet.box_selection import _batched_nms

    draw = torch.Generator().manual_seed(2)
    corner = 100 * torch.rand(400, 2, generator=draw)
    boxes = torch.cat((corner, corner + 30), 1)
    scores = (30 * torch.rand(400, generator=draw)).round() / 30
    labels = torch.randint(0, 3, (400,), generator=draw)
    found = _batched_nms(boxes, scores, labels, options)
    wanted = batched_nms(boxes, scores, labels, options)
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])


def test_priors_are_made_again_when_they_are_others(tiny):
    model = tiny.build(tiny.one_stage("RetinaHead"))
    generator = model.bbox_head.prior_generator
    sizes, others = [(4, 6), (2, 3), (1, 2), (1, 1)], [(5, 6), (3, 3), (2, 2), (1, 1)]

    def own(sizes):
        return type(generator).grid_priors(generator, sizes, device="cpu")

    def same(found, wanted):
        return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))

    bc.blockcopy_(model, ALL)
    with torch.inference_mode():
        first = generator.grid_priors(sizes, device="cpu")
        again = generator.grid_priors(sizes, device="cpu")
        assert same(first, own(sizes)) and first[0] is again[0] and first is not again
        assert same(generator.grid_priors(others, device="cpu"), own(others))
    written = generator.grid_priors(sizes, device="cpu")
    written[1][0] = 7.0
    assert same(generator.grid_priors(sizes, device="cpu"), own(sizes))
    generator.base_anchors[0].add_(1)
    assert same(generator.grid_priors(sizes, device="cpu"), own(sizes))
    generator.base_anchors = [2 * each for each in generator.base_anchors]
    assert same(generator.grid_priors(sizes, device="cpu"), own(sizes))


@pytest.mark.parametrize("kind", ["MaskRCNN", "RetinaHead", "FCOSHead"])
def test_maps_that_are_only_read_give_the_results_of_copies(tiny, monkeypatch, kind):
    from blockcopy_plugins.integrations.mmdet import DetectorAdapter

    config = tiny.mask_rcnn() if kind == "MaskRCNN" else tiny.one_stage(kind)
    model = tiny.build(config)
    other = copy.deepcopy(model)
    head = model.rpn_head if kind == "MaskRCNN" else model.bbox_head
    assert DetectorAdapter().outputs_are_read(head)
    draw = torch.Generator().manual_seed(0)
    grids = [torch.rand(1, 3, 4, generator=draw) < 0.5 for _ in range(5)]
    for each in (model, other):
        taken = iter([torch.ones(1, 3, 4, dtype=torch.bool), *grids])
        policy = lambda frame, state, taken=taken: next(taken)  # noqa: E731
        bc.blockcopy_(each, bc.BlockCopyConfig(block_size=BLOCK, policy=policy))
        monkeypatch.setattr(DetectorAdapter, "outputs_are_read", lambda *_: False)
    pictures = [tiny.picture((96, 128), seed) for seed in range(6)]
    for picture in pictures:
        with torch.no_grad():
            found, wanted = (fields(m.test_step(tiny.batch([picture]))) for m in (model, other))
        for (name, a), (_, b) in zip(found, wanted, strict=True):
            assert len(b) and torch.equal(a, b), name


def test_maps_that_somebody_sees_stay_as_they_were(tiny):
    model = tiny.build(tiny.one_stage("RetinaHead"))
    bc.blockcopy_(model, ALL)
    seen = []
    model.bbox_head.register_forward_hook(lambda module, args, maps: seen.append(maps[0][0]))
    with torch.no_grad():
        model.test_step(tiny.batch([tiny.picture((96, 128), 0)]))
        before = seen[0].clone()
        model.test_step(tiny.batch([tiny.picture((96, 128), 1)]))
        raw = model(torch.randn(1, 3, 96, 128), mode="tensor")[0][0]
        kept = raw.clone()
        model.test_step(tiny.batch([tiny.picture((96, 128), 2)]))
    assert torch.equal(seen[0], before) and not torch.equal(seen[1], before)
    assert torch.equal(raw, kept)

"""Results of whole detectors and segmentors that are copied or moved from frame to frame."""

from __future__ import annotations

import copy

import pytest
import torch

import blockcopy_plugins as bc
from blockcopy_plugins.policy import EveryNthFramePolicy, Policy

BLOCK, SIZE = 32, (96, 128)


class Dictated(Policy):
    def __init__(self, *rates) -> None:
        self.rates = list(rates)

    def select(self, frame, context):
        return torch.rand(context.grid_shape) < self.rates.pop(0)


def moved_by(x, y):
    return lambda frame, context: [(x, y)] * len(frame)


def convert(model, policy, **options):
    return bc.blockcopy_(model, bc.BlockCopyConfig(block_size=BLOCK, policy=policy, **options))


def count_calls(model):
    calls = []
    model.backbone.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.fixture(scope="module")
def pristine(tiny):
    return tiny.build(tiny.mask_rcnn())


@pytest.fixture()
def detector(pristine):
    return copy.deepcopy(pristine)


def batches(maker, frames, scale=0.5, images=1):
    return [
        maker.batch(
            [maker.picture(SIZE, 10 * image + seed) for image in range(images)],
            scale=[scale] * images,
            video_id=list(range(images)),
            frame_id=[seed] * images,
        )
        for seed in range(frames)
    ]


@pytest.mark.parametrize("propagate", ["copy", "move"])
def test_a_frame_of_nothing_gives_the_last_detections_again(detector, tiny, propagate):
    calls = count_calls(detector)
    options = dict(propagate="move", motion=moved_by(0, 0)) if propagate == "move" else {}
    model = convert(detector, Dictated(2, 0, 0, 0.5, 0, 0), **options)
    results = []
    for index, batch in enumerate(batches(tiny, 6)):
        found = model.test_step(batch)[0]
        assert found.metainfo["frame_id"] == index
        results.append(copy.deepcopy(found.pred_instances))
        # The caller's own.
        found.pred_instances.bboxes.zero_()
        found.pred_instances.masks.zero_()
    for same, other in [(0, 1), (0, 2), (3, 4), (3, 5)]:
        one, two = results[same], results[other]
        assert len(one) >= 3 and one.masks.any() and set(one.keys()) == set(two.keys())
        for name in one.keys():
            assert torch.equal(one[name], two[name]), name
    assert len(calls) == (3 if propagate == "copy" else 2)


def test_a_pipeline_that_changes_goes_through_the_network(detector, tiny):
    calls = count_calls(detector)
    model = convert(detector, Dictated(2, 0, 0, 0, 0))
    for index, scale in enumerate([0.5, 0.5, 0.5, 0.25, 0.25]):
        batch = batches(tiny, index + 1, scale)[-1]
        found = model.test_step(batch)[0]
        height = round(SIZE[0] / scale)
        assert found.pred_instances.masks.shape[1] == height
    assert len(calls) == 3


def test_boxes_and_masks_of_a_detector_move(detector, tiny):
    """The picture at the network is half the original: 4 px there are 8 px of the results."""
    model = convert(detector, EveryNthFramePolicy(5), propagate="move", motion=moved_by(4, -2))
    results = [model.test_step(batch)[0].pred_instances for batch in batches(tiny, 3)]
    first, *rest = results
    assert len(first) >= 3
    limits = torch.tensor([2 * SIZE[1], 2 * SIZE[0]] * 2)
    for age, later in enumerate(rest, 1):
        moved = first.bboxes + torch.tensor([8.0, -4, 8, -4]) * age
        there = (moved[:, 2:] > 0).all(1) & (
            moved[:, :2] < torch.tensor([2 * SIZE[1], 2 * SIZE[0]])
        ).all(1)
        assert torch.equal(later.bboxes, moved[there].clamp_min(0).minimum(limits))
        torch.testing.assert_close(later.scores, first.scores[there] * 0.98**age)
        assert torch.equal(later.labels, first.labels[there])
        masks = torch.zeros_like(first.masks[there])
        masks[:, : -4 * age, 8 * age :] = first.masks[there][:, 4 * age :, : -8 * age]
        assert torch.equal(later.masks, masks) and masks.any()
    report = bc.report(model)
    assert report.propagation.moved == 2 and "2 of 2 frames moved" in str(report)


def test_detections_of_executed_blocks_and_moved_ones_are_joined_without_doubles(detector, tiny):
    from mmdet.structures.bbox import bbox_overlaps

    model = convert(detector, Dictated(2, 0.4, 0.4, 0.4), propagate="move", motion=moved_by(4, 0))
    for batch in batches(tiny, 4, 1.0):
        found = model.test_step(batch)[0].pred_instances
        overlap = bbox_overlaps(found.bboxes, found.bboxes)
        overlap[found.labels[:, None] != found.labels] = 0
        # Those at the edge towards which all moves are cut, and then look alike.
        cut = found.bboxes[:, 2] >= SIZE[1]
        overlap[cut] = overlap[:, cut] = 0
        # No two of a label, beyond what the detector's own suppression leaves.
        assert (overlap.fill_diagonal_(0) <= 0.5 + 1e-4).all()
        assert (found.scores[1:] <= found.scores[:-1]).all()
        assert len(found.masks) == len(found) > 0


def test_streams_of_a_batch_move_by_themselves(detector, tiny):
    def motion(frame, context):
        return [{0: (4, 0), 1: (0, 4)}[stream] for stream in context.streams]

    model = convert(detector, EveryNthFramePolicy(5), propagate="move", motion=motion)
    first, second = (
        [sample.pred_instances for sample in model.test_step(batch)]
        for batch in batches(tiny, 2, 1.0, images=2)
    )
    for image, way in enumerate([(4.0, 0), (0, 4.0)]):
        box = first[image].bboxes[:1] + torch.tensor([*way, *way])
        limits = torch.tensor([SIZE[1], SIZE[0]] * 2)
        wanted = box.clamp_min(0).minimum(limits)
        assert (second[image].bboxes == wanted).all(1).any()


@pytest.mark.parametrize("kind", ["deeplabv3plus", "binary"])
@pytest.mark.parametrize("size", [SIZE, (80, 120)])
def test_logits_and_labels_of_a_segmentor_move(tiny_seg, kind, size):
    model = tiny_seg.build(tiny_seg.config(kind))
    model.data_preprocessor.test_cfg = dict(size_divisor=32)
    convert(model, EveryNthFramePolicy(5), propagate="move", motion=moved_by(8, 4))
    results = []
    for seed in range(3):
        batch = tiny_seg.batch([tiny_seg.picture(size, seed)], scale=[0.5])
        results.append(model.test_step(batch)[0])
    first = results[0]
    assert len(first.pred_sem_seg.data.unique()) > 1
    for age, later in enumerate(results[1:], 1):
        y, x = 8 * age, 16 * age
        for name in ("seg_logits", "pred_sem_seg"):
            one, two = first.get(name).data, later.get(name).data
            assert two.dtype == one.dtype and two.shape == one.shape
            # Cells of 16 px, 32 px of the results, tell what came in.
            assert torch.equal(two[:, 48:-24, 48:-24], one[:, 48 - y : -24 - y, 48 - x : -24 - x])
    assert bc.report(model).propagation.repeated == 2


def test_a_segmentor_that_is_given_no_samples(tiny_seg):
    model = tiny_seg.build(tiny_seg.config("deeplabv3plus"))
    convert(model, EveryNthFramePolicy(5), propagate="move", motion=moved_by(8, 0))
    frames = [torch.randn(1, 3, *SIZE) for _ in range(2)]
    with torch.no_grad():
        first, second = (model(frame, mode="predict")[0] for frame in frames)
    assert torch.equal(second.seg_logits.data[..., 24:], first.seg_logits.data[..., 16:-8])
    with torch.no_grad():
        logits = model(frames[0], mode="tensor")
    assert logits.shape[1] == 4


def test_moved_segmentations_agree_with_the_dense_ones_of_a_camera_that_pans(tiny_seg):
    """The whole way: flow found in the picture, logits of a network that looks around."""
    pytest.importorskip("cv2")
    model = tiny_seg.build(tiny_seg.config("deeplabv3plus"))
    dense = copy.deepcopy(model)
    convert(model, EveryNthFramePolicy(4), propagate="auto")
    generator = torch.Generator().manual_seed(1)
    world = torch.nn.functional.interpolate(
        torch.rand(1, 3, 60, 60, generator=generator) * 255, size=(420, 420), mode="bicubic"
    ).clamp(0, 255)[0]
    agree = {"moved": [], "copied": []}
    last = None
    for index in range(9):
        frame = world[:, 40 : 40 + 192, 20 + 4 * index : 20 + 4 * index + 256].to(torch.uint8)
        batch = tiny_seg.batch([frame], scale=[1.0])
        with torch.no_grad():
            wanted = dense.test_step(copy.deepcopy(batch))[0].pred_sem_seg.data
            got = model.test_step(batch)[0].pred_sem_seg.data.clone()
        if index % 4 == 0:
            last = got
        else:
            agree["moved"].append((got == wanted).float().mean())
            agree["copied"].append((last == wanted).float().mean())
    moved, copied = (torch.stack(agree[way]).mean() for way in ("moved", "copied"))
    assert 1 - moved < 0.5 * (1 - copied)

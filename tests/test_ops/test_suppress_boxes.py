"""suppress_boxes, pair by pair in plain Python, and beside the ops of mmcv and torchvision."""

from __future__ import annotations

import pytest
import torch

from blockcopy_plugins.ops.suppress_boxes import suppress_boxes

IMPLEMENTATIONS = [
    pytest.param(suppress_boxes, id="op"),
    pytest.param(suppress_boxes.reference, id="twin"),
]


def by_hand(boxes, scores, threshold, offset):
    """Kept places, each operation rounded to float32."""

    def sides(box):
        return (box[2:] - box[:2] + offset).prod()

    order = sorted(range(len(boxes)), key=lambda i: -scores[i].item())
    kept = []
    for i in order:
        for j in kept:
            shared = torch.minimum(boxes[i, 2:], boxes[j, 2:])
            shared = shared - torch.maximum(boxes[i, :2], boxes[j, :2]) + offset
            shared = shared.clamp_min(0).prod()
            union = sides(boxes[j]) + sides(boxes[i]) - shared
            if (shared / union).item() > threshold:
                break
        else:
            kept.append(i)
    return kept


def by_score(scores):
    return scores.sort(descending=True, stable=True)[1]


def crowd(count, seed, whole=False):
    """Boxes in heaps, with equal ones and equal scores among them."""
    draw = torch.Generator().manual_seed(seed)
    centre = torch.rand(max(count // 8, 1), 2, generator=draw) * 400
    pick = torch.randint(0, len(centre), (count,), generator=draw)
    centre = centre[pick] + 6 * torch.randn(count, 2, generator=draw)
    side = 20 + 30 * torch.rand(count, 2, generator=draw)
    boxes = torch.cat((centre - side / 2, centre + side / 2), 1)
    scores = (50 * torch.rand(count, generator=draw)).round() / 50
    boxes = boxes.round() if whole else boxes
    boxes[count // 2 :: 7] = boxes[:1].clone()
    return boxes, scores


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 200])
@pytest.mark.parametrize("threshold, offset", [(0.5, 0.0), (0.7, 1.0), (0.0, 0.0), (1.0, 0.0)])
def test_each_pair_is_compared(implementation, count, threshold, offset):
    boxes, scores = crowd(count, count)
    got = implementation(boxes, by_score(scores), threshold, offset)
    assert got.dtype == torch.int64
    assert got.tolist() == by_hand(boxes, scores, threshold, offset)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_overlaps_that_are_the_threshold(implementation):
    """Whole numbers: many overlaps are exactly a third or a half, and none is above it."""
    boxes = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 2], [2, 0, 6, 4], [0, 0, 4, 4.0]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    assert implementation(boxes, by_score(scores), 0.5, 0.0).tolist() == [0, 1, 2]
    assert implementation(boxes, by_score(scores), 0.3, 0.0).tolist() == [0]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_boxes_without_an_area_and_of_no_number(implementation):
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor(
        [[1, 1, 1, 1], [1, 1, 1, 1], [nan, 0, 3, 3], [0, 0, 3, 3], [0, 0, inf, inf], [3, 3, 0, 0.0]]
    )
    scores = torch.tensor([0.5, 0.4, nan, 0.3, 0.2, 0.1])
    assert implementation(boxes, by_score(scores), 0.5, 0.0).tolist() == [2, 0, 1, 3, 4, 5]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("whole", [False, True])
def test_it_is_mmcvs(seed, whole):
    ops = pytest.importorskip("mmcv.ops", reason="the op to compare with is mmcv's")
    boxes, scores = crowd(3000, seed, whole)
    for threshold, offset in ((0.5, 0), (0.7, 1), (0.3, 0)):
        wanted = ops.nms(boxes, scores, threshold, offset)[1]
        least = torch.tensor(threshold, dtype=torch.float32).item()
        assert torch.equal(
            suppress_boxes(boxes, scores.sort(descending=True)[1], least, offset), wanted
        )


@pytest.mark.parametrize("seed", range(3))
def test_it_is_torchvisions(seed):
    ops = pytest.importorskip("torchvision.ops", reason="the op to compare with is torchvision's")
    boxes, scores = crowd(3000, seed)
    assert torch.equal(suppress_boxes(boxes, by_score(scores), 0.7), ops.nms(boxes, scores, 0.7))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "boxes, order, error, what",
    [
        (torch.zeros(3, 5), [0, 1, 2], ValueError, r"expected \(n, 4\) and \(n\)"),
        (torch.zeros(3, 4), [0, 1], ValueError, r"expected \(n, 4\) and \(n\)"),
        (torch.zeros(3, 4), [0, 1.0, 2], TypeError, r"torch.float32 and torch.int64"),
        (torch.zeros(3, 4).double(), [0, 1, 2], TypeError, r"torch.float32 and torch.int64"),
        (torch.zeros(3, 4), [0, 1, 3], IndexError, r"order\[2\] is 3, expected 0 to 2"),
    ],
)
def test_bad_input(implementation, boxes, order, error, what):
    with pytest.raises(error, match=what):
        implementation(boxes, torch.tensor(order), 0.5, 0.0)


def test_opcheck():
    utils = ["test_schema", "test_autograd_registration", "test_faketensor"]
    boxes, scores = crowd(100, 0)
    given = (boxes, by_score(scores), 0.5, 0.0)
    torch.library.opcheck(torch.ops.blockcopy.suppress_boxes.default, given, test_utils=utils)

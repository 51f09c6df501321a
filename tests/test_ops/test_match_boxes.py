"""match_boxes against a plain loop over pairs, in exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blockcopy_plugins.ops.match_boxes import match_boxes

IMPLEMENTATIONS = [
    pytest.param(match_boxes, id="op"),
    pytest.param(match_boxes.reference, id="twin"),
]


def exact_iou(first, second):
    """IoU of two integer boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return Fraction(0)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (first, second)]
    return Fraction(width * height, sum(areas) - width * height)


def best_of_pairs(boxes, labels, others, other_labels):
    """The definition."""
    found = []
    for box, label in zip(boxes, labels, strict=True):
        best, match = Fraction(0), -1
        for index, (other, kind) in enumerate(zip(others, other_labels, strict=True)):
            if kind == label and exact_iou(box, other) > best:
                best, match = exact_iou(box, other), index
        found.append((float(best), match))
    return found


def tensors(boxes, labels):
    return (
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
    )


def check(implementation, boxes, labels, others, other_labels):
    overlaps, matches = implementation(*tensors(boxes, labels), *tensors(others, other_labels))
    expected = best_of_pairs(boxes, labels, others, other_labels)
    assert overlaps.dtype == torch.float32 and matches.dtype == torch.int64
    assert matches.tolist() == [match for _, match in expected]
    torch.testing.assert_close(
        overlaps, torch.tensor([best for best, _ in expected]), atol=1e-7, rtol=0
    )


# So small that different IoUs differ in float32 too, and so few places that many are equal.
SIDES = st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 9), st.integers(1, 9))
LABELS = st.sampled_from([0, 1, -3, 2**40])
TABLES = st.lists(st.tuples(SIDES, LABELS), max_size=60)


def unzip(table):
    boxes = [(x, y, x + width, y + height) for (x, y, width, height), _ in table]
    return boxes, [label for _, label in table]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(first=TABLES, second=TABLES)
def test_any_boxes(implementation, first, second):
    check(implementation, *unzip(first), *unzip(second))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_of_equals_the_first_wins(implementation):
    # 40 times the same box: more than are compared at once. The last lies elsewhere.
    others = [(0, 0, 4, 4)] * 40 + [(8, 8, 9, 9)]
    check(implementation, [(1, 0, 5, 4), (8, 8, 9, 9)], [7, 7], others, [7] * 41)
    # Halfway between two.
    check(
        implementation, [(2, 0, 6, 4)], [7], [(9, 9, 10, 10), (4, 0, 8, 4), (0, 0, 4, 4)], [7] * 3
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_boxes_that_touch_do_not_overlap(implementation):
    check(implementation, [(0, 0, 4, 4)], [0], [(4, 0, 8, 4), (0, 4, 4, 8), (4, 4, 5, 5)], [0] * 3)


@pytest.mark.parametrize("scale", [0.05, 0.6])
@pytest.mark.parametrize("labels", [1, 80])
def test_op_and_twin_agree_to_the_bit_on_thousands(scale, labels):
    draw = torch.Generator().manual_seed(labels)

    def table(count):
        corner = 1000 * torch.rand(count, 2, generator=draw)
        side = 1 + 1000 * scale * torch.rand(count, 2, generator=draw)
        kinds = torch.randint(0, labels, (count,), generator=draw)
        return torch.cat((corner, corner + side), 1), kinds

    first, second = table(2500), table(2100)
    found, expected = match_boxes(*first, *second), match_boxes.reference(*first, *second)
    assert (found[1] >= 0).any() and torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    # And with several threads.
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again = match_boxes(*first, *second)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(again[0], found[0]) and torch.equal(again[1], found[1])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_extreme_boxes(implementation):
    # Areas that float32 cannot hold count as no overlap rather than as NaN.
    tiny = torch.tensor([[0.0, 0.0, 1e-30, 1e-30]])
    large = torch.tensor([[-1e18, -1e18, 1e18, 1e18]])
    zero = torch.zeros(1, dtype=torch.int64)
    for box in (tiny, large):
        for other in (tiny, large):
            overlaps, matches = implementation(box, zero, other, zero)
            same = box is large and other is large
            assert overlaps.tolist() == [float(same)] and matches.tolist() == [same - 1]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_layouts_are_free(implementation):
    boxes, labels = tensors([(0, 0, 4, 4), (2, 2, 8, 8)], [1, 2])
    turned = boxes.T.contiguous().T
    strided = torch.stack((labels, labels), 1)[:, 0]
    overlaps, matches = implementation(turned, strided, turned, strided)
    assert overlaps.tolist() == [1, 1] and matches.tolist() == [0, 1]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_wrong_arguments_raise(implementation):
    boxes, labels = tensors([(0, 0, 4, 4)], [1])
    with pytest.raises(TypeError, match="boxes have dtype"):
        implementation(boxes.double(), labels, boxes, labels)
    with pytest.raises(TypeError, match="others have dtype"):
        implementation(boxes, labels, boxes, labels.int())
    with pytest.raises(ValueError, match="shape"):
        implementation(boxes, labels, boxes[:, :3], labels)
    with pytest.raises(ValueError, match="shape"):
        implementation(boxes, labels[:0], boxes, labels)
    for value in (math.nan, math.inf, -math.inf, -5.0):
        for column in (0, 2, 3):
            bad = boxes.clone()
            bad[0, column] = value
            if bad[0, 0] < bad[0, 2] and bad[0].isfinite().all():
                continue
            with pytest.raises(ValueError, match="others 0 is"):
                implementation(boxes, labels, bad, labels)
            with pytest.raises(ValueError, match="boxes 0 is"):
                implementation(bad, labels, boxes, labels)
    needs = boxes.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="no backward"):
        implementation(needs, labels, boxes, labels)
    with torch.no_grad():
        implementation(needs, labels, boxes, labels)


def test_the_operator_is_well_registered():
    arguments = (*tensors([(0, 0, 4, 4)], [1]), *tensors([(0, 0, 4, 4), (2, 2, 8, 8)], [1, 2]))
    torch.library.opcheck(torch.ops.blockcopy.match_boxes.default, arguments)
    overlaps, matches = match_boxes(*(argument.to("meta") for argument in arguments))
    assert overlaps.shape == matches.shape == (1,) and matches.dtype == torch.int64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_the_gpu():
    arguments = (*tensors([(0, 0, 4, 4)], [2]), *tensors([(0, 0, 4, 4), (0, 0, 2, 4)], [1, 2]))
    overlaps, matches = match_boxes(*(argument.cuda() for argument in arguments))
    assert overlaps.is_cuda and overlaps.tolist() == [0.5] and matches.tolist() == [1]

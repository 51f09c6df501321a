"""Agreement of two outputs, against cases computed by hand."""

from __future__ import annotations

import pytest
import torch

from blockcopy_plugins.errors import FrameError
from blockcopy_plugins.policy import output_agreement

SIZE = (100, 200)


def test_boxes_count_as_much_as_they_are_sure(detections):
    found = detections([(10, 10, 30, 30, 0.9, 1), (50, 50, 80, 80, 0.4, 2)], SIZE)
    # The first has moved by 2 px (IoU 18/22), the second has another label, the third is new.
    wanted = detections(
        [(12, 10, 32, 30, 0.8, 1), (50, 50, 80, 80, 0.5, 3), (120, 5, 150, 60, 0.3, 1)], SIZE
    )
    total = 0.9 + 0.4 + 0.8 + 0.5 + 0.3
    assert output_agreement(found, wanted).item() == pytest.approx((0.9 + 0.8) / total)
    assert output_agreement(wanted, found).item() == pytest.approx((0.9 + 0.8) / total)
    assert output_agreement(found, found).item() == pytest.approx(1)


def test_an_overlap_below_a_half_is_no_pair(detections):
    one = detections([(0, 0, 30, 30, 1, 0)], SIZE)
    at_half = detections([(10, 0, 40, 30, 1, 0)], SIZE)  # 20 / 40
    below = detections([(10.5, 0, 40.5, 30, 1, 0)], SIZE)  # 19.5 / 40.5
    assert output_agreement(one, at_half).item() == 1
    assert output_agreement(one, below).item() == 0


def test_each_box_is_in_one_pair(detections):
    one = detections([(0, 0, 30, 30, 0.5, 0)], SIZE)
    twice = detections([(1, 0, 31, 30, 0.7, 0), (0, 0, 30, 30, 0.2, 0)], SIZE)
    # The better overlap of the two is taken.
    assert output_agreement(one, twice).item() == pytest.approx(0.7 / 1.4)


def test_what_has_no_area_in_the_image_does_not_count(detections):
    nothing = detections([], SIZE)
    outside = detections([(-20, 5, -3, 9, 0.9, 0), (5, 5, 5, 9, 0.9, 0)], SIZE)
    cut = detections([(-500, 0, 10, 10, 0.9, 0)], SIZE)
    inside = detections([(0, 0, 10, 10, 0.8, 0)], SIZE)
    assert output_agreement(nothing, outside).item() == 1
    assert output_agreement(nothing, inside).item() == 0
    assert output_agreement(cut, inside).item() == 1


def test_labels():
    found = torch.tensor([[[3.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [2.0, 5.0]]])
    wanted = torch.tensor([[[9.0, 2.0], [0.0, 0.0]], [[0.0, 1.0], [2.0, 5.0]]])
    assert output_agreement(found, wanted).item() == 0.75
    assert output_agreement(found[:1] - 1, wanted[:1] - 1).item() == 0.75  # signs


def test_features():
    found, wanted = torch.tensor([[[1.0, -2.0]]]), torch.tensor([[[1.0, 1.0]]])
    assert output_agreement(found, wanted, labels=False).item() == pytest.approx(1 - 3 / 5)
    nothing = torch.zeros(2, 3, 3)
    assert output_agreement(nothing, nothing, labels=False).item() == 1


def test_outputs_that_cannot_be_compared(detections):
    with pytest.raises(FrameError, match="cannot be compared"):
        output_agreement(torch.zeros(2, 3, 3), torch.zeros(2, 3, 4))
    with pytest.raises(FrameError, match="Detections .* and then Tensor"):
        output_agreement(detections([], SIZE), torch.zeros(2, 3, 3))

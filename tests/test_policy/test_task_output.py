from __future__ import annotations

import pytest
import torch

from blockcopy_plugins.errors import FrameError
from blockcopy_plugins.policy import Detections
from blockcopy_plugins.policy.task_output import check_task_output


def _make(**changes):
    values = dict(
        boxes=torch.zeros(2, 4),
        scores=torch.zeros(2),
        labels=torch.zeros(2, dtype=torch.int64),
        masks=torch.zeros(2, 5, 6, dtype=torch.bool),
        size=(40, 48),
    )
    return Detections(**{**values, **changes})


def test_detections_have_a_length():
    assert len(_make()) == 2
    empty = _make(
        boxes=torch.zeros(0, 4),
        scores=torch.zeros(0),
        labels=torch.zeros(0, dtype=torch.int64),
        masks=None,
    )
    assert len(empty) == 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (dict(boxes=torch.zeros(2, 5)), "boxes"),
        (dict(boxes=torch.zeros(2, 4, dtype=torch.int64)), "boxes"),
        (dict(boxes=torch.full((2, 4), float("nan"))), "NaN"),
        (dict(scores=torch.zeros(3)), "scores"),
        (dict(scores=torch.tensor([0.5, float("inf")])), "infinity"),
        (dict(labels=torch.zeros(2)), "labels"),
        (dict(masks=torch.zeros(2, 5, 6)), "masks"),
        (dict(masks=torch.zeros(3, 5, 6, dtype=torch.bool)), "masks"),
        (dict(masks=torch.zeros(2, 0, 6, dtype=torch.bool)), "height"),
        (dict(size=(0, 4)), "size"),
    ],
)
def test_wrong_detections_raise(changes, named):
    with pytest.raises(FrameError, match=named):
        _make(**changes)


def test_task_output_is_detections_or_a_dense_map():
    assert check_task_output(_make())
    assert check_task_output(torch.zeros(3, 4, 5)).shape == (3, 4, 5)
    for wrong in (torch.zeros(1, 3, 4, 5), torch.zeros(3, 4, 5, dtype=torch.int64), [1], None):
        with pytest.raises(FrameError, match="task output"):
            check_task_output(wrong)

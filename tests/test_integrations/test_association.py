"""Boxes of VideoInferencer joined to tracks by a library that knows nothing of this package."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("mmdet")
supervision = pytest.importorskip("supervision", reason="supervision is not installed")
trackers = pytest.importorskip("trackers", reason="trackers is not installed")

import blockcopy_plugins as bc  # noqa: E402

CONFIG, WEIGHTS = "configs/demo/maskrcnn_blockcopy_demo.py", "demo/maskrcnn_vtest.pth"


def tracks(policy, frames=16):
    """The tracks' numbers in each frame of the demo's clip."""
    found, tracker = [], trackers.SORTTracker()
    options = dict(block_size=64, policy=policy)
    with bc.VideoInferencer(CONFIG, options, weights=WEIGHTS) as infer:
        for result in itertools.islice(infer("demo/vtest_excerpt.mp4"), frames):
            boxes = result.prediction.pred_instances
            detections = supervision.Detections(
                boxes.bboxes.numpy(), confidence=boxes.scores.numpy(), class_id=boxes.labels.numpy()
            )
            found.append((result.executed_rate, tracker.update(detections).tracker_id.tolist()))
    return found


def test_people_keep_their_numbers():
    whole, sparse = tracks("all"), tracks(dict(type="GainPolicy", target=0.3))
    assert all(rate == 1 for rate, _ in whole)
    assert sum(rate for rate, _ in sparse[1:]) / len(sparse[1:]) < 0.5
    numbers = {number for _, frame in whole for number in frame if number >= 0}
    assert len(numbers) >= 4
    # Of those who have a number at the end with all blocks, hardly anybody lacks one with a third.
    last = [sum(number >= 0 for number in run[-1][1]) for run in (whole, sparse)]
    assert last[1] >= last[0] - 1

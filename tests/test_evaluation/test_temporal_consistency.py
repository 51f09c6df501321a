"""Temporal consistency by hand: with a dictated flow, and with the flow of known movements."""

from __future__ import annotations

import math

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")

from blockcopy_plugins.errors import ConfigError, FrameError  # noqa: E402
from blockcopy_plugins.evaluation import (  # noqa: E402
    FrameFlows,
    OpticalFlow,
    compare_with_warped,
    estimate_flow,
    mean_warped_iou,
)
from blockcopy_plugins.evaluation.optical_flow import grey_frame  # noqa: E402


def flow_of(shape, right=0.0, down=0.0, reliable=None):
    """Everything has moved by so much since the frame before."""
    displacement = np.zeros((*shape, 2), np.float32)
    displacement[...] = -right, -down
    return OpticalFlow(displacement, np.ones(shape, bool) if reliable is None else reliable)


def stripe(left, width=4, shape=(6, 20)):
    labels = np.zeros(shape, np.int16)
    labels[:, left : left + width] = 1
    return labels


def consistency(*pairs):
    return mean_warped_iou([compare_with_warped(*pair) for pair in pairs])


def test_labels_that_stay_and_labels_that_move_along():
    assert consistency((stripe(8), stripe(8), flow_of((6, 20)))) == 1
    assert consistency((stripe(8), stripe(11), flow_of((6, 20), right=3))) == 1
    assert consistency((stripe(8), stripe(6), flow_of((6, 20), right=-2))) == 1
    down = stripe(2, 2, (20, 6)).copy()
    moved = np.roll(down, 3, 0)
    moved[:, :] = down  # columns do not change
    assert consistency((down, moved, flow_of((20, 6), down=3))) == 1


def test_labels_that_do_not_move_along_by_hand():
    """The flow is 3 px to the right, the stripe of 4 px stays: 3 columns of 20 have no origin."""
    areas = compare_with_warped(stripe(8), stripe(8), flow_of((6, 20), right=3))
    # Warped stripe: columns 11 to 14; present: 8 to 11. One column is in both, seven in either.
    # Rest: of 17 counted columns, 13 in each, 10 in both, 16 in either.
    np.testing.assert_array_equal(areas.intersection, [6 * 10, 6 * 1])
    np.testing.assert_array_equal(areas.union, [6 * 16, 6 * 7])
    assert (areas.counted, areas.points) == (6 * 17, 6 * 20)
    assert mean_warped_iou([areas]) == pytest.approx((10 / 16 + 1 / 7) / 2)


def test_rows_and_columns_are_not_mixed_up():
    previous = np.arange(20).reshape(4, 5)
    present = np.full((4, 5), 99)
    present[1:, 2:] = previous[:-1, :-2]  # two to the right, one down
    areas = compare_with_warped(previous, present, flow_of((4, 5), right=2, down=1))
    assert areas.counted == 3 * 3
    assert mean_warped_iou([areas]) == 1


def test_unreliable_points_do_not_count():
    reliable = np.ones((6, 20), bool)
    reliable[:, 8:12] = False
    labels = stripe(8)
    areas = compare_with_warped(np.zeros_like(labels), labels, flow_of((6, 20), reliable=reliable))
    assert mean_warped_iou([areas]) == 1 and areas.counted == 6 * 16
    none = compare_with_warped(labels, labels, flow_of((6, 20), reliable=np.zeros((6, 20), bool)))
    assert none.counted == 0 and math.isnan(mean_warped_iou([none]))
    assert math.isnan(mean_warped_iou([]))


def test_a_reduced_flow_is_scaled_to_the_labels():
    """A grid of a quarter of the size: 3 px there are 12 px in the labels."""
    before, after = stripe(16, 8, (24, 80)), stripe(28, 8, (24, 80))
    areas = compare_with_warped(before, after, flow_of((6, 20), right=3))
    assert mean_warped_iou([areas]) == 1 and areas.counted == 6 * 17
    # A quarter of a pixel there is one here: a stripe's edge tells whether it was looked up.
    before = np.zeros((24, 80), np.int16)
    before[2::4, 1::4] = 1  # left of the points' pixels 2, 6, 10, ...
    after = np.zeros((24, 80), np.int16)
    after[2::4, 2::4] = 1
    areas = compare_with_warped(before, after, flow_of((6, 20), right=0.25))
    np.testing.assert_array_equal(areas.intersection, [0, 6 * 20])
    np.testing.assert_array_equal(areas.union, [0, 6 * 20])


def test_areas_are_summed_over_pairs_before_the_mean():
    """A label of one point in one pair does not weigh as much as that of a whole frame."""
    zero, one = np.zeros((1, 8), int), np.zeros((1, 8), int)
    one[0, 0] = 2
    still = flow_of((1, 8))
    # Label 0: 15 of 16, label 2: 0 of 1, label 1 does not occur.
    assert consistency((zero, zero, still), (zero, one, still)) == pytest.approx(15 / 16 / 2)


def test_labels_of_another_size_are_refused():
    with pytest.raises(ConfigError, match="one size"):
        compare_with_warped(stripe(8), stripe(8, shape=(6, 21)), flow_of((6, 20)))


# ------------------------------------------------------------------ flow


def texture(shape, seed=0):
    """Soft shapes of several sizes, uint8."""
    random, made = np.random.default_rng(seed), np.full(shape, 128, np.float32)
    for cell, contrast in ((4, 20), (8, 35), (16, 50), (32, 60)):
        small = random.standard_normal([max(side // cell, 2) for side in shape])
        made += contrast * cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(made, 0, 255).astype(np.uint8)


def test_still_frames_have_no_flow():
    flow = estimate_flow(texture((64, 96)), texture((64, 96)))
    assert (flow.displacement == 0).all() and flow.reliable.all()


def test_translation_is_found_and_what_comes_in_is_not_relied_on():
    large = texture((80, 140))
    previous, present = large[8:72, 20:116].copy(), large[5:69, 15:111].copy()  # right 5, down 3
    flow = estimate_flow(previous, present)
    inside = flow.reliable[8:-8, 12:-8]
    assert inside.mean() > 0.95
    error = flow.displacement[8:-8, 12:-8][inside] - (-5, -3)
    assert np.abs(error).mean() < 0.1
    assert not flow.reliable[:, :4].any() and not flow.reliable[:2].any()


def test_what_was_hidden_is_not_relied_on():
    """A square moves by 12 px over a background that stays: what it uncovers has no origin."""
    background, square = texture((128, 256)), texture((48, 48), seed=5)

    def frame(left):
        made = background.copy()
        made[40:88, left : left + 48] = square
        return made

    flow = estimate_flow(frame(80), frame(92))
    assert flow.reliable[40:88, 80:92].mean() < 0.5
    assert flow.reliable[:, 160:].mean() > 0.9 and flow.reliable[48:80, 100:132].mean() > 0.9
    moved = np.median(flow.displacement[48:80, 100:132], (0, 1))
    np.testing.assert_allclose(moved, [-12, 0], atol=0.1)


def test_greys_are_reduced_in_proportion():
    frame = np.zeros((3, 100, 400), np.uint8)
    assert grey_frame(frame, 512).shape == (100, 400)
    assert grey_frame(frame, 100).shape == (25, 100)
    with pytest.raises(FrameError, match="float32"):
        grey_frame(frame.astype(np.float32), 100)
    with pytest.raises(FrameError, match="at least 16 px"):
        estimate_flow(np.zeros((12, 30), np.uint8), np.zeros((12, 30), np.uint8))


def test_flows_follow_the_videos_and_are_computed_once(monkeypatch):
    from blockcopy_plugins.evaluation import optical_flow

    calls = []
    real = optical_flow.estimate_flow
    monkeypatch.setattr(optical_flow, "estimate_flow", lambda *a: calls.append(1) or real(*a))
    frames = [np.stack([texture((64, 96), seed)] * 3) for seed in range(4)]
    flows = FrameFlows(width=48)
    assert flows([("a", 0)], frames[:1]) == [None]
    (first,) = flows([("a", 1)], frames[1:2])
    assert first.displacement.shape == (32, 48, 2)
    assert flows([("a", 1)], frames[1:2]) == [first] and len(calls) == 1
    # Another video joins; the first one goes on, then skips a frame.
    going, joined = flows([("a", 2), ("b", 0)], frames[2:])
    assert going is not None and joined is None
    assert flows([("a", 4), ("b", 1)], frames[2:])[0] is None and len(calls) == 3
    # From the start again.
    assert flows([("a", 0)], frames[:1]) == [None]
    with pytest.raises(ConfigError, match="width is 4 px"):
        FrameFlows(4)

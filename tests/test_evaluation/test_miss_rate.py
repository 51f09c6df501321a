"""Log-average miss rates by hand, against the public CityPersons evaluation, and their laws."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.datasets.ground_truth import FrameObjects
from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.evaluation.miss_rate import (
    CITYPERSONS_SUBSETS,
    FPPI_POINTS,
    PedestrianSubset,
    log_average_miss_rate,
    miss_rate_curve,
)

SIZE = (1024, 2048)
REASONABLE, SMALL, HEAVY, ALL = CITYPERSONS_SUBSETS


def box(x, y=100.0, height=100.0, width=40.0):
    return [x, y, x + width, y + height]


def truth(*boxes, ignore=None, visible=None, heights=None):
    return FrameObjects(
        list(boxes), [0] * len(boxes), SIZE, ignore=ignore, visible_ratios=visible, heights=heights
    )


def found(*pairs):
    """Detections as (box, score)."""
    boxes, scores = zip(*pairs, strict=True) if pairs else ((), ())
    return FrameObjects(list(boxes), [0] * len(boxes), SIZE, scores=list(scores))


def rate(ground_truth, predictions, subset=REASONABLE):
    return miss_rate_curve(ground_truth, predictions, subset).log_average()


def test_perfect_all_missed_and_false_positives_only():
    frames = [truth(box(0), box(500)), truth(box(900))]
    perfect = [found((box(500), 0.4), (box(0), 0.9)), found((box(900), 0.2))]
    assert rate(frames, perfect) == pytest.approx(0, abs=1e-9)
    assert rate(frames, [found(), found()]) == 1
    assert rate(frames, [found((box(1500), 0.9)), found((box(1500), 0.8))]) == 1


def test_by_hand():
    """Two pedestrians in ten images; in the order of scores: right, wrong, right."""
    frames = [truth(box(0)), truth(box(0))] + [truth()] * 8
    predictions = [
        found((box(0), 0.9)),
        found((box(0), 0.3), (box(1000), 0.5)),
        *[found()] * 8,
    ]
    curve = miss_rate_curve(frames, predictions)
    np.testing.assert_allclose(curve.fppi, [0, 0.1, 0.1])
    np.testing.assert_allclose(curve.miss_rate, [0.5, 0.5, 0])
    assert curve.pedestrians == 2
    # Half is missed below 0.1 false positives per image (four points), nothing from there (five).
    np.testing.assert_allclose(curve.at(), [0.5] * 4 + [0] * 5)
    assert rate(frames, predictions) == pytest.approx((0.5**4 * 1e-10**5) ** (1 / 9))


def test_a_point_before_the_first_detection_misses_all():
    """One false positive first, in one image: it is beyond each point but the last."""
    curve = miss_rate_curve([truth(box(0))], [found((box(800), 0.9), (box(0), 0.8))])
    np.testing.assert_allclose(curve.at(), [1] * 8 + [0])
    assert curve.log_average() == pytest.approx(1e-10 ** (1 / 9))


def test_points_are_reached_inclusively():
    """One false positive in 100 images is 0.01 per image, the first point."""
    frames = [truth(box(0))] + [truth()] * 99
    predictions = [found((box(0), 0.1))] + [found((box(0), 0.9))] + [found()] * 98
    assert rate(frames, predictions) == pytest.approx(0, abs=1e-9)
    assert FPPI_POINTS == (0.01, 0.0178, 0.0316, 0.0562, 0.1, 0.1778, 0.3162, 0.5623, 1.0)


def test_ignored_truth_need_not_be_found_and_takes_any_number():
    # Three detections inside a wide region: their IoU with it is small, but they lie in it.
    region = [0, 100, 600, 200]
    frame = truth(box(1000), region, ignore=[False, True])
    inside = [(box(x), 0.9) for x in (0, 50, 560)]
    assert rate([frame], [found(*inside, (box(1000), 0.5))]) == pytest.approx(0, abs=1e-9)
    # Of their own area half in it is enough, less is not.
    half, less = box(580), box(581)
    assert rate([frame], [found((half, 0.9), (box(1000), 0.5))]) == pytest.approx(0, abs=1e-9)
    assert rate([frame], [found((less, 0.9), (box(1000), 0.5))]) > 0.05
    # Twice the same pedestrian: the second is a false positive, however it lies.
    twice = found((box(0), 0.9), (box(0), 0.8))
    assert len(miss_rate_curve([truth(box(0))], [twice]).fppi) == 2
    # But not if it also lies in something ignored.
    both = truth(box(0), region, ignore=[False, True])
    assert len(miss_rate_curve([both], [twice]).fppi) == 1
    # Crowds are ignored too.
    crowd = FrameObjects([box(1000), region], [0, 0], SIZE, crowd=[False, True])
    assert len(miss_rate_curve([crowd], [found(*inside)]).fppi) == 0


def test_a_pedestrian_comes_before_what_is_ignored():
    """Although the ignored one overlaps more."""
    frame = truth(box(0), box(4), ignore=[False, True])
    curve = miss_rate_curve([frame], [found((box(4), 0.9))])
    np.testing.assert_allclose(curve.miss_rate, [0])


def test_each_takes_the_largest_overlap_and_half_is_enough():
    near, far = box(0), box(8)
    frame = truth(near, far)
    # The first takes what it overlaps most, and leaves the other one to the second.
    curve = miss_rate_curve([frame], [found((box(7), 0.9), (box(-2), 0.8))])
    np.testing.assert_allclose(curve.miss_rate, [0.5, 0])
    # IoU of 40 px boxes shifted by d: (40 - d) / (40 + d); 1/2 at 40/3 px. In height: 100 px.
    frame = truth(box(0))
    exactly = box(0, height=50)
    assert rate([frame], [found((exactly, 0.9))]) == pytest.approx(0, abs=1e-9)
    assert rate([frame], [found((box(13.34), 0.9))]) == 1
    assert rate([frame], [found((box(13.33), 0.9))]) == pytest.approx(0, abs=1e-9)


def test_of_equal_overlaps_the_last_is_taken():
    """Then the next detection, which overlaps only the first one enough, still finds it."""
    frame = truth(box(0), box(20))
    detections = found((box(10), 0.9), (box(-5), 0.8))
    np.testing.assert_allclose(miss_rate_curve([frame], [detections]).miss_rate, [0.5, 0])
    mirrored = found((box(10), 0.9), (box(25), 0.8))
    np.testing.assert_allclose(miss_rate_curve([frame], [mirrored]).miss_rate, [0.5, 0.5])


def test_equal_scores_are_taken_in_their_order():
    frame, wrong, right = truth(box(0)), (box(900), 0.5), (box(0), 0.5)
    assert rate([frame], [found(right, wrong)]) == pytest.approx(0, abs=1e-9)
    assert rate([frame], [found(wrong, right)]) > 0.05
    frames = [truth(), truth(box(0))]
    curve = miss_rate_curve(frames, [found(wrong), found(right)])
    np.testing.assert_allclose(curve.fppi, [0.5, 0.5])
    np.testing.assert_allclose(curve.miss_rate, [1, 0])


@pytest.mark.parametrize(
    ("subset", "low", "high"), [(REASONABLE, 40, None), (SMALL, 40, 93.75), (ALL, 16, None)]
)
def test_detections_of_the_wrong_size_are_left_out(subset, low, high):
    """Up to 1.25 times beyond the subset's heights they count."""
    frame = truth(box(0, height=60))

    def counted(height):
        wrong = found((box(1000, height=height), 0.9), (box(0, height=60), 0.5))
        return len(miss_rate_curve([frame], [wrong], subset).fppi) == 2

    assert counted(low) and not counted(low - 0.25)
    assert counted(10_000) if high is None else counted(high - 0.25) and not counted(high)
    # A pedestrian of the subset is missed by a detection of the wrong size, however it lies.
    tall = truth(box(0, height=75))
    if subset is SMALL:
        assert rate([tall], [found((box(0, height=95), 0.9))], SMALL) == 1
        assert rate([tall], [found((box(0, height=93), 0.9))], SMALL) < 1e-9


@pytest.mark.parametrize(
    ("height", "visible", "members"),
    [
        (50, 0.65, {"Reasonable", "Reasonable_small", "Heavy", "All"}),
        (75, 1, {"Reasonable", "Reasonable_small", "All"}),
        (75.25, 1, {"Reasonable", "All"}),
        (49.75, 1, {"All"}),
        (20, 0.2, {"All"}),
        (19.75, 1, set()),
        (80, 0.649, {"Heavy", "All"}),
        (80, 0.2, {"Heavy", "All"}),
        (80, 0.199, set()),
        (80, None, {"Reasonable", "All"}),
    ],
)
def test_members_of_the_subsets(height, visible, members):
    frame = truth(box(0, height=height), visible=None if visible is None else [visible])
    rates = log_average_miss_rate([frame], [found()])
    assert {name for name, value in rates.items() if not math.isnan(value)} == members
    assert all(math.isnan(value) or value == 1 for value in rates.values())


def test_the_annotated_height_decides_not_that_of_the_box():
    clipped = truth(box(0, height=45), heights=[60])
    assert rate([clipped], [found((box(0, height=45), 0.9))]) == pytest.approx(0, abs=1e-9)


def test_pedestrians_outside_of_the_subset_are_ignored():
    occluded = truth(box(0), box(500), visible=[1, 0.5])
    predictions = [found((box(500), 0.9), (box(0), 0.5))]
    assert rate([occluded], predictions) == pytest.approx(0, abs=1e-9)
    curve = miss_rate_curve([occluded], predictions, HEAVY)
    assert (curve.pedestrians, len(curve.fppi)) == (1, 1)


def test_only_the_best_thousand_of_a_frame_count():
    frame = truth(box(0))
    wrong = [(box(1000), 0.9)] * 999
    last = (box(0), 0.5)
    assert miss_rate_curve([frame], [found(*wrong, last)]).miss_rate[-1] == 0
    assert miss_rate_curve([frame], [found(*wrong, wrong[0], last)]).miss_rate[-1] == 1


def test_nothing_to_find_and_unfit_arguments():
    nothing = log_average_miss_rate([truth()], [found((box(0), 0.9))])
    assert list(nothing) == ["Reasonable", "Reasonable_small", "Heavy", "All"]
    assert all(math.isnan(value) for value in nothing.values())
    assert all(math.isnan(value) for value in log_average_miss_rate([], []).values())
    with pytest.raises(ConfigError, match="of 1 frames, but predictions of 2"):
        log_average_miss_rate([truth()], [found(), found()])
    with pytest.raises(ConfigError, match="frame 0 have no scores"):
        log_average_miss_rate([truth()], [truth(box(0))])
    # A box of no area neither finds nor divides by zero.
    flat = found(([10, 10, 10, 90], 0.9))
    frame = truth(box(0), [0, 0, 9, 100], [10, 10, 10, 90], ignore=[False, True, True])
    with np.errstate(all="raise"):
        assert rate([frame], [flat]) == 1


def test_equals_the_public_evaluation():
    """On a random case; the file says how its figures were got."""
    path = Path(__file__).parent / "data" / "citypersons_evaluation.json"
    case = json.loads(path.read_text())

    def corners(rows):
        return [[x, y, x + w, y + h] for x, y, w, h, *_ in rows]

    frames = [
        truth(*corners(rows), ignore=[r[4] for r in rows], visible=[r[5] for r in rows])
        for rows in case["ground_truth"]
    ]
    predictions = [
        found(*zip(corners(rows), [r[4] for r in rows], strict=True)) for rows in case["detections"]
    ]
    rates = log_average_miss_rate(frames, predictions)
    assert rates == pytest.approx(case["miss_rate"], abs=1e-12)
    assert {name: f"{100 * value:.2f}%" for name, value in rates.items()} == case["written"]
    for subset in CITYPERSONS_SUBSETS:
        curve = miss_rate_curve(frames, predictions, subset)
        np.testing.assert_allclose(curve.at(), case["curve"][subset.name], atol=1e-12)


# ------------------------------------------------------------------ laws


@st.composite
def scenes(draw):
    """Frames with pedestrians, and detections near them or anywhere, all of different scores."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    frames, pairs = [], []
    for _ in range(draw(st.integers(1, 6))):
        count = draw(st.integers(0, 4))
        heights = random.choice([18.0, 30.0, 50.0, 60.0, 75.0, 120.0], count)
        boxes = [box(random.integers(0, 300), 100, h, 0.41 * h) for h in heights.tolist()]
        frames.append(
            truth(*boxes, ignore=random.random(count) < 0.3, visible=random.random(count))
        )
        near = [(np.array(b) + random.normal(0, 6, 4)).tolist() for b in boxes]
        other = [
            box(random.integers(0, 400), 100, h, 0.41 * h)
            for h in random.uniform(15, 130, draw(st.integers(0, 4)))
        ]
        pairs.append([[b, 0.0] for b in near + other])
    scores = random.permutation(sum(map(len, pairs))) + 1.0
    for pair, score in zip((p for frame in pairs for p in frame), scores, strict=True):
        pair[1] = float(score)
    return frames, pairs, random


@settings(max_examples=60, deadline=None)
@given(scenes(), st.sampled_from(CITYPERSONS_SUBSETS))
def test_curves_fall_between_one_and_zero(scene, subset):
    frames, pairs, _ = scene
    curve = miss_rate_curve(frames, [found(*p) for p in pairs], subset)
    assert (np.diff(curve.fppi) >= 0).all()
    if curve.pedestrians:
        points = curve.at(np.linspace(0, 10, 50))
        assert ((points >= 0) & (points <= 1)).all() and (np.diff(points) <= 0).all()
        assert 0 < curve.log_average() <= 1
    else:
        assert math.isnan(curve.log_average())


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_the_order_of_frames_and_detections_does_not_matter(scene):
    frames, pairs, random = scene
    rates = log_average_miss_rate(frames, [found(*p) for p in pairs])
    order = random.permutation(len(frames))
    shuffled = [[pairs[i][j] for j in random.permutation(len(pairs[i]))] for i in order]
    again = log_average_miss_rate([frames[i] for i in order], [found(*p) for p in shuffled])
    np.testing.assert_equal(again, rates)


@settings(max_examples=60, deadline=None)
@given(scenes(), st.sampled_from(CITYPERSONS_SUBSETS), st.floats(0, 30), st.integers(0, 5))
def test_a_false_positive_never_lowers_the_curve(scene, subset, score, where):
    frames, pairs, _ = scene
    before = miss_rate_curve(frames, [found(*p) for p in pairs], subset)
    wrong = [box(1500, height=60), score + 1e-3]  # far from everything
    pairs[where % len(pairs)].append(wrong)
    after = miss_rate_curve(frames, [found(*p) for p in pairs], subset)
    assert len(after.fppi) == len(before.fppi) + 1
    if before.pedestrians:
        points = np.linspace(0, 5, 60)
        assert (after.at(points) >= before.at(points)).all()


def test_a_subset_of_ones_own():
    tall = PedestrianSubset("tall", (100, math.inf), (0, 1))
    frame = truth(box(0, height=120), box(500, height=90))
    rates = log_average_miss_rate([frame], [found((box(0, height=120), 0.9))], [tall])
    assert rates == {"tall": pytest.approx(0, abs=1e-9)}

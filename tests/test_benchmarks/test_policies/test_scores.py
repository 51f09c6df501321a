"""Figures of answers that are given."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from benchmarks.policies.answers import DenseAnswers, LabelMap  # noqa: E402
from benchmarks.policies.scores import new_scores, windows  # noqa: E402
from blockcopy_plugins.datasets.ground_truth import FrameObjects  # noqa: E402
from blockcopy_plugins.errors import ConfigError  # noqa: E402

SIZE = (60, 100)
# Of a class of three and a class of one.
PLACES = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]]


def objects(labels, places=PLACES, score=0.9, **more):
    return FrameObjects(places, labels, SIZE, scores=[score] * len(labels), **more)


def fidelity(dense, found):
    kept = DenseAnswers()
    kept.append(dense)
    scores = new_scores(kept)
    scores.add(found, None)
    return scores.figures(slice(None))


def test_every_detection_counts_alike():
    dense = objects([0, 0, 0, 1])
    assert fidelity(dense, dense) == {"fidelity_AP50": 1, "fidelity_class_AP50": 1}
    # Three of four, all right: precision 1 up to a recall of 0.75, read at 101 recalls.
    found = fidelity(dense, objects([0, 0, 0], PLACES[:3]))
    assert found["fidelity_AP50"] == pytest.approx(76 / 101)
    assert found["fidelity_class_AP50"] == 0.5
    # In the right place, but of the wrong class: one more, last of all, that is wrong.
    confused = objects([0, 0, 0, 0])
    assert fidelity(dense, confused)["fidelity_AP50"] == pytest.approx(76 / 101)
    assert fidelity(objects([1, 1, 1, 1]), confused)["fidelity_AP50"] == 0
    # Weak dense detections need not be found; without others there is nothing to say.
    weak = objects([0, 0, 0, 1], score=0.2)
    assert fidelity(weak, weak) == {"fidelity_AP50": None, "fidelity_class_AP50": None}


def test_boxes_of_two_classes_never_meet():
    """A box as large as the frame and beyond, in every class beside every other."""
    large = [[-90.0, -50.0, 190.0, 110.0]]
    for label in (1, 2, 79):
        found = fidelity(objects([0], large), objects([label], large))
        assert found["fidelity_AP50"] == 0


def test_label_maps_come_back_from_the_file():
    pytest.importorskip("mmseg")
    kept, maps = DenseAnswers(), []
    for kind, shape in ((np.uint8, (5, 7)), (np.int16, (3, 4)), (np.uint8, (2, 2))):
        maps.append(np.random.default_rng(1).integers(0, 200, shape).astype(kind))
        kept.append(LabelMap(maps[-1].T.copy().T, 200))
    for index in (2, 0, 1):
        assert np.array_equal(kept[index].labels, maps[index]) and kept[index].classes == 200
    assert len(kept) == 3
    kept.close()


def test_agreement_and_mean_iou():
    pytest.importorskip("mmseg")
    dense, found = np.zeros((2, 4, 5), np.uint8), np.zeros((2, 4, 5), np.uint8)
    dense[:, :, :2], found[:, :, :1] = 1, 1
    kept = DenseAnswers()
    for labels in dense:
        kept.append(LabelMap(labels, 3))
    scores = new_scores(kept)
    truth = LabelMap(np.where(np.arange(5) == 1, 255, found[0]).astype(np.uint8), 0)
    scores.add(LabelMap(found[0], 3), truth)
    scores.add(LabelMap(found[1], 3), None)
    got = scores.figures(slice(None))
    assert got["agreement"] == pytest.approx(0.8)
    # Class 0: 3 of 4 columns, class 1: 1 of 2, class 2 does not occur. Void does not count.
    assert got["fidelity_mIoU"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert got["mIoU"] == 1
    assert scores.figures(slice(1, 2))["mIoU"] is None, "no label image there"


def test_windows():
    assert list(windows(50)) == ["all"]
    assert windows(51) == {"all": slice(0, 51), "first_50": slice(0, 50), "after_50": slice(50, 51)}


def test_truth_that_does_not_fit():
    pytest.importorskip("mmseg")
    kept = DenseAnswers()
    kept.append(LabelMap(np.zeros((4, 5), np.uint8), 3))
    answer = kept[0]
    for labels, message in (
        (np.zeros((4, 6)), r"labels are \(4, 5\).*compare with \(4, 6\)"),
        (np.full((4, 5), 11), "has the label 11, but the network has 3 classes.*ignore_label"),
    ):
        with pytest.raises(ConfigError, match=message):
            new_scores(kept).add(answer, LabelMap(labels, 0))
    with pytest.raises(ConfigError, match="is of FrameObjects, but the network is a segmentor"):
        new_scores(kept).add(answer, objects([0, 0, 0, 1]))

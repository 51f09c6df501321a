"""Mean IoU and accuracies against values computed by hand."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg")

from blockcopy_plugins.errors import ConfigError, StateError  # noqa: E402
from blockcopy_plugins.evaluation import FrameSegmentationMetric  # noqa: E402


def sample(frame_id, found, truth=None, video_id=0, **more):
    made = dict(
        video_id=video_id,
        frame_id=frame_id,
        pred_sem_seg=dict(data=torch.tensor(found)[None]),
        **more,
    )
    if truth is not None:
        made["gt_sem_seg"] = dict(data=torch.tensor(truth)[None])
    return made


def evaluate(samples, classes=("a", "b", "c"), size=None, **options):
    metric = FrameSegmentationMetric(**options)
    metric.dataset_meta = None if classes is None else dict(classes=classes)
    metric.process({}, samples)
    return metric, metric.evaluate(len(samples) if size is None else size)


SAMPLES = (
    sample(0, [[0, 0, 1, 1]], [[0, 1, 1, 255]]),
    sample(1, [[2, 2, 2, 2]]),  # not labelled
    sample(2, [[1, 1, 0, 0]], [[1, 1, 1, 0]]),
)


def test_values_by_hand():
    _, found = evaluate(SAMPLES)
    # Class 0: 2 of 4 px, class 1: 3 of 5 px, class 2 neither found nor there. 5 of 7 px right.
    assert found == {
        "video/frames": 3.0,
        "video/annotated_frames": 2.0,
        "video/mIoU": pytest.approx((2 / 4 + 3 / 5) / 2, abs=5e-5),
        "video/aAcc": pytest.approx(5 / 7, abs=5e-5),
        "video/mAcc": pytest.approx((2 / 2 + 3 / 5) / 2, abs=5e-5),
    }


def test_it_agrees_with_mmsegmentation_on_labelled_frames():
    from mmseg.evaluation import IoUMetric

    random = np.random.default_rng(0)
    samples = [
        sample(i, random.integers(0, 3, (9, 7)).tolist(), random.integers(0, 3, (9, 7)).tolist())
        for i in range(4)
    ]
    theirs = IoUMetric(prefix="their")
    theirs.dataset_meta = dict(classes=("a", "b", "c"))
    theirs.process({}, samples)
    wanted = theirs.evaluate(4)
    _, found = evaluate(samples)
    for name in ("mIoU", "aAcc", "mAcc"):
        assert found[f"video/{name}"] == pytest.approx(float(wanted[f"their/{name}"]) / 100)


def test_nothing_is_cut_to_the_size_of_the_dataset(caplog):
    with caplog.at_level(logging.WARNING):
        metric, found = evaluate(SAMPLES, size=1)
    assert found["video/frames"] == 3 and "3 frames were evaluated" in caplog.text
    assert [(r.key, r.areas is not None) for r in metric.last_results] == [
        ((0, 0), True),
        ((0, 1), False),
        ((0, 2), True),
    ]


def test_order_does_not_matter():
    metric, found = evaluate(SAMPLES[::-1])
    assert found == evaluate(SAMPLES)[1]
    assert [result.key for result in metric.last_results] == [(0, 0), (0, 1), (0, 2)]


def test_another_label_is_ignored():
    samples = [sample(0, [[0, 0, 1, 1]], [[0, 1, 1, 11]])]
    assert evaluate(samples, ignore_index=11)[1]["video/aAcc"] == pytest.approx(2 / 3, abs=5e-5)
    with pytest.raises(ConfigError, match="labels 0 to 11, but there are 3 classes"):
        evaluate(samples)


def test_no_labels_no_figures():
    assert evaluate([SAMPLES[1]])[1] == {"video/frames": 1.0, "video/annotated_frames": 0.0}


def test_without_names_the_classes_are_counted():
    logits = dict(data=torch.zeros(3, 1, 4))
    found = sample(0, [[0, 2, 2, 1]], [[0, 2, 2, 2]], seg_logits=logits)
    assert evaluate([found], classes=None)[1]["video/aAcc"] == 0.75
    binary = sample(0, [[0.0, 1.0]], [[0, 1]], seg_logits=dict(data=torch.zeros(1, 1, 2)))
    assert evaluate([binary], classes=None)[1]["video/mIoU"] == 1
    with pytest.raises(ConfigError, match="names no classes"):
        evaluate([sample(0, [[0]], [[0]])], classes=None)


def test_a_whole_frame_of_ignored_pixels_counts_nothing():
    more = (*SAMPLES, sample(3, [[0, 1, 2, 1]], [[255] * 4]))
    found = evaluate(more)[1]
    assert found.pop("video/annotated_frames") == 3 and found.pop("video/frames") == 4
    assert found == {k: v for k, v in evaluate(SAMPLES)[1].items() if k in found}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (sample(0, [[0, 1]], [[0, 1, 1]]), "has the shape.*after Resize"),
        (sample(0, [[0, 1]], [[0, -1]], seg_map_path="x.png"), "x.png holds the labels -1 to 0"),
        (sample(0, [[0, 3]], [[0, 1]]), "finds the class 3, but the dataset names 3 classes"),
        (dict(video_id=0, frame_id=0), "lacks pred_sem_seg.*VideoFrameDataset"),
        (dict(pred_sem_seg=dict(data=torch.zeros(1, 1, 1))), "lacks video_id, frame_id"),
    ],
)
def test_what_does_not_fit_is_refused(bad, message):
    with pytest.raises(ConfigError, match=message):
        evaluate([bad])


def test_a_frame_twice_is_an_error():
    with pytest.raises(StateError, match="more than once"):
        evaluate([SAMPLES[0], SAMPLES[0]])


def test_one_labelled_frame_of_twenty_equals_mmsegs_own_metric():
    """As Cityscapes: clips of 20 frames of which the last is labelled, 19 classes, void is 255."""
    from mmseg.evaluation import IoUMetric

    random = np.random.default_rng(0)
    names = [f"class {i}" for i in range(19)]
    samples, labelled = [], []
    for video in range(3):
        for frame in range(20):
            # Some classes do not occur, some are found and not there.
            truth = random.integers(0, 15, (24, 48))
            found = np.where(
                random.random(truth.shape) < 0.7, truth, random.integers(2, 17, (24, 48))
            )
            truth[random.random(truth.shape) < 0.2] = 255
            last = frame == 19
            samples.append(sample(frame, found, truth if last else None, video_id=video))
            if last:
                labelled.append(samples[-1])
    reference = IoUMetric(iou_metrics=["mIoU"], ignore_index=255)
    reference.dataset_meta = dict(classes=names)
    reference.process({}, labelled)
    wanted = reference.evaluate(len(labelled))
    found = evaluate(samples, names)[1]
    assert (found["video/frames"], found["video/annotated_frames"]) == (60, 3)
    for name in ("mIoU", "aAcc", "mAcc"):
        assert found[f"video/{name}"] == pytest.approx(wanted[name] / 100, abs=1e-6)
    assert 0.2 < found["video/mIoU"] < 0.9

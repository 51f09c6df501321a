"""Average precision by hand, and against pycocotools used directly through COCO files."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from pycocotools import mask as coco_mask  # noqa: E402
from pycocotools.coco import COCO  # noqa: E402
from pycocotools.cocoeval import COCOeval  # noqa: E402

from blockcopy_plugins.datasets.ground_truth import FrameObjects  # noqa: E402
from blockcopy_plugins.errors import ConfigError  # noqa: E402
from blockcopy_plugins.evaluation import detection_ap, detection_fidelity  # noqa: E402

SIZE = (200, 300)
BOX = [10, 10, 50, 60]
FAR = [150, 100, 190, 150]


def truth(boxes, labels=None, **more):
    return FrameObjects(boxes, np.zeros(len(boxes)) if labels is None else labels, SIZE, **more)


def found(boxes, scores, labels=None, **more):
    return truth(boxes, labels, scores=scores, **more)


def test_perfect_detections():
    result = detection_ap([truth([BOX, FAR])], [found([FAR, BOX], [0.3, 0.9])])
    assert result["AP"] == pytest.approx(1)
    assert result["AP50"] == pytest.approx(1)
    assert result["AP_medium"] == pytest.approx(1)
    assert math.isnan(result["AP_small"])


def test_by_hand_a_wrong_one_ranked_first_and_half_of_the_objects_found():
    # Ranks: wrong, right. Precision 1/2 up to recall 1/2 (51 of 101 recall points), then 0.
    result = detection_ap([truth([BOX, FAR])], [found([[200, 0, 240, 40], BOX], [0.9, 0.8])])
    assert result["AP50"] == pytest.approx(51 / 101 * 0.5)
    # The other way round the wrong one comes when all that is found has been found.
    result = detection_ap([truth([BOX, FAR])], [found([[200, 0, 240, 40], BOX], [0.7, 0.8])])
    assert result["AP50"] == pytest.approx(51 / 101)


def test_by_hand_iou_thresholds():
    # 40 x 50 px shifted by 10 px: IoU 30/50 = 0.6, so right at 0.50, 0.55 and 0.60 of ten.
    result = detection_ap([truth([BOX])], [found([[20, 10, 60, 60]], [0.5])])
    assert result["AP50"] == pytest.approx(1)
    assert result["AP75"] == 0
    assert result["AP"] == pytest.approx(0.3)


def test_detections_are_ranked_over_frames():
    frames = [truth([BOX]), truth([]), truth([BOX])]
    predictions = [found([BOX], [0.9]), found([BOX], [0.95]), found([BOX], [0.8])]
    # Ranks: wrong, right, right: precision 2/3 at every recall.
    assert detection_ap(frames, predictions)["AP50"] == pytest.approx(2 / 3)


def test_nothing_to_find_and_nothing_found():
    everything_nan = detection_ap([truth([])], [found([BOX], [0.9])])
    assert set(everything_nan) == {"AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"}
    assert all(math.isnan(v) for v in everything_nan.values())
    assert all(math.isnan(v) for v in detection_ap([], []).values())
    only_ignored = detection_ap([truth([BOX], ignore=[True])], [found([BOX], [0.9])])
    assert math.isnan(only_ignored["AP"])
    missed = detection_ap([truth([BOX])], [found([], [])], sizes=False)
    assert missed == {"AP": 0, "AP50": 0, "AP75": 0}


def test_classes_are_averaged_and_those_without_truth_left_out():
    result = detection_ap(
        [truth([BOX, FAR], [0, 3])], [found([BOX, FAR, FAR], [0.9, 0.9, 0.9], [0, 2, 1])]
    )
    assert result["AP50"] == pytest.approx(0.5)


def test_ignored_objects_take_one_detection_and_are_not_missed():
    frame = truth([BOX, FAR], ignore=[False, True])
    assert detection_ap([frame], [found([BOX], [0.5])])["AP"] == pytest.approx(1)
    assert detection_ap([frame], [found([FAR, BOX], [0.9, 0.5])])["AP"] == pytest.approx(1)
    # The second detection of the ignored object is a wrong one: ranks wrong, right.
    twice = found([FAR, FAR, BOX], [0.9, 0.8, 0.5])
    assert detection_ap([frame], [twice])["AP"] == pytest.approx(0.5)
    # So is one that merely lies inside it.
    inside = found([[155, 105, 165, 115], BOX], [0.9, 0.5])
    assert detection_ap([frame], [inside])["AP50"] == pytest.approx(0.5)


def test_crowds_take_any_number_of_what_lies_inside():
    frame = truth([BOX, FAR], crowd=[False, True])
    several = found([FAR, FAR, [155, 105, 165, 115], BOX], [0.9, 0.8, 0.7, 0.5])
    assert detection_ap([frame], [several])["AP"] == pytest.approx(1)


def test_nothing_is_printed(capfd):
    detection_ap([truth([BOX])], [found([BOX], [0.9])])
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_only_the_best_detections_count():
    frame = [truth([BOX])]
    predictions = [found([FAR, BOX], [0.9, 0.8])]
    assert detection_ap(frame, predictions, max_detections=1)["AP50"] == 0
    assert detection_ap(frame, predictions, max_detections=2)["AP50"] == pytest.approx(0.5)


def test_unfit_arguments():
    with pytest.raises(ConfigError, match="'bbox' or 'segm', but got 'keypoints'"):
        detection_ap([], [], "keypoints")
    with pytest.raises(ConfigError, match="of 1 frames, but predictions of 0"):
        detection_ap([truth([])], [])
    with pytest.raises(ConfigError, match="frame 0 have no scores"):
        detection_ap([truth([BOX])], [truth([BOX])])
    with pytest.raises(ConfigError, match="frame 0 have no masks"):
        detection_ap([truth([BOX])], [found([BOX], [1])], "segm")


def random_scene(generator, frames=12, classes=3):
    """Random objects, detections near them, and both as COCO dicts."""
    truths, predictions, coco_truth, coco_found = [], [], [], []
    for image in range(frames):
        count = int(generator.integers(0, 6))
        xy = generator.uniform(0, 150, (count, 2))
        boxes = np.concatenate([xy, xy + generator.uniform(4, 140, (count, 2))], 1).round(1)
        labels = generator.integers(0, classes, count)
        crowd = generator.random(count) < 0.2
        shift = generator.normal(0, 6, (count, 4))
        extra = generator.uniform(0, 150, (2, 2))
        near = np.concatenate([boxes + shift, np.concatenate([extra, extra + 60], 1)]).round(1)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 2)
        near_labels = np.concatenate([labels, generator.integers(0, classes, 2)])
        scores = generator.random(len(near)).round(3)

        def masks(rectangles):
            encoded = []
            for x1, y1, x2, y2 in rectangles:
                mask = np.zeros(SIZE, np.uint8, order="F")
                mask[max(int(y1), 0) : max(int(y2), 0), max(int(x1), 0) : max(int(x2), 0)] = 1
                encoded.append(coco_mask.encode(mask))
            return encoded

        truth_masks, found_masks = masks(boxes), masks(near)
        truths.append(truth(boxes, labels, crowd=crowd, masks=tuple(truth_masks)))
        predictions.append(found(near, scores, near_labels, masks=tuple(found_masks)))
        for entries, bs, ls, ms in (
            (coco_truth, boxes, labels, truth_masks),
            (coco_found, near, near_labels, found_masks),
        ):
            for i, (x1, y1, x2, y2) in enumerate(bs.tolist()):
                entry = dict(image_id=image, category_id=int(ls[i]) + 1, segmentation=ms[i])
                entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
                if entries is coco_truth:
                    entry.update(id=len(entries) + 1, iscrowd=int(crowd[i]))
                else:
                    entry["score"] = float(scores[i])
                entries.append(entry)
    return truths, predictions, coco_truth, coco_found


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools(iou_type, seed):
    truths, predictions, coco_truth, coco_found = random_scene(np.random.default_rng(seed))
    for entry in coco_truth:
        width, height = entry["bbox"][2:]
        area = coco_mask.area(entry["segmentation"]) if iou_type == "segm" else width * height
        entry["area"] = float(area)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dict(
            info={},
            images=[dict(id=i, height=SIZE[0], width=SIZE[1]) for i in range(len(truths))],
            categories=[dict(id=i + 1, name=str(i)) for i in range(3)],
            annotations=coco_truth,
        )
        coco.createIndex()
        # loadRes takes the boxes' area where there are boxes; masks are measured by their own.
        results = [
            {k: v for k, v in r.items() if k != ("segmentation" if iou_type == "bbox" else "bbox")}
            for r in coco_found
        ]
        evaluation = COCOeval(coco, coco.loadRes(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = dict(
        zip(
            ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
            evaluation.stats[:6],
            strict=True,
        )
    )
    result = detection_ap(truths, predictions, iou_type)
    assert 0.05 < expected["AP50"] < 0.99
    for name, value in expected.items():
        if value == -1:
            assert math.isnan(result[name])
        else:
            assert result[name] == pytest.approx(value, abs=1e-12)


def test_fidelity_of_the_same_detections_is_one():
    _, predictions, _, _ = random_scene(np.random.default_rng(7))
    result = detection_fidelity(predictions, predictions)
    assert set(result) == {f"{t}_{n}" for t in ("bbox", "segm") for n in ("AP", "AP50", "AP75")}
    assert all(v == pytest.approx(1) for v in result.values())


def test_fidelity_ignores_what_is_weak_and_punishes_what_is_strong():
    dense = found([BOX, FAR], [0.9, 0.29])
    crossed = found([BOX, FAR], [0.9, 0.95])
    assert detection_fidelity([crossed], [dense])["bbox_AP"] == pytest.approx(1)
    ghost = found([BOX, [200, 0, 240, 40]], [0.9, 0.95])
    assert detection_fidelity([ghost], [dense])["bbox_AP"] == pytest.approx(0.5)
    lost = found([], [])
    assert detection_fidelity([lost], [dense])["bbox_AP"] == 0
    assert math.isnan(detection_fidelity([lost], [lost])["bbox_AP"])
    low = detection_fidelity([found([BOX], [0.9])], [dense], score_threshold=0.2)
    assert low["bbox_AP"] == pytest.approx(51 / 101)


def test_fidelity_needs_the_same_frames():
    with pytest.raises(ConfigError, match="of 1 frames, but dense ones of 2"):
        detection_fidelity([found([], [])], [found([], [])] * 2)
    other = FrameObjects([], [], (10, 10), scores=[])
    with pytest.raises(ConfigError, match=r"\(10, 10\) px in the sparse run, but \(200, 300\)"):
        detection_fidelity([other], [found([], [])])

"""CityPersonsMetric on data samples: which of them count, and what the figures are called."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("mmdet")

from mmdet.structures import DetDataSample  # noqa: E402
from mmengine.evaluator import Evaluator  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from blockcopy_plugins.errors import ConfigError  # noqa: E402
from blockcopy_plugins.evaluation import CityPersonsMetric, FrameDetectionMetric  # noqa: E402

SIZE = (400, 800)
A, B, C = ([x, 100, x + 40, 200] for x in (0, 200, 400))
CLASSES = ("car", "person")


def sample(frame_id, instances, boxes=(), labels=None, scores=None):
    data = DetDataSample(metainfo=dict(video_id=0, frame_id=frame_id, ori_shape=SIZE))
    if instances is not None:
        data.set_metainfo(dict(instances=instances))
    data.pred_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores or [0.9] * len(boxes)),
        labels=torch.tensor(labels or [1] * len(boxes), dtype=torch.long),
    )
    return data


def person(box, label=1, **more):
    return dict(bbox=box, bbox_label=label, ignore_flag=0, **more)


def evaluate(samples, classes=CLASSES, metric=None, **options):
    metric = metric or CityPersonsMetric(**options)
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = dict(classes=classes)
    evaluator.process(data_samples=samples)
    return evaluator.evaluate(len(samples))


def miss_rates(result):
    return {name[9:]: value for name, value in result.items() if name.startswith("video/MR_")}


HALF_FOUND = pytest.approx((0.5**9) ** (1 / 9))


def test_precision_as_before_and_four_miss_rates_besides():
    samples = [sample(0, [person(A), person(B)], [A]), sample(1, [person(C)], [B])]
    result = evaluate(samples)
    plain = evaluate(samples, metric=FrameDetectionMetric())
    assert {name: result[name] for name in plain} == pytest.approx(plain, nan_ok=True)
    assert set(result) - set(plain) == {
        f"video/MR_{name}" for name in ("Reasonable", "Reasonable_small", "Heavy", "All")
    }


def test_values_by_hand_where_visible_parts_are_given():
    """A is fully visible, B by 0.5 (its left half), C by 0.65 of it as stated."""
    left = [B[0], B[1], B[0] + 20, B[3]]
    instances = [person(A), person(B, bbox_vis=left), person(C, vis_ratio=0.65, bbox_vis=C)]
    found = miss_rates(evaluate([sample(0, instances, [A, B])]))
    # Reasonable are A and C, heavily occluded are B and C (0.65 is in both), all are all.
    assert found["Reasonable"] == found["Heavy"] == HALF_FOUND
    assert found["All"] == pytest.approx(1 / 3)
    assert math.isnan(found["Reasonable_small"])


def test_only_annotated_frames_are_images(caplog):
    """One false positive in the one annotated frame is one per image."""
    samples = [sample(0, [person(A)], [A, B], scores=[0.5, 0.9])]
    samples += [sample(i, None, [A]) for i in range(1, 100)]
    with caplog.at_level("WARNING"):
        found = miss_rates(evaluate(samples))
    assert found["Reasonable"] == pytest.approx(1e-10 ** (1 / 9))  # found at the last point alone
    assert [r.message for r in caplog.records if "fully visible" in r.message] != []
    assert math.isnan(found["Heavy"])
    assert miss_rates(evaluate([sample(0, None, [A])])) == {}


def test_nothing_is_said_where_visible_parts_are_known(caplog):
    with caplog.at_level("WARNING"):
        evaluate([sample(0, [person(A, vis_ratio=1.0)], [A]), sample(1, [], [])])
        evaluate([sample(0, [], [A])])
    assert "visible" not in caplog.text


def test_other_classes_do_not_count():
    instances = [person(A), person(B, label=0)]
    found = miss_rates(evaluate([sample(0, instances, [C, A], [0, 1], [0.9, 0.5])]))
    assert found["Reasonable"] == pytest.approx(0, abs=1e-9)
    named = miss_rates(
        evaluate([sample(0, instances, [C, A], [0, 1], [0.9, 0.5])], pedestrian_classes="car")
    )
    assert named["Reasonable"] == 1
    both = miss_rates(
        evaluate([sample(0, instances, [A], [1])], pedestrian_classes=("car", "person"))
    )
    assert both["Reasonable"] == HALF_FOUND


def test_ignored_instances_and_annotated_heights():
    wide = [0, 300, 800, 380]
    instances = [person(A, height=100), dict(bbox=wide, bbox_label=1, ignore_flag=1, height=80)]
    inside = [300, 310, 330, 375]
    found = miss_rates(evaluate([sample(0, instances, [inside, A], scores=[0.9, 0.5])]))
    assert found["Reasonable"] == pytest.approx(0, abs=1e-9)
    small = miss_rates(evaluate([sample(0, [person(A, height=60)], [])]))
    assert small["Reasonable_small"] == 1


def test_unknown_classes_are_refused():
    with pytest.raises(ConfigError, match=r"\('pedestrian', 'person'\).*\('car', 'truck'\)"):
        evaluate([sample(0, [person(A)], [A])], classes=("car", "truck"))
    with pytest.raises(ConfigError, match="is empty"):
        CityPersonsMetric(pedestrian_classes=())

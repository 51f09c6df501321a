"""FrameDetectionMetric in one process, in two, and at the end of a Runner's test loop."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest
import torch
import torch.multiprocessing

pytest.importorskip("mmdet")

from mmdet.structures import DetDataSample  # noqa: E402
from mmengine.evaluator import Evaluator  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402
from pycocotools import mask as coco_mask  # noqa: E402
from pycocotools.coco import COCO  # noqa: E402
from pycocotools.cocoeval import COCOeval  # noqa: E402

from blockcopy_plugins.errors import ConfigError, StateError  # noqa: E402
from blockcopy_plugins.evaluation import (  # noqa: E402
    FrameDetectionMetric,
    detection_ap,
    detection_fidelity,
)
from blockcopy_plugins.integrations.common.video_shares import share_videos  # noqa: E402

SIZE = (60, 80)
LENGTHS = [5, 2, 3]


def sample(video, frame, masks=False, annotated=True):
    """A data sample whose detections and ground truth are random, but the same at each call."""
    generator = np.random.default_rng(100 * video + frame)
    xy = generator.uniform(0, 40, (3, 2))
    truth = np.concatenate([xy, xy + generator.uniform(8, 20, (3, 2))], 1)
    found = truth + generator.normal(0, 1.5, truth.shape)
    data = DetDataSample(
        metainfo=dict(video_id=video, frame_id=frame, img_id=10 * video + frame, ori_shape=SIZE)
    )
    labels = generator.integers(0, 2, 3)
    if annotated:
        instances = [
            dict(bbox=b, bbox_label=int(c), ignore_flag=0)
            for b, c in zip(truth.tolist(), labels, strict=True)
        ]
        if masks:
            for instance, (x1, y1, x2, y2) in zip(instances, truth.tolist(), strict=True):
                instance["mask"] = [[x1, y1, x2, y1, x2, y2, x1, y2]]
        data.set_metainfo(dict(instances=instances))
    data.pred_instances = InstanceData(
        bboxes=torch.tensor(found, dtype=torch.float32),
        scores=torch.tensor(generator.random(3), dtype=torch.float32),
        labels=torch.tensor(labels),
    )
    if masks:
        grid_y, grid_x = torch.meshgrid(*(torch.arange(s) for s in SIZE), indexing="ij")
        data.pred_instances.masks = torch.stack(
            [
                (grid_x >= x1) & (grid_x < x2) & (grid_y >= y1) & (grid_y < y2)
                for x1, y1, x2, y2 in found
            ]
        )
    return data


def frames_of(videos, lengths=LENGTHS):
    return [(video, frame) for video in videos for frame in range(lengths[video])]


def evaluate(keys, size=None, metric=None, **options):
    metric = metric or FrameDetectionMetric()
    evaluator = Evaluator(metric)
    for key in keys:
        evaluator.process([sample(*key, **options)], None)
    return evaluator.evaluate(len(keys) if size is None else size)


def test_one_process_equals_detection_ap():
    keys = frames_of(range(3))
    metric = FrameDetectionMetric()
    result = evaluate(keys, metric=metric)
    assert result["video/frames"] == result["video/annotated_frames"] == 10
    assert [r.key for r in metric.last_results] == keys
    expected = detection_ap(
        [r.ground_truth for r in metric.last_results], [r.predictions for r in metric.last_results]
    )
    for name, value in expected.items():
        np.testing.assert_equal(result[f"video/bbox_{name}"], value)
    assert 0.05 < result["video/bbox_AP"] < 0.95
    assert metric.results == []
    assert not any("segm" in name for name in result)


def test_masks_are_kept_as_codes_and_evaluated():
    metric = FrameDetectionMetric(prefix="mine")
    evaluator = Evaluator(metric)
    evaluator.process([sample(0, 0, masks=True)], None)
    assert all(isinstance(m["counts"], bytes) for m in metric.results[0].predictions.masks)
    result = evaluator.evaluate(1)
    assert 0 < result["mine/segm_AP50"] <= 1
    only_boxes = evaluate([(0, 0)], metric=FrameDetectionMetric(iou_types="bbox"), masks=True)
    assert not any("segm" in name for name in only_boxes)
    with pytest.raises(ConfigError, match="no masks"):
        evaluate([(0, 0)], metric=FrameDetectionMetric(iou_types=["segm"]))


def test_order_does_not_matter_and_results_are_sorted():
    keys = frames_of(range(3))
    metric = FrameDetectionMetric()
    shuffled = [keys[i] for i in np.random.default_rng(0).permutation(len(keys))]
    np.testing.assert_equal(evaluate(shuffled, metric=metric), evaluate(keys))
    assert [r.key for r in metric.last_results] == keys


def test_more_results_than_items_are_not_cut(caplog):
    keys = frames_of(range(3))
    with caplog.at_level("WARNING"):
        np.testing.assert_equal(evaluate(keys, size=3), evaluate(keys))
    assert "10 frames were evaluated, but the dataset has 3" in caplog.text


def test_repeated_frames_are_an_error():
    with pytest.raises(StateError, match="1 frames .*video 1, frame 0.*VideoSampler"):
        evaluate([(0, 0), (1, 0), (1, 0)])


def test_frames_without_annotations_do_not_count():
    metric = FrameDetectionMetric()
    evaluator = Evaluator(metric)
    for key in frames_of([0]):
        evaluator.process([sample(*key, annotated=key[1] < 2)], None)
    result = evaluator.evaluate(5)
    assert (result["video/frames"], result["video/annotated_frames"]) == (5, 2)
    only_annotated = evaluate(frames_of([0])[:2])
    assert result["video/bbox_AP"] == only_annotated["video/bbox_AP"]
    assert [r.ground_truth is None for r in metric.last_results] == [False] * 2 + [True] * 3
    unannotated = evaluate(frames_of([0]), annotated=False)
    assert unannotated == {"video/frames": 5, "video/annotated_frames": 0}
    predictions = [r.predictions for r in metric.last_results]
    assert detection_fidelity(predictions, predictions)["bbox_AP"] == pytest.approx(1)


def test_annotated_as_empty_is_not_the_same_as_not_annotated():
    data = sample(0, 0)
    data.set_metainfo(dict(instances=[]))
    evaluator = Evaluator(FrameDetectionMetric())
    evaluator.process([data], None)
    result = evaluator.evaluate(1)
    assert result["video/annotated_frames"] == 1
    assert math.isnan(result["video/bbox_AP"])


def test_unfit_samples_and_arguments():
    metric = FrameDetectionMetric()
    with pytest.raises(ConfigError, match=r"lacks video_id, frame_id.*VideoFrameDataset"):
        metric.process(None, [dict(pred_instances={}, ori_shape=SIZE)])
    with pytest.raises(ConfigError, match="got \\['keypoints'\\]"):
        FrameDetectionMetric(iou_types=["bbox", "keypoints"])
    assert evaluate([]) == {"video/frames": 0, "video/annotated_frames": 0}


def _evaluate_in_a_process(rank, world_size, folder, cases):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    report = []
    for lengths in cases:
        keys = frames_of(share_videos(dict(enumerate(lengths)), world_size)[rank], lengths)
        metric = FrameDetectionMetric()
        result = evaluate(keys, size=sum(lengths), metric=metric)
        report.append((len(keys), result, [r.key for r in metric.last_results]))
    try:
        evaluate([(0, 0)])  # in both processes: the frame is there twice
    except StateError as error:
        report.append(str(error))
    torch.save(report, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_what_one_gives(tmp_path):
    cases = [LENGTHS, [4]]
    torch.multiprocessing.spawn(_evaluate_in_a_process, (2, str(tmp_path), cases), nprocs=2)
    reports = [torch.load(tmp_path / f"{r}.pt", weights_only=False) for r in range(2)]
    for case, lengths in enumerate(cases):
        assert [r[case][0] for r in reports] == ([5, 5] if lengths == LENGTHS else [4, 0])
        keys = frames_of(range(len(lengths)), lengths)
        expected = evaluate(keys)
        for report in reports:
            np.testing.assert_equal(report[case][1], expected)
            assert report[case][2] == keys
    assert all("video 0, frame 0" in report[-1] for report in reports)


def test_one_annotated_frame_of_twenty_with_groups_equals_pycocotools():
    """As Cityscapes: 8 classes of things with masks, and groups that need not be told apart."""
    generator = np.random.default_rng(0)
    evaluator, classes = Evaluator(metric := FrameDetectionMetric()), 8
    entries, found = [], []
    for video in range(4):
        for frame in range(20):
            data = sample(video, frame, masks=True, annotated=False)
            data.pred_instances.labels = torch.from_numpy(generator.integers(0, classes, 3))
            if frame == 19:
                instances = []
                for _ in range(12):
                    x1, y1, width, height = generator.integers(2, 40, 4).tolist()
                    mask = np.zeros(SIZE, np.uint8, order="F")
                    mask[y1 : y1 + height, x1 : x1 + width] = 1
                    group, label = int(generator.random() < 0.3), int(generator.integers(classes))
                    instances.append(
                        dict(
                            bbox=[x1, y1, x1 + width, y1 + height],
                            bbox_label=label,
                            mask=coco_mask.encode(mask),
                            area=int(mask.sum()),
                            ignore_flag=group,
                            iscrowd=group,
                        )
                    )
                data.set_metainfo(dict(instances=instances))
                # Found are two thirds of them, a pixel aside, and the random ones.
                near = [i for i in instances if generator.random() < 0.67]
                masks = [np.roll(coco_mask.decode(i["mask"]), 1, 1) for i in near]
                data.pred_instances = InstanceData.cat(
                    [
                        data.pred_instances,
                        InstanceData(
                            bboxes=torch.tensor([i["bbox"] for i in near]) + 1.0,
                            scores=torch.from_numpy(generator.random(len(near))),
                            labels=torch.tensor([i["bbox_label"] for i in near]),
                            masks=torch.from_numpy(np.stack(masks)).bool(),
                        ),
                    ]
                )
                for i in instances:
                    x1, y1, x2, y2 = i["bbox"]
                    entries.append(
                        dict(
                            id=len(entries) + 1,
                            image_id=video,
                            category_id=i["bbox_label"],
                            bbox=[x1, y1, x2 - x1, y2 - y1],
                            segmentation=i["mask"],
                            area=i["area"],
                            iscrowd=i["iscrowd"],
                        )
                    )
                p = data.pred_instances
                for j, (x1, y1, x2, y2) in enumerate(p.bboxes.tolist()):
                    mask = np.asfortranarray(p.masks[j].numpy().astype(np.uint8))
                    found.append(
                        dict(
                            image_id=video,
                            category_id=int(p.labels[j]),
                            score=float(p.scores[j]),
                            bbox=[x1, y1, x2 - x1, y2 - y1],
                            segmentation=coco_mask.encode(mask),
                        )
                    )
            evaluator.process([data], None)
    result = evaluator.evaluate(80)
    assert (result["video/frames"], result["video/annotated_frames"]) == (80, 4)
    assert sum(len(r.predictions) > 3 for r in metric.last_results) == 4
    for iou_type, left_out in (("bbox", "segmentation"), ("segm", "bbox")):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO()
            coco.dataset = dict(
                info={},
                images=[dict(id=i, height=SIZE[0], width=SIZE[1]) for i in range(4)],
                categories=[dict(id=i, name=str(i)) for i in range(classes)],
                annotations=entries,
            )
            coco.createIndex()
            kept = [{k: v for k, v in f.items() if k != left_out} for f in found]
            evaluation = COCOeval(coco, coco.loadRes(kept), iou_type)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        ours = [
            result[f"video/{iou_type}_{name}"]
            for name in ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
        ]
        wanted = np.where(evaluation.stats[:6] < 0, np.nan, evaluation.stats[:6])
        np.testing.assert_allclose(ours, wanted, atol=1e-12)
        assert 0.1 < ours[1] < 0.9

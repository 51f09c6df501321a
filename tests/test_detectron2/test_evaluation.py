"""Frames of videos through Detectron2's evaluation loop, and what must not deal them out."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.data import MapDataset  # noqa: E402
from detectron2.data.samplers import InferenceSampler, TrainingSampler  # noqa: E402
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

import blockcopy_plugins as bc  # noqa: E402
from benchmarks.zoo import detectron2_models as models  # noqa: E402
from blockcopy_plugins.errors import ConfigError  # noqa: E402
from blockcopy_plugins.integrations.detectron2 import (  # noqa: E402
    BlockCopyCallbacks,
    BlockCopyEvaluator,
    ModelConfig,
    VideoFrameDataset,
    VideoFrameMapper,
    VideoRun,
    VideoSampler,
    build_video_test_loader,
    inference_on_video,
)
from blockcopy_plugins.integrations.detectron2.label_agreement import LabelAgreement  # noqa: E402
from blockcopy_plugins.integrations.detectron2.policy_training import train_policy  # noqa: E402
from blockcopy_plugins.integrations.detectron2.sampler import refuse_cut_videos  # noqa: E402
from tests.test_detectron2 import laws  # noqa: E402

HALF = dict(type="EveryNthFramePolicy", n=2)


class Noted(DatasetEvaluator):
    """Another evaluator, which notes what it is given."""

    def reset(self):
        self.seen = []

    def process(self, inputs, outputs):
        self.seen += [
            (x["video_name"], x["frame_id"], o) for x, o in zip(inputs, outputs, strict=True)
        ]

    def evaluate(self):
        return {"mine": {"frames": len(self.seen)}}


@pytest.fixture
def model(cfg):
    return ModelConfig.of(cfg).build()


@pytest.fixture
def mapper(cfg):
    source = ModelConfig.of(cfg)
    return VideoFrameMapper(source.augmentations(), source.input_format)


def write_video(folder, size, count, seed=1):
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i}.png"), random.integers(0, 256, (*size, 3), dtype=np.uint8))
    return folder


def test_items(video, pictures, cfg, tmp_path):
    other = write_video(tmp_path / "other", (96, 128), 3)
    dataset = VideoFrameDataset([video, other], frames=(1, 5), stride=2)
    assert [(i["video_id"], i["frame_id"], i["frame_number"]) for i in dataset] == [
        (0, 0, 1),
        (0, 1, 3),
        (1, 0, 1),
    ]
    first = dataset[0]
    assert np.array_equal(first["frame"], pictures[1])
    assert (first["height"], first["width"]) == pictures[1].shape[:2]
    assert first["file_name"] == str(video / "0001.png") and first["video_length"] == 2
    assert dataset.video_names == ["street", "other"] and dataset.video_of(2) == 1

    given = VideoFrameMapper([], "RGB")(first)
    wanted = pictures[1][:, :, ::-1].transpose(2, 0, 1).astype(np.float32)
    assert np.array_equal(given["image"].numpy(), wanted) and "frame" not in given
    with pytest.raises(ConfigError, match="frames"):
        VideoFrameDataset(video, frames=(9, None))
    with pytest.raises(ConfigError, match="stride"):
        VideoFrameDataset(video, stride=0)


def test_a_range_of_a_folders_images(pictures, tmp_path):
    """As MMDetection's data set has it: the frames' own paths, and annotations by their names."""
    (tmp_path / "dir").mkdir()
    for number, image in enumerate(pictures, 273):
        cv2.imwrite(str(tmp_path / f"dir/clip_{number:06d}.png"), image)
    height, width = pictures[0].shape[:2]
    content = {
        "images": [{"id": 7, "file_name": "dir/clip_000276.png", "height": height, "width": width}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "bbox": [4, 5, 10, 20], "area": 200}
        ],
        "categories": [{"id": 1, "name": "person"}],
    }
    (tmp_path / "ann.json").write_text(json.dumps(content))
    dataset = VideoFrameDataset(
        tmp_path / "dir/clip_{000275..000278}.png",
        ann_file=str(tmp_path / "ann.json"),
        classes=("person",),
    )
    items = list(dataset)
    assert [item["file_name"] for item in items] == [
        str(tmp_path / f"dir/clip_{n:06d}.png") for n in range(275, 279)
    ]
    for item, image in zip(items, pictures[2:], strict=True):
        assert np.array_equal(item["frame"], image)
    found = [[one["bbox"] for one in item.get("ground_truth", ())] for item in items]
    assert found == [[], [[4, 5, 14, 25]], [], []]


def test_whole_videos_for_each_process(video, tmp_path, monkeypatch):
    folders = [write_video(tmp_path / f"{n}", (64, 64), n) for n in (2, 3, 4)]
    dataset = VideoFrameDataset([video, *folders])  # 6, 2, 3 and 4 frames
    shares = []
    for rank in range(2):
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        shares.append(list(VideoSampler(dataset)))
    assert sorted(shares[0] + shares[1]) == list(range(15))
    videos = [{dataset.video_of(i) for i in share} for share in shares]
    assert not videos[0] & videos[1]
    assert all(share == sorted(share) for share in shares)
    assert sorted(map(len, shares)) == [7, 8]  # 6 + 2 and 3 + 4


def test_batches_run_in_lock_step(video, tmp_path):
    other = write_video(tmp_path / "short", (64, 64), 2)
    dataset = VideoFrameDataset([video, other])
    loader = build_video_test_loader(dataset, VideoFrameMapper([]), batch_size=2)
    seen = [[(x["video_id"], x["frame_id"]) for x in batch] for batch in loader]
    assert seen == [[(0, 0), (1, 0)], [(0, 1), (1, 1)], *([(0, i)] for i in range(2, 6))]
    shuffled = VideoSampler(dataset, shuffle=True)
    orders = set()
    for epoch in range(8):
        shuffled.set_epoch(epoch)
        orders.add(tuple(shuffled))
    assert orders == {(0, 1, 2, 3, 4, 5, 6, 7), (6, 7, 0, 1, 2, 3, 4, 5)}


def test_samplers_that_cut_videos_are_refused(video, monkeypatch):
    dataset = MapDataset(VideoFrameDataset(video), VideoFrameMapper([]))

    def loader(sampler, **options):
        return DataLoader(dataset, sampler=sampler, collate_fn=lambda batch: batch, **options)

    refuse_cut_videos(loader(InferenceSampler(6)))  # one process: in order
    with pytest.raises(ConfigError, match="does not give the frames of a video in order"):
        refuse_cut_videos(loader(TrainingSampler(6)))
    with pytest.raises(ConfigError, match="consecutive frames"):
        refuse_cut_videos(loader(InferenceSampler(6), batch_size=2))
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    with pytest.raises(ConfigError, match="InferenceSampler cuts .* in the middle of a video"):
        refuse_cut_videos(loader(InferenceSampler(6)))
    with pytest.raises(ConfigError, match="has none"):
        VideoSampler(dataset)


def test_all_executed_is_the_dense_model(model, mapper, video, tmp_path):
    other = write_video(tmp_path / "other", (160, 224), 2)
    loader = build_video_test_loader(VideoFrameDataset([video, other]), mapper)
    noted = Noted()
    results, own = inference_on_video(
        model,
        loader,
        [noted],
        bc.BlockCopyConfig(block_size=64, policy="all"),
        fidelity_threshold=0.0,
        warmup=1,
        mac_samples=2,
    )
    assert results["mine"] == {"frames": 8}
    assert [(n, i) for n, i, _ in noted.seen] == [
        *(("street", i) for i in range(6)),
        ("other", 0),
        ("other", 1),
    ]
    assert results["blockcopy"]["executed_rate"] == 100
    assert results["blockcopy"]["fidelity_bbox_AP"] > 99.9
    found = own.summary
    # Winograd and the like may count less; the same ops are counted on the other side.
    assert found["macs_outside_blocks"] > 0 and found["macs_dense"] > found["macs_outside_blocks"]
    assert found["frames"] == 8 and found["size"] == [160, 224]
    assert "forward" not in model.__dict__ and not model.training
    json.dumps(found, allow_nan=False)


def test_every_second_frame(model, mapper, video):
    loader = build_video_test_loader(VideoFrameDataset(video), mapper)
    results, own = inference_on_video(
        model, loader, config=bc.BlockCopyConfig(block_size=64, policy=HALF), warmup=1
    )
    assert own.summary["executed_rate"] == 0.5  # frames 0, 2 and 4
    assert [entry.executed_rate for entry in own.run.entries] == [1, 0, 1, 0, 1, 0]
    assert own.summary["macs_blockcopy"] < own.summary["macs_dense"]
    assert results["blockcopy"]["executed_rate"] == 50
    assert own.summary["speedup"] > 0 and own.summary["policy"] == "EveryNthFramePolicy"


def test_the_same_names_as_the_other_tool(model, mapper, video):
    """``results.json`` of MMEngine's loop has these, see its tests."""
    loader = build_video_test_loader(VideoFrameDataset(video, frames=(0, 2)), mapper)
    _, own = inference_on_video(model, loader, config=bc.BlockCopyConfig(block_size=64))
    wanted = {
        *("frames", "size", "executed_rate", "executed_rate_after_first", "macs_dense"),
        *("macs_blockcopy", "macs_outside_blocks", "mac_frames", "ms_dense", "ms_blockcopy"),
        *("ms_policy", "speedup", "timing", "videos", "block_size", "policy", "target"),
        *("macs_policy", "metrics", "fidelity", "dense_ops", "guards", "processes"),
        *("agreement", "propagation", "skipped_frames", "annotations", "partial"),
    }
    assert wanted <= set(own.summary) <= wanted | {"fidelity_reason"}


def test_ground_truth_of_a_detector(model, mapper, video, pictures, tmp_path):
    """The dense model's own boxes as ground truth: it has to get full marks."""
    dataset = VideoFrameDataset(video)
    images, annotations = [], []
    for item in dataset:
        images.append(
            {"id": item["image_id"], "file_name": f"{item['frame_number']:04d}.png"}
            | {"height": item["height"], "width": item["width"]}
        )
        with torch.no_grad():
            found = model([mapper(item)])[0]["instances"]
        boxes, labels = found.pred_boxes.tensor.tolist(), found.pred_classes.tolist()
        for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": item["image_id"],
                    "category_id": label,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    classes = [f"class {i}" for i in range(5)]
    categories = [{"id": i, "name": name} for i, name in enumerate(classes)]
    path = tmp_path / "truth.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    annotated = VideoFrameDataset(video, ann_file=str(path), classes=classes)
    assert annotated[0]["ground_truth"]
    loader = build_video_test_loader(annotated, mapper)
    results, own = inference_on_video(
        model, loader, config=bc.BlockCopyConfig(block_size=64, policy="none")
    )
    metrics = own.summary["metrics"]
    assert metrics["dense"]["video/bbox_AP50"] > 0.95
    assert metrics["blockcopy"]["video/bbox_AP50"] < metrics["dense"]["video/bbox_AP50"]
    assert metrics["dense"]["video/annotated_frames"] == 6
    assert results["bbox"]["AP50"] == pytest.approx(100 * metrics["blockcopy"]["video/bbox_AP50"])


def test_segmentation(video, tmp_path):
    cfg = models.config_of("semantic_fpn_R_50", small=True)
    cfg.INPUT.MIN_SIZE_TEST = 160
    model, source = models.build(cfg), ModelConfig.of(cfg)
    mapper = VideoFrameMapper(source.augmentations(), source.input_format)
    with torch.no_grad():
        truth = model([mapper(VideoFrameDataset(video)[2])])[0]["sem_seg"].argmax(0)
    folder = tmp_path / "labels"
    folder.mkdir()
    cv2.imwrite(str(folder / "0002.png"), truth.numpy().astype(np.uint8))
    dataset = VideoFrameDataset(video, ann_file=str(folder))
    assert [("label_image" in item) for item in dataset] == [i == 2 for i in range(6)]
    results, own = inference_on_video(
        model,
        build_video_test_loader(dataset, mapper),
        config=bc.BlockCopyConfig(block_size=64, policy="all"),
    )
    assert own.summary["metrics"]["dense"]["video/mIoU"] == 1
    assert own.summary["metrics"]["dense"]["video/annotated_frames"] == 1
    assert own.summary["fidelity"]["aAcc"] > 0.999
    assert results["sem_seg"]["aAcc"] > 99.9


def test_agreement_by_hand():
    counted = LabelAgreement(3)
    counted.add(np.array([[0, 0, 1], [1, 1, 0]]), np.array([[0, 1, 1], [1, 255, 0]]), 255)
    # Of five pixels four agree; class 0: 2 of 3, class 1: 2 of 3, class 2 does not occur.
    figures = counted.figures()
    assert figures["aAcc"] == pytest.approx(0.8)
    assert figures["mIoU"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert figures["mAcc"] == pytest.approx((1 + 2 / 3) / 2)
    with pytest.raises(ConfigError, match="label 7"):
        counted.add(np.zeros((1, 1)), np.full((1, 1), 7), 255)
    with pytest.raises(ConfigError, match="shape"):
        counted.add(np.zeros((1, 1)), np.zeros((1, 2)))


def test_callbacks_of_the_stock_loop(model, mapper, video):
    loader = build_video_test_loader(VideoFrameDataset(video), mapper)
    hook = BlockCopyCallbacks(model, bc.BlockCopyConfig(block_size=64, policy=HALF), loader)
    noted = Noted()
    inference_on_dataset(model, loader, noted, callbacks=hook.callbacks())
    assert hook.rates == [1, 0, 1, 0, 1, 0]
    outputs = [o for _, _, o in noted.seen]
    assert laws.output_deviation([outputs[1]], [outputs[0]]) == 0
    assert "forward" not in model.__dict__


def test_pictures_are_executed_fully(model, mapper, video, caplog):
    loader = [
        [{k: v for k, v in mapper(i).items() if "id" not in k}] for i in VideoFrameDataset(video)
    ]
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=64, policy="none"))
    run = VideoRun(model, bc.handle(model), warmup=0)
    own = BlockCopyEvaluator(run)
    inference_on_dataset(run, loader, [own])
    assert own.summary["executed_rate"] == 1
    assert sum("no video_id" in r.message for r in caplog.records) == 1


def test_a_video_that_starts_again_is_executed_fully(model, mapper, video):
    loader = build_video_test_loader(VideoFrameDataset(video, frames=(0, 3)), mapper)
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=64, policy="none"))
    run = VideoRun(model, bc.handle(model), dense=False)
    for _ in range(2):
        for inputs in loader:
            run(inputs)
    assert [entry.executed_rate for entry in run.entries] == [1, 0, 0, 1, 0, 0]
    # Of frames that never came to the network, too.
    assert {entry.size for entry in run.entries} == {(160, 224)}


def test_a_policy_learns_over_epochs(model, mapper, video):
    loader = build_video_test_loader(VideoFrameDataset(video), mapper, shuffle=True)
    config = bc.BlockCopyConfig(block_size=64, policy=dict(type="RLPolicy", target=0.5))
    seen, epochs = [], []
    policy = train_policy(model, loader, config, 2, seen.append, epochs.append)
    assert [figures["frame"] for figures in seen] == list(range(12)) and epochs == [1, 2]
    assert seen[0]["executed_rate"] == seen[6]["executed_rate"] == 1
    assert policy.updates > 0 and "reward" in seen[-1]
    assert "forward" not in model.__dict__
    config = bc.BlockCopyConfig(block_size=64, policy="all")
    with pytest.raises(ConfigError, match="learns nothing"):
        train_policy(model, loader, config)


def test_one_policy_for_each_video(model, mapper, video):
    dataset = VideoFrameDataset([video, video])
    config = bc.BlockCopyConfig(block_size=64, policy=dict(type="RLPolicy", target=0.5, seed=0))
    _, own = inference_on_video(model, build_video_test_loader(dataset, mapper), config=config)
    rates = [entry.executed_rate for entry in own.run.entries]
    assert rates[:6] == rates[6:]  # the same video with the policy as it was at first
    with pytest.raises(ConfigError, match="restart_policy"):
        inference_on_video(
            model, build_video_test_loader(dataset, mapper, batch_size=2), config=config
        )

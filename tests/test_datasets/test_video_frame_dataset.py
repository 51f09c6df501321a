"""VideoFrameDataset in DataLoaders that MMEngine's Runner builds from a config."""

from __future__ import annotations

import json
import pickle

import av
import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("mmdet")

from mmengine.registry import DATASETS, DefaultScope, init_default_scope  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from blockcopy_plugins.datasets import VideoFrameDataset  # noqa: E402
from blockcopy_plugins.errors import ConfigError, FrameError  # noqa: E402

META = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")


@pytest.fixture(autouse=True)
def mmdet_scope():
    before = DefaultScope.get_current_instance()
    init_default_scope("mmdet")
    yield
    if before is not None:
        init_default_scope(before.scope_name)


def stock_pipeline(scale=(128, 96), masks=False):
    """MMDetection's test pipeline as its configs have it."""
    return [
        dict(type="LoadImageFromFile", backend_args=None),
        dict(type="Resize", scale=scale, keep_ratio=True),
        dict(type="LoadAnnotations", with_bbox=True, with_mask=masks),
        dict(type="PackDetInputs", meta_keys=META),
    ]


def numbered_frames(count, size=(48, 64), base=0):
    """Frames whose number can be read from the brightness of their left and right halves."""
    frames = []
    for i in range(count):
        frame = np.zeros((*size, 3), np.uint8)
        frame[:, : size[1] // 2] = 20 + 12 * (i % 16) + base
        frame[:, size[1] // 2 :] = 20 + 12 * (i // 16)
        frames.append(frame)
    return frames


def number_of(image):
    """The number of a (3, H, W) or (H, W, 3) frame."""
    image = image.permute(1, 2, 0) if isinstance(image, torch.Tensor) else image
    image = np.asarray(image, dtype=float)
    height, width = image.shape[:2]
    left = image[height // 4 : -height // 4, width // 8 : width * 3 // 8].mean()
    right = image[height // 4 : -height // 4, width * 5 // 8 : -width // 8].mean()
    return round((left - 20) / 12) + 16 * round((right - 20) / 12)


def write_video(path, frames):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 6
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        container.mux(stream.encode())
    return str(path)


def write_folder(path, frames):
    path.mkdir(parents=True)
    for i, frame in enumerate(frames):
        cv2.imwrite(str(path / f"{i + 1}.png"), frame)
    return str(path)


@pytest.fixture
def two_videos(tmp_path):
    return [
        write_video(tmp_path / "a.mp4", numbered_frames(23)),
        write_folder(tmp_path / "b", numbered_frames(9)),
    ]


def loader(videos, batch_size=1, num_workers=0, batch_sampler=None, **dataset):
    config = dict(
        batch_size=batch_size,
        num_workers=num_workers,
        persistent_workers=False,
        drop_last=False,
        # As it stands after a user has overridden the type in a stock config.
        sampler=dict(type="blockcopy_plugins.VideoSampler", shuffle=False),
        dataset=dict(
            type="blockcopy_plugins.VideoFrameDataset",
            videos=videos,
            **{"pipeline": stock_pipeline(), **dataset},
        ),
    )
    if batch_sampler is not None:
        config["batch_sampler"] = batch_sampler
    return Runner.build_dataloader(config, seed=0)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_stock_pipeline_gives_every_frame_once_in_order(two_videos, num_workers):
    seen = []
    for batch in loader(two_videos, num_workers=num_workers):
        (image,), (sample,) = batch["inputs"], batch["data_samples"]
        assert image.shape == (3, 96, 128)
        assert image.dtype == torch.uint8
        meta = sample.metainfo
        assert number_of(image) == meta["frame_number"]
        assert meta["ori_shape"] == (48, 64)
        assert meta["img_shape"] == (96, 128)
        assert meta["img_id"] == len(seen)
        assert meta["video_name"] == ("a", "b")[meta["video_id"]]
        assert meta["video_path"] == two_videos[meta["video_id"]]
        assert meta["video_length"] == (23, 9)[meta["video_id"]]
        assert "instances" not in meta
        assert len(sample.gt_instances) == 0
        seen.append((meta["video_id"], meta["frame_id"]))
    assert seen == [(0, i) for i in range(23)] + [(1, i) for i in range(9)]


def test_batches_of_two_streams(two_videos):
    batches = list(
        loader(
            two_videos,
            batch_size=2,
            num_workers=1,
            batch_sampler=dict(type="blockcopy_plugins.VideoBatchSampler"),
        )
    )
    keys = [[(s.video_id, s.frame_id) for s in b["data_samples"]] for b in batches]
    assert keys == [[(0, i), (1, i)] for i in range(9)] + [[(0, i)] for i in range(9, 23)]
    for batch in batches:
        for image, sample in zip(batch["inputs"], batch["data_samples"], strict=True):
            assert number_of(image) == sample.frame_id
        # What MMDetection's preprocessor makes of a batch is 4-D.
        assert torch.stack(batch["inputs"]).shape[1:] == (3, 96, 128)


def test_default_collate_stacks(two_videos):
    config = dict(
        batch_size=3,
        num_workers=0,
        sampler=dict(type="DefaultSampler", shuffle=False),
        collate_fn=dict(type="default_collate"),
        dataset=dict(
            type="blockcopy_plugins.VideoFrameDataset",
            videos=two_videos[:1],
            pipeline=stock_pipeline(),
        ),
    )
    batch = next(iter(Runner.build_dataloader(config)))
    assert batch["inputs"].shape == (3, 3, 96, 128)


def test_random_access_range_and_stride(two_videos):
    dataset = VideoFrameDataset(
        two_videos, frames=(2, 21), stride=3, pipeline=stock_pipeline(), data_root=""
    )
    assert dataset.video_lengths == [7, 3]
    assert len(dataset) == 10
    numbers = [*range(2, 21, 3), *range(2, 9, 3)]
    for index in (9, 0, 6, 5, 5, 1, 8, 7, 2, -1):
        item = dataset[index]
        assert number_of(item["inputs"]) == numbers[index]
        assert item["data_samples"].frame_number == numbers[index]
    assert dataset[0]["data_samples"].frame_id == 0
    assert [dataset.video_of(i) for i in range(10)] == [0] * 7 + [1] * 3


def test_the_same_video_twice_is_two_streams(two_videos):
    dataset = VideoFrameDataset([two_videos[0]] * 2, frames=(None, 4), pipeline=stock_pipeline())
    assert dataset.video_names == ["a", "a#2"]
    for index in (0, 4, 1, 5, 2, 6, 3, 7):
        assert number_of(dataset[index]["inputs"]) == index % 4


def test_subsets_and_pickles(two_videos):
    dataset = VideoFrameDataset(two_videos, pipeline=stock_pipeline())
    dataset[0]
    for other in (pickle.loads(pickle.dumps(dataset)), dataset.get_subset([0, 1, 22, 23, 31])):
        assert number_of(other[1]["inputs"]) == 1
    subset = dataset.get_subset([0, 1, 22, 23, 31])
    assert subset.video_lengths == [3, 2]
    assert [subset.video_of(i) for i in range(5)] == [0, 0, 0, 1, 1]
    assert len(dataset) == 32
    dataset.get_subset_(-3)
    assert dataset.video_lengths == [0, 3]
    only_first = VideoFrameDataset(two_videos, indices=25, serialize_data=False)
    assert only_first.video_lengths == [23, 2]
    lazy = VideoFrameDataset(two_videos, lazy_init=True)
    assert lazy.video_lengths == [23, 9]


def test_ids_survive_an_empty_meta_keys_and_other_scopes(two_videos):
    pipeline = [
        dict(type="mmcv.LoadImageFromFile", to_float32=True),
        dict(type="PackDetInputs", meta_keys=()),
    ]
    sample = VideoFrameDataset(two_videos, pipeline=pipeline)[3]
    assert sample["inputs"].dtype == torch.float32
    assert sample["data_samples"].frame_id == 3
    assert sample["data_samples"].img_path.endswith("a.mp4#000003")
    folder = VideoFrameDataset(two_videos[1], pipeline=pipeline)
    assert cv2.imread(folder[4]["data_samples"].img_path) is not None


def test_mmseg_pipeline(two_videos):
    pytest.importorskip("mmseg")
    init_default_scope("mmseg")
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=(128, 96), keep_ratio=True),
        dict(type="LoadAnnotations"),
        dict(type="PackSegInputs"),
    ]
    item = VideoFrameDataset(two_videos, pipeline=pipeline, metainfo="mmseg.CityscapesDataset")[25]
    assert item["inputs"].shape == (3, 96, 128)
    assert item["data_samples"].video_id == 1
    assert item["data_samples"].frame_id == 2


# ------------------------------------------------------------------------ annotations


def write_mot(path, lines):
    path.write_text("\n".join(",".join(map(str, line)) for line in lines) + "\n")
    return str(path)


def test_mot_ground_truth_reaches_the_samples(tmp_path, two_videos):
    gt = write_mot(
        tmp_path / "gt.txt",
        [
            (1, 7, 11, 6, 20, 30, 1, -4.1, -7.3, 0),
            (3, 7, 13, 6, 20, 30, 1, -4.1, -7.3, 0),
            (3, 8, 1, 1, 5, 6, 0, -4.1, -7.3, 0),
        ],
    )
    pipeline = stock_pipeline(masks=True)  # a mask detector's; MOT has no masks
    dataset = VideoFrameDataset(two_videos, ann_file=[gt, None], pipeline=pipeline)
    assert dataset.metainfo["classes"] == ("person",)
    first, second, third = (dataset[i]["data_samples"] for i in range(3))
    assert first.instances[0]["bbox"] == [10, 5, 30, 35]
    assert second.instances == []
    assert [i["ignore_flag"] for i in third.instances] == [0, 1]
    # MMDetection's own annotation loader sees the same.
    assert third.gt_instances.bboxes.tensor.tolist() == [[12, 5, 32, 35]]
    assert third.ignored_instances.bboxes.tensor.tolist() == [[0, 0, 5, 6]]
    assert "instances" not in dataset[23]["data_samples"]
    assert dataset.get_cat_ids(2) == [0, 0]
    coco = VideoFrameDataset(two_videos[0], ann_file=gt, metainfo="mmdet.CocoDataset")
    assert coco.metainfo["classes"][0] == "person"
    assert len(coco.metainfo["palette"]) == 80


def coco_file(path, images, annotations, categories=("person", "car"), **more):
    content = dict(
        images=images,
        annotations=[dict(id=i + 1, **a) for i, a in enumerate(annotations)],
        categories=[dict(id=10 * (i + 1), name=n) for i, n in enumerate(categories)],
        **more,
    )
    path.write_text(json.dumps(content))
    return str(path)


def test_coco_ground_truth_by_file_name_keeps_image_ids(tmp_path, two_videos):
    ann_file = coco_file(
        tmp_path / "ann.json",
        images=[
            dict(id=500, file_name="b/2.png", height=48, width=64),
            dict(id=501, file_name="4.png", height=48, width=64),
        ],
        annotations=[
            dict(
                image_id=501,
                category_id=20,
                bbox=[4, 5, 10, 20],
                area=150,
                iscrowd=0,
                segmentation=[[4, 5, 14, 5, 14, 25, 4, 25]],
            )
        ],
    )
    dataset = VideoFrameDataset(
        two_videos[1],
        ann_file=ann_file,
        classes=["car", "person"],
        pipeline=stock_pipeline(masks=True),
    )
    samples = [dataset[i]["data_samples"] for i in range(9)]
    assert samples[1].img_id == 500
    assert samples[1].instances == []
    assert samples[3].img_id == 501
    assert samples[3].instances[0]["bbox"] == [4, 5, 14, 25]
    assert samples[3].instances[0]["bbox_label"] == 0
    assert samples[3].gt_instances.masks.masks.sum() == 200
    assert "instances" not in samples[0]
    assert len({s.img_id for s in samples}) == 9


def test_coco_ground_truth_by_video_and_frame_id(tmp_path, two_videos):
    ann_file = coco_file(
        tmp_path / "ann.json",
        videos=[dict(id=1, name="a"), dict(id=2, name="b"), dict(id=3, name="elsewhere")],
        images=[
            dict(id=1, video_id=1, frame_id=22, file_name="x.jpg"),
            dict(id=2, video_id=2, frame_id=0, file_name="x.jpg"),
            dict(id=3, video_id=3, frame_id=999, file_name="x.jpg"),
        ],
        annotations=[
            dict(image_id=1, category_id=10, bbox=[1, 2, 3, 4]),
            dict(image_id=2, category_id=20, bbox=[5, 6, 7, 8], iscrowd=1),
        ],
    )
    dataset = VideoFrameDataset(two_videos, ann_file=ann_file, pipeline=stock_pipeline())
    assert dataset.metainfo["classes"] == ("person", "car")
    assert dataset[22]["data_samples"].instances[0]["bbox"] == [1, 2, 4, 6]
    crowd = dataset[23]["data_samples"].instances[0]
    assert (crowd["bbox_label"], crowd["iscrowd"], crowd["ignore_flag"]) == (1, 1, 1)


def test_a_range_of_a_folders_images(tmp_path):
    """A video under its own name in one folder with others; frames are found in that folder."""
    frames = numbered_frames(6)
    (tmp_path / "dir").mkdir()
    for number, frame in enumerate(frames, 273):
        cv2.imwrite(str(tmp_path / f"dir/clip_{number:06d}.png"), frame)
    ann_file = coco_file(
        tmp_path / "ann.json",
        images=[dict(id=7, file_name="dir/clip_000276.png", height=48, width=64)],
        annotations=[dict(image_id=7, category_id=20, bbox=[4, 5, 10, 20])],
    )
    dataset = VideoFrameDataset(
        str(tmp_path / "dir/clip_{000275..000278}.png"),
        ann_file=ann_file,
        pipeline=stock_pipeline(),
    )
    paths = [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]
    assert paths == [str(tmp_path / f"dir/clip_{n:06d}.png") for n in range(275, 279)]
    assert [number_of(cv2.imread(path)) for path in paths] == [2, 3, 4, 5]
    found = [item["data_samples"].get("instances") for item in map(dataset.__getitem__, range(4))]
    assert [None if one is None else [i["bbox"] for i in one] for one in found] == [
        None,
        [[4, 5, 14, 25]],
        None,
        None,
    ]


def test_masks_of_one_video_alone_are_not_loaded(tmp_path, two_videos):
    with_masks = coco_file(
        tmp_path / "a.json",
        images=[dict(id=1, file_name="b/1.png", height=48, width=64)],
        annotations=[
            dict(image_id=1, category_id=10, bbox=[4, 5, 10, 20])
            | dict(segmentation=[[4, 5, 14, 5, 14, 25, 4, 25]])
        ],
    )
    (tmp_path / "gt.txt").write_text("1,1,5,6,10,20,1\n")
    dataset = VideoFrameDataset(
        two_videos,
        ann_file=[str(tmp_path / "gt.txt"), with_masks],
        classes=["person", "car"],
        pipeline=stock_pipeline(masks=True),
    )
    for item in (0, 23):
        instances = dataset[item]["data_samples"].instances
        assert [one["bbox"] for one in instances] == [[4, 5, 14, 25]]


# ------------------------------------------------------------------------ errors


def test_config_errors_name_the_value_and_the_remedy(tmp_path, two_videos):
    with pytest.raises(ConfigError, match=r"no argument data_prefix.*_delete_=True"):
        VideoFrameDataset(two_videos, data_prefix=dict(img="val2017/"))
    with pytest.raises(ConfigError, match=r"0 <= start < stop.*\(5, 5\)"):
        VideoFrameDataset(two_videos, frames=(5, 5))
    with pytest.raises(ConfigError, match=r"has 9 frames.*selects none"):
        VideoFrameDataset(two_videos, frames=(12, None))
    with pytest.raises(ConfigError, match="stride must be at least 1, but got 0"):
        VideoFrameDataset(two_videos, stride=0)
    with pytest.raises(ConfigError, match="no video file or folder.*gone.mp4"):
        VideoFrameDataset(str(tmp_path / "gone.mp4"))
    with pytest.raises(ConfigError, match="lists 1 files for 2 videos"):
        VideoFrameDataset(two_videos, ann_file=["x"])
    with pytest.raises(ConfigError, match="no annotation file.*gone.json"):
        VideoFrameDataset(two_videos, ann_file=str(tmp_path / "gone.json"))
    with pytest.raises(ConfigError, match="the text 'car'"):
        VideoFrameDataset(two_videos, classes="car")
    with pytest.raises(ConfigError, match="'mmdet.NoSuchDataset'"):
        VideoFrameDataset(two_videos, metainfo="mmdet.NoSuchDataset")
    loader_config = dict(type="LoadImageFromFile", color_type="unchanged")
    with pytest.raises(ConfigError, match="color_type='unchanged'.*leave color_type out"):
        VideoFrameDataset(two_videos, pipeline=[loader_config])


def test_frame_errors_name_the_file(tmp_path, two_videos):
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(FrameError, match="empty.mp4.*0 bytes"):
        VideoFrameDataset([two_videos[0], str(tmp_path / "empty.mp4")])
    write_folder(tmp_path / "c", numbered_frames(3) + numbered_frames(1, size=(50, 64)))
    dataset = VideoFrameDataset(str(tmp_path / "c"), pipeline=stock_pipeline())
    assert len(dataset) == 3 and dataset.skipped_frames["count"] == 1
    with pytest.raises(FrameError, match=r"4\.png.*50x64.*48x64"):
        len(VideoFrameDataset(str(tmp_path / "c"), strict_frames=True))


def test_a_file_that_states_too_many_frames(tmp_path):
    path = tmp_path / "a.avi"
    write_video(path, numbered_frames(8))
    content = bytearray(path.read_bytes())
    at = content.index(b"strh") + 8 + 32
    content[at : at + 4] = (30).to_bytes(4, "little")
    path.write_bytes(content)
    assert len(VideoFrameDataset(str(path))) == 8
    trusting = VideoFrameDataset(str(path), trust_frame_count=True, pipeline=stock_pipeline())
    assert len(trusting) == 30
    assert number_of(trusting[7]["inputs"]) == 7
    with pytest.raises(FrameError, match="frame 8 of .*a.avi.*after 8 frames"):
        trusting[8]


def test_registries_resolve_by_scope_alone():
    from mmengine.registry import DATA_SAMPLERS, METRICS, TRANSFORMS

    for registry, name in (
        (DATASETS, "VideoFrameDataset"),
        (DATA_SAMPLERS, "VideoSampler"),
        (DATA_SAMPLERS, "VideoBatchSampler"),
        (TRANSFORMS, "LoadVideoFrame"),
        (METRICS, "FrameDetectionMetric"),
    ):
        assert registry.get(f"blockcopy_plugins.{name}").__name__ == name
        # Unscoped, they must not shadow or be found under another framework's scope.
        assert name not in registry.module_dict

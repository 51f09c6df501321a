"""Label images of some frames, through MMSegmentation's own pipeline."""

from __future__ import annotations

import av
import cv2
import numpy as np
import pytest

pytest.importorskip("mmseg")

from mmengine.registry import DefaultScope  # noqa: E402

from blockcopy_plugins.datasets import VideoFrameDataset  # noqa: E402
from blockcopy_plugins.errors import ConfigError  # noqa: E402

PIPELINE = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(64, 48), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]


@pytest.fixture(autouse=True)
def mmseg_scope():
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


@pytest.fixture()
def place(tmp_path):
    """Four frames of 24 x 32 px, label images of the second and the last."""
    (tmp_path / "frames").mkdir()
    (tmp_path / "labels").mkdir()
    for t in range(4):
        cv2.imwrite(str(tmp_path / f"frames/{t}.jpg"), np.full((24, 32, 3), 40 * t, np.uint8))
    for t in (1, 3):
        cv2.imwrite(str(tmp_path / f"labels/{t}.png"), labels(t))
    return tmp_path


def labels(t):
    made = np.zeros((24, 32), np.uint8)
    made[:, :16] = 1 + t
    return made


def dataset(place, **options):
    options = {"pipeline": PIPELINE, "ann_file": str(place / "labels"), **options}
    return VideoFrameDataset(str(place / "frames"), **options)


def truths(made):
    samples = [made[i]["data_samples"] for i in range(len(made))]
    return [s.gt_sem_seg.data[0].numpy() if "gt_sem_seg" in s else None for s in samples]


def test_frames_without_a_label_image_pass(place):
    made = dataset(place)
    found = truths(made)
    assert [truth is not None for truth in found] == [False, True, False, True]
    # At the size of the frame, not of the network input.
    assert (found[1] == labels(1)).all() and (found[3] == labels(3)).all()
    assert tuple(made[1]["inputs"].shape) == (3, 48, 64)
    info = made[1]["data_samples"].metainfo
    assert info["seg_map_path"].endswith("labels/1.png")
    assert (info["video_id"], info["frame_id"], info["video_length"]) == (0, 1, 4)
    assert "seg_map_path" not in made[0]["data_samples"].metainfo


def test_some_of_the_frames(place):
    made = dataset(place, frames=(1, None), stride=2)
    assert [truth is not None for truth in truths(made)] == [True, True]
    assert [truth is not None for truth in truths(dataset(place, frames=(1, 3)))] == [True, False]


def test_rules(place):
    found = truths(dataset(place, label_rules=dict(reduce_zero_label=True)))
    assert set(np.unique(found[3])) == {3, 255}
    found = truths(dataset(place, label_rules=dict(label_map={0: 255, 2: 0, 4: 1})))
    assert set(np.unique(found[1])) == {0, 255} and set(np.unique(found[3])) == {1, 255}
    with pytest.raises(ConfigError, match="no key suffix; its keys are img_suffix"):
        dataset(place, label_rules=dict(suffix=".png"))


def test_a_named_dataset_says_how_to_read_them(place):
    made = dataset(place, metainfo="mmseg.ADE20KDataset")
    assert set(np.unique(truths(made)[3])) == {3, 255}
    assert made.metainfo["classes"][0] == "wall"


def test_a_video_file(place):
    with av.open(str(place / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for t in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), 40 * t, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    folder = str(place / "labels")
    options = dict(ann_file=folder, pipeline=PIPELINE)
    # Labels 1 and 3 of four frames: the second and the fourth, or the first and the third?
    with pytest.raises(ConfigError, match="labels' begin at 1 for .*v.mp4.*--ann-first 1"):
        VideoFrameDataset(str(place / "v.mp4"), **options)
    for first, expected in ((0, [False, True] * 2), (1, [True, False] * 2)):
        made = VideoFrameDataset(str(place / "v.mp4"), first_frame_number=first, **options)
        assert [truth is not None for truth in truths(made)] == expected


def test_one_folder_a_video_or_none(place):
    videos = [str(place / "frames")] * 2
    made = VideoFrameDataset(videos, ann_file=[None, str(place / "labels")], pipeline=PIPELINE)
    assert [truth is not None for truth in truths(made)] == [False] * 5 + [True, False, True]


def test_without_label_images_nothing_is_loaded(place):
    assert truths(dataset(place, ann_file=None)) == [None] * 4


def test_a_pipeline_that_loads_no_labels_is_refused(place):
    pipeline = [step for step in PIPELINE if step["type"] != "LoadAnnotations"]
    with pytest.raises(ConfigError, match="LoadImageFromFile, Resize, PackSegInputs.*after"):
        dataset(place, pipeline=pipeline)
    assert len(dataset(place, pipeline=pipeline, ann_file=None)) == 4


@pytest.mark.parametrize("backend", ["pillow", "cv2"])
@pytest.mark.parametrize("data", [b"", b"no image", None])
def test_a_label_image_that_cannot_be_read_is_named(place, backend, data):
    path = place / "labels/1.png"
    path.write_bytes(path.read_bytes()[:-30] if data is None else data)
    pipeline = [dict(step) for step in PIPELINE]
    pipeline[2]["imdecode_backend"] = backend
    made = dataset(place, pipeline=pipeline)
    assert "gt_sem_seg" in made[3]["data_samples"]
    with pytest.raises(ConfigError, match="label image '.*labels/1.png' cannot be read.*remove it"):
        made[1]
    path.unlink()  # the remedy
    assert "gt_sem_seg" not in dataset(place, pipeline=pipeline)[1]["data_samples"]

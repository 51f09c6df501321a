"""The loader transform on its own, and how a stock pipeline is fitted to it."""

from __future__ import annotations

import copy

import cv2
import numpy as np
import pytest

pytest.importorskip("mmcv")

from mmcv.transforms import LoadImageFromFile  # noqa: E402

from blockcopy_plugins.datasets import LoadVideoFrame  # noqa: E402
from blockcopy_plugins.datasets.pipeline import adapt_pipeline  # noqa: E402
from blockcopy_plugins.errors import ConfigError, FrameError  # noqa: E402


@pytest.fixture
def folders(tmp_path):
    paths = []
    for video in range(4):
        path = tmp_path / str(video)
        path.mkdir()
        for i in range(3):
            cv2.imwrite(str(path / f"{i}.png"), np.full((8, 10, 3), 10 * video + i, np.uint8))
        paths.append(str(path))
    return paths


def test_few_open_videos_give_the_same_frames(folders):
    load = LoadVideoFrame(max_open_videos=2, to_float32=True)
    for number in range(3):
        for video, path in enumerate(folders):
            results = load(
                dict(
                    video_path=path,
                    video_id=video,
                    frame_number=number,
                    frame_id=number,
                    video_length=3,
                )
            )
            assert results["img"].dtype == np.float32
            assert (results["img"] == 10 * video + number).all()
            assert results["ori_shape"] == results["img_shape"] == (8, 10)
            assert len(load._sources) <= 2
    assert not load._sources  # each was closed after its last frame
    with pytest.raises(ConfigError, match="at least 1, but got 0"):
        LoadVideoFrame(max_open_videos=0)


def test_a_frame_of_another_size_than_was_listed(folders):
    results = dict(video_path=folders[0], frame_number=1, height=9, width=10)
    with pytest.raises(FrameError, match="frame 1 of .* is 8x10 px, but 9x10 px were expected"):
        LoadVideoFrame()(results)


def types(pipeline):
    return [t["type"] if isinstance(t, dict) else type(t).__name__ for t in pipeline]


@pytest.mark.parametrize(
    "loader",
    [
        dict(type="LoadImageFromFile"),
        dict(type="mmdet.LoadImageFromFile", backend_args=None, color_type="color"),
        dict(type=LoadImageFromFile, imdecode_backend="cv2"),
        LoadImageFromFile(),
        dict(type="mmdet.LoadImageFromNDArray"),
    ],
)
def test_every_form_of_the_image_loader_is_replaced(loader):
    pipeline = [
        loader,
        dict(type="Resize"),
        dict(type="mmseg.LoadAnnotations", with_mask=True, with_seg=True),
        dict(type="PackDetInputs"),
    ]
    before = copy.deepcopy(pipeline)
    ours = "blockcopy_plugins.LoadVideoFrame"
    bare = adapt_pipeline(pipeline, annotated=False, has_masks=False)
    assert types(bare) == [ours, "Resize", "PackDetInputs"]
    boxes = adapt_pipeline(pipeline, annotated=True, has_masks=False, max_open_videos=5)
    assert types(boxes) == [ours, "Resize", "mmseg.LoadAnnotations", "PackDetInputs"]
    assert boxes[0]["max_open_videos"] == 5
    assert (boxes[2]["with_mask"], boxes[2]["with_seg"]) == (False, False)
    assert adapt_pipeline(pipeline, annotated=True, has_masks=True)[2]["with_mask"]
    assert pipeline[1:] == before[1:]


def test_own_transforms_pass_through():
    def own(results):
        return results

    assert adapt_pipeline([own], annotated=False, has_masks=False) == [own]
    assert adapt_pipeline([], annotated=True, has_masks=True) == []

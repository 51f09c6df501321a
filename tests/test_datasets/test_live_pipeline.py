"""A picture that is there already, through a model's own test pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from blockcopy_plugins.datasets.live_pipeline import LivePipeline  # noqa: E402
from blockcopy_plugins.errors import ConfigError  # noqa: E402

PACK = {"mmdet": dict(type="PackDetInputs"), "mmseg": dict(type="PackSegInputs")}


def picture():
    return np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)


@pytest.mark.parametrize("to_float32", [False, True])
@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
def test_inputs_are_those_of_the_frameworks_own_loader(scope, to_float32):
    from mmengine.dataset import Compose
    from mmengine.registry import DefaultScope

    behind = [dict(type="Resize", scale=(64, 48), keep_ratio=True), PACK[scope]]
    with DefaultScope.overwrite_default_scope(scope):
        wanted = Compose([dict(type="LoadImageFromNDArray", to_float32=to_float32), *behind])(
            dict(img=picture(), img_id=3, img_path=None)
        )
    loader = dict(type="LoadImageFromFile", to_float32=to_float32)
    annotations = dict(type="LoadAnnotations", with_bbox=True)
    prepare = LivePipeline([loader, behind[0], annotations, behind[1]], scope)
    frame = picture()
    inputs, sample = prepare(frame, 3, "clip")

    assert inputs.is_floating_point() == to_float32
    assert torch.equal(inputs, wanted["inputs"])
    for key in ("ori_shape", "img_shape", "scale_factor"):
        assert sample.metainfo[key] == wanted["data_samples"].metainfo[key]
    assert sample.metainfo["frame_number"] == 3 and sample.metainfo["video_name"] == "clip"
    assert np.array_equal(frame, picture())  # the caller's picture is as it was


def test_pipeline_that_packs_nothing_is_refused():
    prepare = LivePipeline([dict(type="LoadImageFromFile")], "mmdet")
    with pytest.raises(ConfigError, match="PackDetInputs or PackSegInputs"):
        prepare(picture(), 0, "clip")


def test_loader_that_does_what_frames_do_not_offer_is_refused():
    with pytest.raises(ConfigError, match="color_type"):
        LivePipeline([dict(type="LoadImageFromFile", color_type="grayscale")], "mmdet")


RESIZE = dict(type="Resize", scale=(64, 48), keep_ratio=True)


@pytest.mark.parametrize(
    "random",
    [
        dict(type="RandomFlip", prob=0.5),
        dict(type="mmcv.RandomFlip", prob=[0.2, 0.3], direction=["horizontal", "vertical"]),
        dict(type="RandomCrop", crop_size=(32, 32)),
        dict(type="RandomResize", scale=(64, 48), ratio_range=(0.5, 2.0)),
    ],
)
def test_transforms_that_change_each_frame_in_another_way_are_refused(random):
    load = dict(type="LoadImageFromFile")
    with pytest.raises(ConfigError, match=f"has {random['type'].split('.')[-1]}.*Leave it out"):
        LivePipeline([load, RESIZE, random, PACK["mmdet"]], "mmdet")
    with_it_left_out = LivePipeline([load, RESIZE, PACK["mmdet"]], "mmdet")
    inputs, _ = with_it_left_out(picture(), 0, "clip")
    assert inputs.shape == (3, 43, 64)


def test_a_flip_that_never_flips_is_none():
    flip = dict(type="RandomFlip", prob=0.0)
    meta = dict(type="PackDetInputs", meta_keys=("img_shape", "flip"))
    prepare = LivePipeline([dict(type="LoadImageFromFile"), RESIZE, flip, meta], "mmdet")
    _, sample = prepare(picture(), 0, "clip")
    assert not sample.metainfo["flip"]


@pytest.mark.parametrize(
    "name",
    [
        "centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco.py",
        "cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py",
    ],
)
def test_a_published_pipeline_whose_random_crop_only_pads_is_taken(name):
    import mmdet
    from mmengine.config import Config

    folder = Path(mmdet.__file__).parent / ".mim/configs"
    if not folder.is_dir():
        pytest.skip("MMDetection came without its configs")
    pipeline = Config.fromfile(folder / name).test_pipeline
    results = [LivePipeline(pipeline, "mmdet")(picture(), 0, "clip")[0] for _ in range(3)]
    assert all(torch.equal(one, results[0]) for one in results)
    assert results[0].shape[1] >= 60 and results[0].shape[2] >= 90

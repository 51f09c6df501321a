"""Clips of Cityscapes: which frames, which labels, and what is said of wrong trees."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mmengine")

from blockcopy_plugins.datasets import (  # noqa: E402
    CityscapesVideoDataset,
    VideoFrameDataset,
    open_frames,
)
from blockcopy_plugins.errors import ConfigError, FrameError  # noqa: E402
from blockcopy_plugins.integrations.mmengine.sampler import VideoSampler  # noqa: E402
from tests.test_datasets import cityscapes_tree as tree  # noqa: E402

VAL = [name for name, split in tree.CLIPS if split == "val"]
LOAD = [dict(type="LoadImageFromFile")]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return tree.write_labels(tree.write_frames(tmp_path_factory.mktemp("cityscapes")))


@pytest.fixture
def root(written, tmp_path):
    """A tree of one's own to break."""
    return shutil.copytree(written, tmp_path / "data" / "cityscapes")


def unlabelled(root, **options):
    return CityscapesVideoDataset(
        data_root=str(root), labels=False, pipeline=LOAD, serialize_data=False, **options
    )


# ------------------------------------------------------------------------------------ which frames


def test_clips_are_videos_of_the_frames_up_to_the_annotated_one(written):
    dataset = unlabelled(written)
    assert dataset.video_names == VAL
    assert dataset.video_lengths == [20, 20, 20]
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    assert [i["frame_id"] for i in infos] == 3 * list(range(20))
    assert [i["video_id"] for i in infos] == 20 * [0] + 20 * [1] + 20 * [2]
    paths = [tree.frame_file(written, "val", name, o) for name in VAL for o in range(-19, 1)]
    assert [Path(i["img_path"]) for i in infos] == paths
    assert list(VideoSampler(dataset)) == list(range(60))
    # What is read is the frame of that number.
    for name, offset, index in ((VAL[0], -19, 0), (VAL[1], 0, 39), (VAL[2], -7, 52)):
        image = dataset[index]["img"]
        assert image.shape == (*tree.SIZE, 3)
        assert (image == tree.grey(name, offset)).all()


@pytest.mark.parametrize(
    ("clip", "first", "length", "annotated"),
    [((-2, 1), -2, 4, 2), ((0, 0), 0, 1, 0), ((0, 10), 0, 11, 0), ((-5, -1), -5, 5, None)],
)
def test_other_parts_of_the_clips(written, clip, first, length, annotated):
    pytest.importorskip("mmseg")
    pipeline = [*LOAD, dict(type="mmseg.LoadAnnotations")]
    dataset = CityscapesVideoDataset(data_root=str(written), clip=clip, pipeline=pipeline)
    assert dataset.video_lengths == 3 * [length]
    infos = [dataset.get_data_info(i) for i in range(length)]
    assert Path(infos[0]["img_path"]) == tree.frame_file(written, "val", VAL[0], first)
    labelled = [i for i, info in enumerate(infos) if "seg_map_path" in info]
    assert labelled == ([] if annotated is None else [annotated])


def test_jpg_frames(tmp_path):
    tree.write_labels(tree.write_frames(tmp_path, suffix=".jpg"))
    dataset = unlabelled(tmp_path)
    assert dataset.get_data_info(0)["img_path"].endswith("_000275_leftImg8bit.jpg")
    assert abs(int(dataset[0]["img"][0, 0, 0]) - tree.grey(VAL[0], -19)) <= 2


def test_some_of_the_clips(written):
    assert unlabelled(written, clips=2).video_names == VAL[:2]
    assert unlabelled(written, clips=9).video_names == VAL
    assert unlabelled(written, cities=["munster"]).video_names == VAL[2:]
    chosen = {seed: unlabelled(written, clips=2, seed=seed).video_names for seed in range(8)}
    assert chosen == {
        seed: unlabelled(written, clips=2, seed=seed).video_names for seed in range(8)
    }
    assert {tuple(names) for names in chosen.values()} == {
        (VAL[0], VAL[1]),
        (VAL[0], VAL[2]),
        (VAL[1], VAL[2]),
    }


def test_the_other_clips_files_are_not_opened(root):
    for name in VAL[1:]:
        tree.frame_file(root, "val", name, -19).write_bytes(b"no image")
    dataset = unlabelled(root)
    with pytest.raises(FrameError, match="cannot be decoded"):
        dataset[40]


def test_a_frame_of_another_size_is_refused(root):
    import cv2

    path = tree.frame_file(root, "val", VAL[2], -19)
    cv2.imwrite(str(path), np.zeros((20, 40, 3), np.uint8))
    with pytest.raises(FrameError, match="is 20x40 px .*of its folder are 16x32 px"):
        unlabelled(root)[40]


def test_the_frames_of_a_clip_as_a_video_of_its_own(written):
    clip = unlabelled(written).clips[1]
    with open_frames(clip.path) as frames:
        assert len(frames) == 20 and frames.shape == tree.SIZE
        greys = [int(frame[0, 0, 0]) for frame in frames]
    assert greys == [tree.grey(VAL[1], offset) for offset in range(-19, 1)]
    dataset = VideoFrameDataset(videos=clip.path, pipeline=LOAD, frames=(3, 5))
    assert [int(dataset[i]["img"][0, 0, 0]) for i in range(2)] == greys[3:5]
    with pytest.raises(FrameError, match="1 of the 2 frames .* are missing, .*000325_left"):
        open_frames(clip.path.replace("000295..000314", "000324..000325"))
    with pytest.raises(FrameError, match="not a range of frames"):
        open_frames(clip.path.replace("000295..000314", "000314..000295"))


# ------------------------------------------------------------------------------------------ labels

EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def test_label_ids_become_train_ids_on_the_fly(written):
    pytest.importorskip("mmseg")
    pipeline = [*LOAD, dict(type="mmseg.LoadAnnotations"), dict(type="mmseg.PackSegInputs")]
    dataset = CityscapesVideoDataset(data_root=str(written), pipeline=pipeline)
    samples = [dataset[i]["data_samples"] for i in (18, 19)]
    assert "gt_sem_seg" not in samples[0]
    expected = np.full(tree.SIZE, 255)
    for train_id, number in enumerate(EVALUATED):
        expected[tree.all_ids() == number] = train_id
    np.testing.assert_array_equal(samples[1].gt_sem_seg.data[0].numpy(), expected)
    assert samples[1].seg_map_path.endswith("frankfurt_000000_000294_gtFine_labelIds.png")
    assert samples[1].video_name == VAL[0]
    assert len(dataset.metainfo["classes"]) == 19


def test_train_ids_are_taken_where_they_are(root):
    pytest.importorskip("mmseg")
    train_ids = (np.arange(16 * 32).reshape(16, 32) % 20).astype(np.uint8)
    tree.write_labels(root, tree.CLIPS[:1], train_ids)
    pipeline = [*LOAD, dict(type="mmseg.LoadAnnotations"), dict(type="mmseg.PackSegInputs")]
    dataset = CityscapesVideoDataset(data_root=str(root), pipeline=pipeline)
    np.testing.assert_array_equal(dataset[19]["data_samples"].gt_sem_seg.data[0].numpy(), train_ids)
    assert dataset.get_data_info(19)["label_map"] is None
    assert dataset.get_data_info(39)["seg_map_path"].endswith("_labelIds.png")


def test_instances_are_in_the_samples_and_fit_the_models_loader(written):
    pytest.importorskip("mmdet")
    pipeline = [
        *LOAD,
        dict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask=True),
        dict(type="mmdet.PackDetInputs", meta_keys=("ori_shape",)),
    ]
    dataset = CityscapesVideoDataset(data_root=str(written), task="instance", pipeline=pipeline)
    assert dataset.metainfo["classes"][2] == "car" and len(dataset.metainfo["classes"]) == 8
    before, annotated = (dataset[i]["data_samples"] for i in (18, 19))
    assert "instances" not in before and len(before.gt_instances) == 0
    assert {i["instance_id"] for i in annotated.instances} == {24, 26, 24000, 26003, 33002}
    # Groups are to be ignored.
    assert len(annotated.gt_instances) == 3 and len(annotated.ignored_instances) == 2
    boxes = annotated.gt_instances.bboxes.tensor.tolist()
    assert sorted(map(tuple, boxes)) == [(1, 2, 5, 9), (10, 2, 20, 4), (31, 0, 32, 1)]
    assert sorted(annotated.gt_instances.masks.masks.sum((1, 2))) == [1, 11, 20]


def test_without_labels_the_pipeline_loads_none(tmp_path):
    pytest.importorskip("mmseg")
    # The small package of annotated frames says where clips are.
    tree.write_annotated_frames(tree.write_frames(tmp_path))
    pipeline = [*LOAD, dict(type="mmseg.LoadAnnotations"), dict(type="mmseg.PackSegInputs")]
    dataset = CityscapesVideoDataset(
        data_root=str(tmp_path), split="train", labels=False, pipeline=pipeline
    )
    assert dataset.video_names == ["aachen_000001_000119"]
    sample = dataset[19]["data_samples"]
    assert "gt_sem_seg" not in sample and "seg_map_path" not in sample
    with pytest.raises(ConfigError, match=r"gtFine_trainvaltest\.zip"):
        CityscapesVideoDataset(data_root=str(tmp_path), pipeline=pipeline)


def test_annotated_frames_alone_need_no_sequence(tmp_path):
    tree.write_labels(tree.write_annotated_frames(tmp_path))
    dataset = unlabelled(tmp_path, clip=(0, 0))
    assert dataset.video_lengths == [1, 1, 1]
    assert (dataset[2]["img"] == tree.grey(VAL[2], 0)).all()


# ------------------------------------------------------------------------------------- wrong trees


def test_nothing_there(tmp_path):
    with pytest.raises(ConfigError) as error:
        unlabelled(tmp_path / "nowhere")
    for part in ("no folder", str(tmp_path / "nowhere"), "gtFine_trainvaltest.zip"):
        assert part in str(error.value)
    assert "cityscapes-dataset.com" in str(error.value)


def test_no_sequence(tmp_path):
    tree.write_annotated_frames(tree.write_labels(tmp_path))
    with pytest.raises(ConfigError) as error:
        unlabelled(tmp_path)
    message = str(error.value)
    assert "leftImg8bit_sequence_trainvaltest.zip (324 GB)" in message
    assert "only gtFine, leftImg8bit;" in message and "cityscapes-dataset.com" in message


def test_a_split_that_is_missing(root):
    shutil.rmtree(root / "leftImg8bit_sequence" / "train")
    with pytest.raises(ConfigError, match=r"contains no train, only val"):
        unlabelled(root, split="train")


@pytest.mark.parametrize("deeper", ["gtFine", "leftImg8bit_sequence", "leftImg8bit_sequence/val"])
def test_a_data_root_that_is_too_deep(root, deeper):
    with pytest.raises(ConfigError, match="too deep") as error:
        unlabelled(root / deeper)
    assert f"set data_root={str(root)!r}" in str(error.value)
    assert unlabelled(root).video_names == VAL


def test_a_data_root_that_is_too_high(root):
    with pytest.raises(ConfigError, match="too high") as error:
        unlabelled(root.parent)
    assert f"set data_root={str(root)!r}" in str(error.value)


@pytest.mark.parametrize("package", ["leftImg8bit_sequence", "gtFine"])
@pytest.mark.parametrize("within", ["{}", "{}_trainvaltest"])
def test_a_package_that_was_unpacked_too_deep(root, package, within):
    wrong = root / within.format(package)
    (root / package).rename(root / "moved")
    wrong.mkdir()
    (root / "moved").rename(wrong / package)
    with pytest.raises(ConfigError, match="one folder too deep") as error:
        unlabelled(root)
    assert f"move {str(wrong / package)!r} to {str(root / package)!r}" in str(error.value)


def test_frames_that_are_missing(root):
    for offset in (-19, -3):
        tree.frame_file(root, "val", VAL[0], offset).unlink()
    tree.frame_file(root, "val", VAL[2], 0).unlink()
    with pytest.raises(ConfigError) as error:
        unlabelled(root)
    message = str(error.value)
    assert "lacks frames of 2 clips" in message
    assert f"of {VAL[0]} 2 of 20 frames: 000275, 000291;" in message
    assert f"of {VAL[2]} 1 of 20 frames: 000019 (the annotated frame itself" in message
    # What is not taken is not looked for.
    assert unlabelled(root, clip=(-2, -1)).video_names == VAL
    with pytest.raises(ConfigError, match="of 1 clips"):
        unlabelled(root, clips=1)
    assert unlabelled(root, clips=1, clip=(-2, 0)).video_names == VAL[:1]


def test_a_city_without_frames(root):
    shutil.rmtree(root / "leftImg8bit_sequence" / "val" / "munster")
    with pytest.raises(ConfigError, match=r"annotated frames of munster, but .*none of their"):
        unlabelled(root)
    assert unlabelled(root, cities=["frankfurt"]).video_names == VAL[:2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(cities=["paris"]), "no city paris; it has frankfurt, munster"),
        (dict(cities="munster"), r"write cities=\['munster'\]"),
        (dict(clip=(-20, 0)), r"within \(-19, 10\)"),
        (dict(clip=(1, 0)), "clip must be"),
        (dict(clips=0), "clips must be at least 1"),
        (dict(task="panoptic"), "task must be one of segmentation, instance"),
        (dict(split="validation"), "contains no validation, only train, val"),
        (dict(frames=(20, None)), "have 20 frames"),
        (dict(ann_file="x"), "CityscapesVideoDataset has no argument ann_file"),
    ],
)
def test_arguments_that_are_out_of_range(written, options, words):
    with pytest.raises(ConfigError, match=words):
        unlabelled(written, **options)

"""CityPersons on clips: three forms of annotations, the same instances, by hand."""

from __future__ import annotations

import json
import shutil

import pytest

pytest.importorskip("mmengine")

from blockcopy_plugins.datasets import CityPersonsVideoDataset  # noqa: E402
from blockcopy_plugins.errors import ConfigError  # noqa: E402
from tests.test_datasets import cityscapes_tree as tree  # noqa: E402

VAL = [name for name, split in tree.CLIPS if split == "val"]
LOAD = [dict(type="LoadImageFromFile")]
# x1, y1, x2, y2 of the body and of what is visible; ignored; height; visible part.
FIRST = [
    ([200, 40, 282, 240], [210, 50, 250, 150], 0, 200, 40 * 100 / (82 * 200)),
    ([1, 2, 4, 6], [1, 2, 4, 6], 1, 4, 1.0),
    ([10, 20, 40, 60], [10, 20, 40, 40], 1, 40, 0.5),
]
LAST = [
    ([1500, 300, 1600, 380], [0, 0, 0, 0], 1, 80, 0.0),
    ([7, 8, 16, 18], [7, 8, 16, 18], 1, 10, 1.0),
    ([70, 80, 160, 180], [70, 80, 160, 180], 1, 100, 1.0),
    ([-12, 400, 152, 800], [0, 400, 152, 700], 0, 400, 152 * 300 / (164 * 400)),
]


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    return tree.write_frames(tmp_path_factory.mktemp("citypersons"), offsets=range(-1, 1))


@pytest.fixture
def root(frames, tmp_path):
    return shutil.copytree(frames, tmp_path / "cityscapes")


def persons(root, **options):
    return CityPersonsVideoDataset(
        data_root=str(root), clip=(-1, 0), pipeline=LOAD, serialize_data=False, **options
    )


def facts(dataset, index):
    return [
        (i["bbox"], i["bbox_vis"], i["ignore_flag"], i["height"], i["vis_ratio"])
        for i in dataset.get_data_info(index)["instances"]
    ]


@pytest.mark.parametrize("form", ["json", "mat", "evaluation"])
def test_instances_of_each_form_by_hand(root, form):
    ann_file = None
    if form == "json":
        tree.write_person_json(root)
    elif form == "mat":
        tree.write_person_mat(root / "annotations" / "anno_val.mat", "val")
    else:
        ann_file = str(tree.write_person_evaluation(root / "val_gt.json", "val"))
    dataset = persons(root, ann_file=ann_file)
    assert dataset.video_names == VAL and dataset.video_lengths == [2, 2, 2]
    assert dataset.metainfo["classes"] == ("pedestrian",)
    assert [("instances" in dataset.get_data_info(i)) for i in range(6)] == 3 * [False, True]
    assert facts(dataset, 1) == FIRST
    assert facts(dataset, 3) == []  # annotated: nobody is there
    assert facts(dataset, 5) == LAST
    assert {i["bbox_label"] for i in dataset.get_data_info(5)["instances"]} == {0}


def test_the_file_may_lie_beside_the_frames(root):
    tree.write_person_evaluation(root / "gt.json", "val")
    assert facts(persons(root, ann_file="gt.json"), 1) == FIRST


def test_the_folder_comes_before_the_file(root):
    tree.write_person_json(root, tree.CLIPS[:1])
    tree.write_person_mat(root / "annotations" / "anno_val.mat", "val")
    assert persons(root).video_names == VAL[:1]
    assert persons(root, ann_file="annotations/anno_val.mat").video_names == VAL


def test_some_clips(root):
    tree.write_person_mat(root / "annotations" / "anno_val.mat", "val")
    assert persons(root, clips=2).video_names == VAL[:2]
    munster = persons(root, cities=["munster"])
    assert munster.video_names == VAL[2:] and facts(munster, 1) == LAST
    with pytest.raises(ConfigError, match="no city paris; it has frankfurt, munster"):
        persons(root, cities=["paris"])


def test_visible_boxes_go_through_mmdetections_pipeline(root):
    pytest.importorskip("mmdet")
    tree.write_person_json(root)
    pipeline = [
        *LOAD,
        dict(type="mmdet.LoadAnnotations", with_bbox=True),
        dict(type="blockcopy_plugins.LoadVisibleBoxes"),
        dict(type="mmdet.PackDetInputs", meta_keys=("ori_shape",)),
    ]
    dataset = CityPersonsVideoDataset(data_root=str(root), clip=(-1, 0), pipeline=pipeline)
    sample = dataset[1]["data_samples"]
    assert [i["height"] for i in sample.instances] == [200, 4, 40]
    assert sample.gt_instances.bboxes.tensor.tolist() == [FIRST[0][0]]
    assert len(sample.ignored_instances) == 2


@pytest.mark.parametrize("source", ["json", "mat", "gtFine", "leftImg8bit"])
def test_unlabelled_clips_of_train_need_no_annotations(root, source):
    if source == "json":
        tree.write_person_json(root)
    elif source == "mat":
        tree.write_person_mat(root / "annotations" / "anno_train.mat", "train")
    elif source == "gtFine":
        tree.write_labels(root)
    else:
        tree.write_annotated_frames(root)
    dataset = persons(root, split="train", labels=False)
    assert dataset.video_names == ["aachen_000001_000119"]
    assert all("instances" not in dataset.get_data_info(i) for i in range(2))


def test_no_annotations(root):
    with pytest.raises(ConfigError) as error:
        persons(root)
    message = str(error.value)
    for part in (
        "gtBbox_cityPersons_trainval.zip",
        "cityscapes-dataset.com",
        "anno_val.mat of https://github.com/cvgroup-njust/CityPersons",
        str(root / "gtBboxCityPersons" / "val"),
        str(root / "annotations" / "anno_val.mat"),
    ):
        assert part in message
    with pytest.raises(ConfigError, match=r"no annotation file 'mine\.mat', neither in"):
        persons(root, ann_file="mine.mat")


def test_a_data_root_that_is_too_deep(root):
    tree.write_person_json(root)
    with pytest.raises(ConfigError, match="too deep") as error:
        persons(root / "leftImg8bit_sequence")
    assert f"set data_root={str(root)!r}" in str(error.value)


def test_files_of_another_form(root):
    (root / "a.mat").write_bytes(b"no mat")
    with pytest.raises(ConfigError, match=r"a\.mat' is not a readable \.mat"):
        persons(root, ann_file="a.mat")
    (root / "a.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "x"}]}))
    with pytest.raises(ConfigError, match=r"a\.json' is not the ground truth of CityPersons"):
        persons(root, ann_file="a.json")
    (root / "b.json").write_text("{")
    with pytest.raises(ConfigError, match=r"b\.json' is not valid json"):
        persons(root, ann_file="b.json")
    tree.write_person_json(root)
    path = next((root / "gtBboxCityPersons" / "val").rglob("*.json"))
    path.write_text(json.dumps({"objects": [{"label": "pedestrian"}]}))
    with pytest.raises(ConfigError, match="needs bbox, bboxVis and label"):
        persons(root)


def test_it_has_no_task(root):
    with pytest.raises(ConfigError, match="has no task"):
        persons(root, task="segmentation")

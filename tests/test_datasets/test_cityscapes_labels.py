"""Cityscapes' table of labels and its instance images."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from blockcopy_plugins.datasets.cityscapes_labels import (
    LABELS,
    STUFF_AND_THINGS,
    THINGS,
    read_instance_ids,
    train_ids_of_ids,
)
from blockcopy_plugins.errors import ConfigError
from tests.test_datasets import cityscapes_tree as tree  # noqa: E402

# Ids of the 19 classes in the order of their train ids, from the dataset's paper and site.
EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def test_train_ids_are_those_of_the_official_table():
    expected = {number: 255 for number in range(34)}
    expected.update({number: i for i, number in enumerate(EVALUATED)})
    assert train_ids_of_ids() == expected
    assert [row.id for row in LABELS] == [*range(34), -1]


def test_classes_and_colours_are_those_of_the_frameworks():
    segmentation = pytest.importorskip("mmseg.datasets").CityscapesDataset.METAINFO
    assert tuple(row.name for row in STUFF_AND_THINGS) == tuple(segmentation["classes"])
    assert [list(row.colour) for row in STUFF_AND_THINGS] == segmentation["palette"]
    instances = pytest.importorskip("mmdet.datasets").CityscapesDataset.METAINFO
    assert tuple(row.name for row in THINGS) == tuple(instances["classes"])
    assert [row.colour for row in THINGS] == instances["palette"]


def test_instances_by_hand(tmp_path):
    from pycocotools import mask as coco_mask

    ids = tree.instance_ids()
    cv2.imwrite(str(tmp_path / "ids.png"), ids)
    found = read_instance_ids(str(tmp_path / "ids.png"))
    facts = {
        i["instance_id"]: (i["bbox_label"], i["bbox"], i["area"], i["ignore_flag"], i["iscrowd"])
        for i in found
    }
    # Labels: person 0, rider 1, car 2, truck 3, bus 4, train 5, motorcycle 6, bicycle 7.
    assert facts == {
        24: (0, [10, 10, 14, 12], 8, 1, 1),
        26: (2, [20, 12, 30, 16], 40, 1, 1),
        24000: (0, [1, 2, 5, 9], 11, 0, 0),
        26003: (2, [10, 2, 20, 4], 20, 0, 0),
        33002: (7, [31, 0, 32, 1], 1, 0, 0),
    }
    for instance in found:
        np.testing.assert_array_equal(
            coco_mask.decode(instance["mask"]) == 1, ids == instance["instance_id"]
        )
        assert isinstance(instance["mask"]["counts"], str)


def test_unreadable_instances(tmp_path):
    (tmp_path / "ids.png").write_text("nothing")
    with pytest.raises(ConfigError, match=r"ids\.png.*copy it again"):
        read_instance_ids(str(tmp_path / "ids.png"))

"""Objects of a frame and their masks, from the forms that MMDetection and COCO have them in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("pycocotools")

from pycocotools import mask as coco_mask  # noqa: E402

from blockcopy_plugins.datasets.ground_truth import FrameObjects, encode_masks  # noqa: E402
from blockcopy_plugins.datasets.ground_truth.masks import encode_polygons, encode_segmentation  # noqa: E402
from blockcopy_plugins.errors import ConfigError  # noqa: E402

SIZE = (20, 30)


def random_masks(count=3):
    return np.random.default_rng(0).random((count, *SIZE)) < 0.4


def decode(masks):
    return np.stack([coco_mask.decode(m) for m in masks]).astype(bool)


def uncompressed(mask):
    """COCO's uncompressed code: run lengths down the columns, zeros first."""
    flat = mask.flatten(order="F").astype(int)
    runs, value, length = [], 0, 0
    for bit in flat:
        if bit != value:
            runs.append(length)
            value, length = bit, 0
        length += 1
    return dict(size=list(mask.shape), counts=[*runs, length])


def test_every_form_of_masks_gives_the_same_codes():
    masks = random_masks()
    codes = [coco_mask.encode(np.asfortranarray(m.astype(np.uint8))) for m in masks]
    text = [dict(c, counts=c["counts"].decode()) for c in codes]
    forms = [
        masks,
        masks.astype(np.uint8) * 255,
        torch.from_numpy(masks),
        list(torch.from_numpy(masks)),
        codes,
        text,
        [uncompressed(m) for m in masks],
        [masks[0], text[1], codes[2]],
    ]
    for form in forms:
        encoded = encode_masks(form)
        np.testing.assert_array_equal(decode(encoded), masks)
        assert [c["counts"] for c in encoded] == [c["counts"] for c in codes]
    assert encode_masks(torch.zeros((0, *SIZE))) == ()
    assert encode_masks([]) == ()


def test_mmdetection_mask_structures():
    structures = pytest.importorskip("mmdet.structures.mask")
    masks = random_masks()
    bitmaps = structures.BitmapMasks(masks.astype(np.uint8), *SIZE)
    np.testing.assert_array_equal(decode(encode_masks(bitmaps)), masks)
    square = np.array([2.0, 3, 12, 3, 12, 8, 2, 8])
    (encoded,) = encode_masks(structures.PolygonMasks([[square]], *SIZE))
    expected = np.zeros(SIZE, bool)
    expected[3:8, 2:12] = True
    np.testing.assert_array_equal(coco_mask.decode(encoded).astype(bool), expected)


def test_polygons_are_united_and_invalid_ones_are_empty():
    parts = [[0, 0, 5, 0, 5, 5, 0, 5], [10, 10, 15, 10, 15, 15, 10, 15], [1, 2]]
    assert coco_mask.area(encode_polygons(parts, SIZE)) == 50
    assert coco_mask.area(encode_polygons([], SIZE)) == 0
    assert coco_mask.area(encode_segmentation(parts, SIZE)) == 50


def test_unfit_masks():
    with pytest.raises(ConfigError, match=r"\(K, H, W\).*\(20, 30\)"):
        encode_masks(np.zeros(SIZE))
    with pytest.raises(ConfigError, match=r"\(H, W\), but got \(30,\)"):
        encode_masks([np.zeros(30)])
    with pytest.raises(ConfigError, match="'counts' and 'size'"):
        encode_masks([dict(size=[1, 2])])
    with pytest.raises(ConfigError, match=r"\(20, 30\) px.*image \(40, 30\)"):
        encode_segmentation(uncompressed(random_masks()[0]), (40, 30))


@pytest.mark.parametrize("form", ["mapping", "InstanceData"])
def test_predictions(form):
    masks = random_masks(2)
    fields = dict(
        bboxes=torch.tensor([[1, 2, 3, 4], [5.5, 6, 7, 8]], dtype=torch.bfloat16),
        scores=torch.tensor([0.5, 0.25]),
        labels=torch.tensor([7, 1]),
        masks=torch.from_numpy(masks),
    )
    if form == "InstanceData":
        fields = pytest.importorskip("mmengine.structures").InstanceData(**fields)
    objects = FrameObjects.from_predictions(fields, SIZE)
    assert objects.boxes.tolist() == [[1, 2, 3, 4], [5.5, 6, 7, 8]]
    assert objects.labels.tolist() == [7, 1]
    np.testing.assert_array_equal(decode(objects.masks), masks)
    second = objects.select(np.array([False, True]))
    assert second.scores.tolist() == [0.25]
    np.testing.assert_array_equal(decode(second.masks), masks[1:])


def test_empty_predictions():
    empty = dict(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0))
    assert len(FrameObjects.from_predictions(empty, SIZE)) == 0
    assert FrameObjects.from_instances([], SIZE).boxes.shape == (0, 4)


def test_instances():
    square = [[0, 0, 5, 0, 5, 5, 0, 5]]
    instances = [
        dict(bbox=[0, 0, 5, 5], bbox_label=2, mask=square, area=25, ignore_flag=0),
        dict(bbox=[0, 0, 5, 5], bbox_label=1, mask=square, area=9, ignore_flag=1),
        dict(bbox=[0, 0, 5, 5], bbox_label=1, mask=[], area=9, ignore_flag=1, iscrowd=0),
    ]
    objects = FrameObjects.from_instances(instances, SIZE)
    assert objects.labels.tolist() == [2, 1, 1]
    assert objects.ignore.tolist() == [False, True, True]
    assert objects.crowd.tolist() == [False, True, False]
    assert objects.areas.tolist() == [25, 9, 9]
    assert [int(coco_mask.area(m)) for m in objects.masks] == [25, 25, 0]


@pytest.mark.parametrize(
    ("said", "ratio"),
    [
        (dict(vis_ratio=0.25), 0.25),
        (dict(bbox_vis=[0, 0, 4, 5]), 0.5),
        (dict(bbox_vis=[0, 0, 4, 5], vis_ratio=0.25), 0.25),
    ],
)
def test_what_is_visible_by_either_of_its_names(said, ratio):
    whole = dict(bbox=[0, 0, 4, 10], bbox_label=0, ignore_flag=0)
    objects = FrameObjects.from_instances([whole, {**whole, **said}], SIZE)
    assert objects.visible_ratios.tolist() == [1.0, ratio]
    assert FrameObjects.from_instances([whole], SIZE).visible_ratios is None


def test_unfit_objects():
    with pytest.raises(ConfigError, match=r"\(K, 4\), but got \(2, 3\)"):
        FrameObjects(np.zeros((2, 3)), [0, 0], SIZE)
    with pytest.raises(ConfigError, match="labels has 1 entries for 2 boxes"):
        FrameObjects(np.zeros((2, 4)), [0], SIZE)
    with pytest.raises(ConfigError, match="1 masks for 2 boxes"):
        FrameObjects(np.zeros((2, 4)), [0, 0], SIZE, masks=({},))
    with pytest.raises(ConfigError, match="lack scores, labels"):
        FrameObjects.from_predictions(dict(bboxes=[]), SIZE)

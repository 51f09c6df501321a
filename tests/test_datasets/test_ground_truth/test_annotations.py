"""Readers of MOTChallenge and COCO ground truth, on files written by hand."""

from __future__ import annotations

import json

import pytest

from blockcopy_plugins.datasets.ground_truth import (
    FrameObjects,
    VideoReference,
    read_annotations,
    read_coco,
    read_mot,
)
from blockcopy_plugins.datasets.ground_truth.annotation_notes import AnnotationNotes
from blockcopy_plugins.errors import ConfigError

CLIP = VideoReference(path="/data/clip.avi", name="clip", length=10)


def test_mot_frames_and_pixels_count_from_one(tmp_path):
    path = tmp_path / "gt.txt"
    # As PETS09-S2L1 has it, with a byte order mark, an empty line and Windows line ends.
    path.write_bytes(
        b"\xef\xbb\xbf1,9,499,158,31.5,75.25,1,-4.1554,-7.3591,0\r\n\r\n"
        b"1,15,258,219,32,88,0,-11.306,-5.5995,0\r\n10,9,1,1,2,3,1,0,0,0\r\n"
    )
    annotations = read_mot(path, label=4)
    assert sorted(annotations.frames) == [0, 9]
    first, ignored = annotations.instances(0)
    assert first["bbox"] == [498, 157, 529.5, 232.25]
    assert (first["bbox_label"], first["ignore_flag"], first["instance_id"]) == (4, 0, 9)
    assert (ignored["ignore_flag"], ignored["iscrowd"]) == (1, 0)
    assert annotations.instances(9)[0]["bbox"] == [0, 0, 2, 3]
    # A frame without a line is annotated, and empty.
    assert annotations.instances(5) == []
    objects = annotations.objects(0, (576, 768))
    assert objects.ignore.tolist() == [False, True]
    assert objects.crowd.tolist() == [False, False]
    assert annotations.image_ids == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2,three,4,5,6,1", "line 2 .*three.*frame,id,left,top"),
        ("1,2,3,4,5", "line 2 .*at least frame,id,left,top"),
        ("0,2,3,4,5,6,1", "frame 0 .*count from 1"),
        ("1,2,3,4,-5,6,1", "-5.0 x 6.0 px"),
    ],
)
def test_mot_lines_that_are_wrong(tmp_path, line, message):
    path = tmp_path / "gt.txt"
    path.write_text(f"1,1,1,1,1,1,1\n{line}\n")
    with pytest.raises(ConfigError, match=message):
        read_mot(path)


def test_mot_class_and_video(tmp_path):
    path = tmp_path / "gt.txt"
    path.write_text("10,1,1,1,1,1,1\n")
    (annotations,) = read_annotations(path, [CLIP], classes=("car", "person"))
    assert annotations.instances(9)[0]["bbox_label"] == 1
    assert read_annotations(path, [CLIP])[0].classes == ("person",)
    with pytest.raises(ConfigError, match=r"'person', which is not among.*set mot_class"):
        read_annotations(path, [CLIP], classes=("car",))
    other = tmp_path / "clip.mp4"
    other.write_bytes(bytes(range(256)))
    with pytest.raises(ConfigError, match="clip.mp4") as wrong:
        read_annotations(other, [CLIP], classes=("car",))
    assert "set mot_class" not in str(wrong.value)
    with pytest.raises(ConfigError, match="one video, but 2 were given.*list"):
        read_annotations(path, [CLIP, CLIP])
    path.write_text("11,1,1,1,1,1,1\n")
    with pytest.raises(ConfigError, match="annotates frame 11, but .* only 10 frames"):
        read_annotations(path, [CLIP])
    with pytest.raises(ConfigError, match="no annotation file.*gone.txt"):
        read_annotations(tmp_path / "gone.txt", [CLIP])


def write_coco(path, **changes):
    content = dict(
        videos=[dict(id=7, name="clip")],
        images=[
            dict(id=3, video_id=7, frame_id=0),
            dict(id=4, video_id=7, frame_id=9),
        ],
        annotations=[
            dict(
                id=1, image_id=4, category_id=5, bbox=[1, 2, 3, 4], area=6, iscrowd=1,
                segmentation=dict(size=[4, 4], counts=[16]), track_id=77,
            ),
            dict(id=2, image_id=4, category_id=6, bbox=[0, 0, 1, 1]),
            dict(id=3, image_id=4, category_id=9, bbox=[0, 0, 1, 1]),
        ],
        categories=[dict(id=5, name="person"), dict(id=6, name="car"), dict(id=9, name="dog")],
    )  # fmt: skip
    path.write_text(json.dumps({**content, **changes}))
    return path


def test_coco_by_video_and_frame(tmp_path):
    path = write_coco(tmp_path / "a.json")
    other = VideoReference(path="/data/other.avi", name="other", length=3)
    nothing, annotations = read_coco(path, [other, CLIP], classes=("car", "person"))
    assert nothing is None
    assert sorted(annotations.frames) == [0, 9]
    assert annotations.instances(0) == []
    assert annotations.instances(1) is None
    assert annotations.objects(1, (4, 4)) is None
    person, car = annotations.instances(9)  # the dog is not among the classes
    assert person["bbox"] == [1, 2, 4, 6]
    assert (person["bbox_label"], person["iscrowd"], person["instance_id"]) == (1, 1, 77)
    assert car["bbox_label"] == 0
    assert annotations.image_ids == {0: 3, 9: 4}
    (own_classes,) = read_coco(path, [CLIP])
    assert own_classes.classes == ("person", "car", "dog")
    assert len(own_classes.instances(9)) == 3
    # With one video on both sides the name does not matter.
    renamed = VideoReference(path="/x/y.mp4", name="y")
    assert read_coco(path, [renamed])[0].image_ids == {0: 3, 9: 4}


@pytest.mark.parametrize("masked", [(), (0,), (1,), (0, 1)])
def test_masks_are_compared_where_all_have_one(tmp_path, masked):
    """With some alone, what is found of the others would count as wrong."""
    boxes = [[1, 2, 3, 4], [10, 20, 30, 40]]
    found = [
        dict(id=n, image_id=4, category_id=5, bbox=[x, y, w, h])
        | ({"segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]} if n in masked else {})
        for n, (x, y, w, h) in enumerate(boxes)
    ]
    path = write_coco(tmp_path / "a.json", annotations=found)
    notes = AnnotationNotes()
    (annotations,) = read_coco(path, [CLIP], ("person",), notes)
    instances = annotations.instances(9)
    objects = FrameObjects.from_instances(instances, (100, 100))
    assert [one["bbox"] for one in instances] == [[1, 2, 4, 6], [10, 20, 40, 60]]
    assert annotations.has_masks == (objects.masks is not None) == (len(masked) == 2)
    if len(masked) == 1:
        assert notes.lines() == [
            f"1 of the 2 annotations used from {str(path)!r} have no segmentation, so boxes are "
            "compared and masks are not"
        ]
    else:
        assert notes.lines() == []


@pytest.mark.parametrize("frame_names", [None, ("0.png", "9.png")])
@pytest.mark.parametrize("number", [{}, {"frame_id": None}])
def test_images_of_no_frame_are_told_of(tmp_path, frame_names, number):
    clip = VideoReference("/data/clip", "clip", frame_names=frame_names, length=10)
    first, last = (
        dict(id=3, video_id=7, file_name="clip/5.png", **number),
        dict(id=4, video_id=7, file_name="clip/9.png", frame_id=9 if frame_names is None else 1),
    )
    path = write_coco(tmp_path / "a.json", images=[first, last])
    notes = AnnotationNotes()
    (annotations,) = read_coco(path, [clip], notes=notes)
    assert annotations.image_ids == {9 if frame_names is None else 1: 4}
    (told,) = [line for line in notes.lines() if "passed over" in line]
    assert told.startswith("1 images have neither a frame_id nor the name") and "images[0]" in told


def test_coco_by_file_name(tmp_path):
    first = VideoReference("/d/s1/img", "s1/img", frame_names=("1.jpg", "2.jpg"), length=2)
    second = VideoReference("/d/s2/img", "s2/img", frame_names=("1.jpg", "3.jpg"), length=2)
    path = write_coco(
        tmp_path / "a.json",
        images=[
            dict(id=3, file_name="s2/img/1.jpg"),
            dict(id=4, file_name="3.jpg"),
            dict(id=5, file_name="of/another/set.jpg"),
        ],
    )
    nothing, annotations = read_coco(path, [first, second])
    assert nothing is None
    assert annotations.image_ids == {0: 3, 1: 4}
    assert len(annotations.instances(1)) == 3
    path = write_coco(tmp_path / "b.json", images=[dict(id=3, file_name="1.jpg")])
    with pytest.raises(ConfigError, match=r"'1.jpg'.*could be a frame of any of.*s1.*s2"):
        read_coco(path, [first, second])


def test_coco_files_that_do_not_fit(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match="not valid json"):
        read_coco(path, [CLIP])
    path.write_text("[]")
    with pytest.raises(ConfigError, match="not a COCO file.*images"):
        read_coco(path, [CLIP])
    write_coco(path)
    with pytest.raises(ConfigError, match=r"'person', 'car', 'dog'.*\('tree',\)"):
        read_coco(path, [CLIP], classes=("tree",))
    write_coco(path, images=[dict(id=3, video_id=7, frame_id=10)])
    with pytest.raises(ConfigError, match="frame_ids of .*frame 10, counted from 0.*10 frames"):
        read_coco(path, [CLIP])
    write_coco(path, images=[dict(id=i, video_id=7, frame_id=2) for i in (3, 4)])
    with pytest.raises(ConfigError, match="frame 2 .*twice, as the images 3 and 4"):
        read_coco(path, [CLIP])
    write_coco(path, images=[dict(id=3, file_name="1.jpg")])
    with pytest.raises(ConfigError, match="lists 1 images, but none is a frame"):
        read_coco(path, [CLIP])

"""Annotation files that are wrong in one place: a right count, or an error that names the place."""

from __future__ import annotations

import copy
import gzip
import json
import math
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcopy_plugins.datasets.ground_truth import VideoReference, read_annotations, read_coco
from blockcopy_plugins.datasets.ground_truth.annotation_notes import AnnotationNotes
from blockcopy_plugins.datasets.ground_truth.frame_objects import FrameObjects
from blockcopy_plugins.errors import BlockCopyError, ConfigError

SIZE = (100, 200)
CLIP = VideoReference("/data/clip.mp4", "clip", length=10, size=SIZE)


def content(frames=3, boxes=2):
    return {
        "videos": [{"id": 1, "name": "clip"}],
        "images": [
            {"id": n + 1, "video_id": 1, "frame_id": n, "file_name": f"clip/{n:06d}.png"}
            | {"width": 200, "height": 100}
            for n in range(frames)
        ],
        "annotations": [
            {"id": n * boxes + k + 1, "image_id": n + 1, "category_id": 5, "iscrowd": 0}
            | {"bbox": [10 * k, 5, 30, 40], "area": 1200}
            for n in range(frames)
            for k in range(boxes)
        ],
        "categories": [{"id": 5, "name": "person"}],
    }


def read(path, found, classes=("car", "person"), videos=(CLIP,), **options):
    path.write_text(found if isinstance(found, str) else json.dumps(found))
    notes = AnnotationNotes()
    return read_coco(path, list(videos), classes, notes, **options), notes


def boxes_of(annotations):
    return sum(len(found) for found in annotations.frames.values())


def changed(change):
    found = content()
    change(found)
    return found


def set_in(kind, index, field, value):
    return lambda c: c[kind][index].__setitem__(field, value)


def drop(kind, index, field):
    return lambda c: c[kind][index].pop(field)


# What is wrong, and what the message has to name: entry, field, value.
ERRORS = {
    "bbox of 3": (
        set_in("annotations", 1, "bbox", [1, 2, 3]),
        r"bbox of annotations\[1\].*1, 2, 3",
    ),
    "bbox of texts": (set_in("annotations", 1, "bbox", ["1", "2", "3", "4"]), r"bbox .*'1', '2'"),
    "bbox NaN": (set_in("annotations", 1, "bbox", [math.nan, 5, 3, 4]), r"bbox .*nan"),
    "bbox infinite": (set_in("annotations", 1, "bbox", [0, 0, math.inf, 4]), r"bbox .*inf"),
    "bbox beyond floats": (set_in("annotations", 1, "bbox", [0, 0, 10**400, 4]), r"bbox of"),
    "bbox negative": (set_in("annotations", 1, "bbox", [50, 5, -30, 4]), r"bbox .*-30.*negative"),
    "bbox of booleans": (set_in("annotations", 1, "bbox", [True, 1, 1, 1]), r"bbox .*True"),
    "category without name": (drop("categories", 0, "name"), r"categories\[0\].*has no name"),
    "category without id": (drop("categories", 0, "id"), r"categories\[0\].*has no id"),
    "category id of a list": (set_in("categories", 0, "id", []), r"id of categories\[0\].*\[\]"),
    "no category_id": (drop("annotations", 1, "category_id"), r"\[1\] \(id 2\).*no category_id"),
    "unknown category_id": (set_in("annotations", 1, "category_id", 9), r"category_id of .*is 9"),
    "no image_id": (drop("annotations", 1, "image_id"), r"annotations\[1\].*no image_id"),
    "image without id": (drop("images", 1, "id"), r"images\[1\].*has no id"),
    "video without id": (drop("videos", 0, "id"), r"videos\[0\].*has no id"),
    "frame_id of a text": (set_in("images", 1, "frame_id", "x"), r"frame_id of images\[1\].*'x'"),
    "frame_id in between": (set_in("images", 1, "frame_id", 0.5), r"frame_id .*0\.5"),
    "frame_id negative": (set_in("images", 1, "frame_id", -1), r"frame_id .*-1"),
    "frame_id in other digits": (set_in("images", 1, "frame_id", "\u0663"), r"frame_id of"),
    "frame_id of 5000 digits": (set_in("images", 1, "frame_id", "9" * 5000), r"frame_id of"),
    "frame_id beyond the end": (set_in("images", 2, "frame_id", 10), r"frame 10.*has 10 frames"),
    "annotations null": (lambda c: c.__setitem__("annotations", None), r"annotations of .*null"),
    "images a dict": (lambda c: c.__setitem__("images", {"1": {}}), r"images of .*dict"),
    "an image is a text": (lambda c: c["images"].__setitem__(1, "x"), r"images\[1\] of .*'x'"),
    "area negative": (set_in("annotations", 1, "area", -5), r"area of .*-5"),
    "area a text": (set_in("annotations", 1, "area", "9"), r"area of .*'9'"),
    "iscrowd a text": (set_in("annotations", 1, "iscrowd", "0"), r"iscrowd of .*'0'.*0 or 1"),
    "polygon odd": (
        set_in("annotations", 1, "segmentation", [[1, 1, 5, 1, 5, 9, 3]]),
        r"odd number",
    ),
    "polygon of points": (
        set_in("annotations", 1, "segmentation", [[[1, 1], [5, 1], [5, 9]]]),
        r"segmentation of annotations\[1\].*polygons as \[x1, y1, x2, y2, ...\], not as",
    ),
    **{
        f"polygon that reaches to {far:g}": (
            set_in("annotations", 1, "segmentation", [[far, 1, 5, 1, 5, 9]]),
            r"segmentation of annotations\[1\].*coordinates at most 100000 px from the image",
        )
        for far in (1e300, -1e9, 2e5)
    },
    "polygon flat": (set_in("annotations", 1, "segmentation", [1, 1, 5, 1, 5, 9]), r"list of poly"),
    "segmentation a text": (set_in("annotations", 1, "segmentation", "x"), r"segmentation .*'x'"),
    "mask of another size": (
        set_in("annotations", 1, "segmentation", {"size": [50, 100], "counts": [5000]}),
        r"segmentation of .*\[100, 200\]",
    ),
    "mask that reads beyond its end": (
        set_in("annotations", 1, "segmentation", {"size": [100, 200], "counts": "oooooooo"}),
        r"segmentation .*100 x 200 pixels",
    ),
    "two categories of one id": (
        lambda c: c["categories"].append({"id": "5", "name": "car"}),
        r"id of categories\[1\].*'5'.*as of categories\[0\]",
    ),
    "two images of one id": (set_in("images", 1, "id", 1), r"id of images\[1\].*is 1"),
    "width 0": (set_in("images", 1, "width", 0), r"width of images\[1\].*0"),
    "width without height": (drop("images", 1, "height"), r"images\[1\].*no height"),
    "rotated by 90 degrees": (
        lambda c: [i.update(width=100, height=200) for i in c["images"]],
        r"100x200 px \(width x height\).*200x100.*rotated by 90 degrees",
    ),
    "another aspect ratio": (
        lambda c: [i.update(width=200, height=150) for i in c["images"]],
        r"200x150 px.*another aspect ratio",
    ),
    "all annotations of no image": (
        lambda c: [a.update(image_id=a["image_id"] + 100) for a in c["annotations"]],
        r"none of the 6 annotations .*image_id 101, the first image id 1",
    ),
}


@pytest.mark.parametrize("name", list(ERRORS))
def test_a_wrong_value_is_named_with_its_place(tmp_path, name):
    change, message = ERRORS[name]
    with pytest.raises(ConfigError, match=message) as error:
        read(tmp_path / "a.json", changed(change))
    assert "a.json" in str(error.value)


# What is left out, how many annotations remain, and the reason.
LEFT_OUT = {
    "bbox missing": (drop("annotations", 1, "bbox"), 5, "they have no box"),
    "bbox null": (set_in("annotations", 1, "bbox", None), 5, "they have no box"),
    "bbox empty": (set_in("annotations", 1, "bbox", []), 5, "they have no box"),
    "bbox without height": (set_in("annotations", 1, "bbox", [5, 5, 30, 0]), 5, "boxes are empty"),
    "bbox up to the upper edge": (
        set_in("annotations", 1, "bbox", [5, -40, 4, 40]),
        5,
        "outside of the frame",
    ),
    "bbox up to the left edge": (
        set_in("annotations", 1, "bbox", [-4, 5, 4, 40]),
        5,
        "outside of the frame",
    ),
    "bbox from the right edge": (
        set_in("annotations", 1, "bbox", [200, 5, 4, 40]),
        5,
        "outside of the frame",
    ),
    "bbox from the lower edge": (
        set_in("annotations", 1, "bbox", [5, 100, 4, 40]),
        5,
        "outside of the frame",
    ),
    "bbox outside": (set_in("annotations", 1, "bbox", [500, 5, 4, 4]), 5, "outside of the frame"),
    "of no image": (set_in("annotations", 1, "image_id", 77), 5, "no image in the file"),
    "unknown category": (
        lambda c: (
            c["categories"].append({"id": 6, "name": "dog"}),
            [c["annotations"][k].update(category_id=6) for k in (0, 3)],
        ),
        4,
        "the category 'dog' is not among the classes",
    ),
}


@pytest.mark.parametrize("name", list(LEFT_OUT))
def test_what_cannot_be_used_is_left_out_and_counted(tmp_path, name):
    change, kept, reason = LEFT_OUT[name]
    (annotations,), notes = read(tmp_path / "a.json", changed(change))
    assert boxes_of(annotations) == notes.kept == kept
    told = notes.summary()["left_out"]
    assert told["count"] == 6 - kept and reason in told["reasons"][0]["reason"]
    assert "annotations[" in told["reasons"][0]["first"] and "a.json" in told["reasons"][0]["first"]
    assert any(reason in line for line in notes.lines())


@pytest.mark.parametrize(
    "change",
    [
        lambda c: (
            [i.update(id=f"{i['id']:06d}") for i in c["images"]]
            + [a.update(image_id=f"{a['image_id']:06d}") for a in c["annotations"]]
        ),
        lambda c: [i.update(id=str(i["id"])) for i in c["images"]],
        lambda c: [a.update(image_id=str(a["image_id"])) for a in c["annotations"]],
        lambda c: c["categories"][0].update(id="5"),
        lambda c: [i.update(video_id="1") for i in c["images"]],
        lambda c: [i.update(frame_id=float(i["frame_id"])) for i in c["images"]],
        lambda c: [i.update(frame_id=str(i["frame_id"])) for i in c["images"]],
        lambda c: [a.update(area=None) for a in c["annotations"]],
        lambda c: [i.update(width=None, height=None) for i in c["images"]],
        lambda c: c["categories"].append({"id": 6, "name": "person"}),
    ],
)
def test_other_spellings_of_the_same_mean_the_same(tmp_path, change):
    (right,), _ = read(tmp_path / "a.json", content())
    (found,), notes = read(tmp_path / "b.json", changed(change))
    assert notes.left_out == 0
    boxes = {n: [i["bbox"] for i in frame] for n, frame in found.frames.items()}
    assert boxes == {n: [i["bbox"] for i in frame] for n, frame in right.frames.items()}


FILES = {
    "utf-8 with a mark": ("utf-8-sig", None),
    "utf-16": ("utf-16", None),
    "utf-32": ("utf-32", None),
    "latin-1": ("latin-1", "not a text file.*save it in UTF-8"),
    "utf-16 without a mark": ("utf-16-le", "not valid json|not a text file|whose frame is"),
}


@pytest.mark.parametrize("name", list(FILES))
@pytest.mark.parametrize("suffix", [".json", ".txt"])
def test_encodings(tmp_path, name, suffix):
    encoding, message = FILES[name]
    found = content(1, 1)
    found["info"] = "\u00e9t\u00e9"
    text = json.dumps(found, ensure_ascii=False) if suffix == ".json" else "1,1,1,6,30,40,1,,\u00e9"
    if suffix == ".txt" and message is None:
        text = "1,1,1,6,30,40,1\n"
    path = tmp_path / f"a{suffix}"
    path.write_bytes(text.encode(encoding))
    if message is None:
        (annotations,) = read_annotations(path, [CLIP], ("person",), "person", AnnotationNotes())
        assert annotations.frames[0][0]["bbox"] == [0, 5, 30, 45]
        return
    with pytest.raises(ConfigError, match=message) as error:
        read_annotations(path, [CLIP], ("person",), "person", AnnotationNotes())
    assert path.name in str(error.value)


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "gt.txt", "gt.zip"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty; export it again"),
        (b" \n\n", "is empty; export it again"),
        (gzip.compress(b"1,1,1,1,5,5,1", mtime=0), "is compressed; unpack it"),
        (b"PK\x03\x04" + b"0" * 40, "is compressed; unpack it"),
    ],
)
def test_files_without_annotations_are_no_empty_annotations(tmp_path, name, data, message):
    """An empty MOTChallenge file would say that each frame is empty."""
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=f"{name}.*{message}"):
        read_annotations(path, [CLIP], ("person",), "person", AnnotationNotes())


def test_a_key_that_occurs_twice_hides_nothing(tmp_path):
    text = json.dumps(content())
    twice = text[:-1] + ', "annotations": []}'
    with pytest.raises(ConfigError, match="a.json.*the key 'annotations' twice"):
        read(tmp_path / "a.json", twice)


def test_annotations_of_one_id_are_all_used_with_a_remark(tmp_path):
    found = content()
    for annotation in found["annotations"][1:3]:
        annotation["id"] = 1
    (annotations,), notes = read(tmp_path / "a.json", found)
    assert boxes_of(annotations) == notes.kept == 6
    assert notes.lines() == [
        f"2 annotations of {str(tmp_path / 'a.json')!r} have the id of another one; all are used: "
        "if the file lists annotations twice, remove the copies"
    ]


def test_a_remark_on_many_annotations_is_made_once(tmp_path):
    found = content()
    for annotation in found["annotations"]:
        annotation["segmentation"] = [[1, 1, 5, 1, 5, 9], [1, 1, 5, 1]]
    _, notes = read(tmp_path / "a.json", found)
    (line,) = notes.lines()
    assert "fewer than three points" in line
    assert line.endswith(
        f"(6 times, the first: annotations[0] (id 1) of {str(tmp_path / 'a.json')!r})"
    )
    assert notes.summary()["remarks"] == [line]


def test_a_byte_order_mark_and_polygons_without_boxes(tmp_path):
    polygon = [[10, 10, 50, 10, 50, 90]]
    found = changed(set_in("annotations", 1, "segmentation", polygon))
    del found["annotations"][1]["bbox"]
    (annotations,), _ = read(tmp_path / "a.json", "\ufeff" + json.dumps(found))
    assert annotations.frames[0][1]["bbox"] == [10, 10, 50, 90]
    # A polygon of two points is none; its annotation stays.
    found["annotations"][1].update(segmentation=[[10, 10, 50, 10]], bbox=[1, 2, 3, 4])
    (annotations,), notes = read(tmp_path / "a.json", found)
    assert boxes_of(annotations) == 6 and "three points" in notes.lines()[0]


@given(st.sampled_from([(50, 100), (200, 400), (33, 67), (1000, 2000)]), st.integers(0, 1))
def test_annotations_of_another_size_are_brought_to_the_frames(tmp_path_factory, size, masks):
    """Against the frame's own: every pixel of the other size covers so many of the frame."""
    path = tmp_path_factory.mktemp("sizes") / "a.json"
    found = content()
    scale = (SIZE[0] / size[0], SIZE[1] / size[1])
    for image in found["images"]:
        image.update(width=size[1], height=size[0])
    for annotation in found["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x / scale[1], y / scale[0], w / scale[1], h / scale[0]]
        annotation["area"] = annotation["area"] / scale[0] / scale[1]
        if masks:
            a, b, c, d = annotation["bbox"]
            annotation["segmentation"] = [[a, b, a + c, b, a + c, b + d, a, b + d]]
    (annotations,), notes = read(path, found)
    for frame in annotations.frames.values():
        for k, instance in enumerate(frame):
            assert instance["bbox"] == pytest.approx([10 * k, 5, 10 * k + 30, 45])
            assert instance["area"] == pytest.approx(1200)
        objects = FrameObjects.from_instances(frame, SIZE)
        if masks:
            from blockcopy_plugins.datasets.ground_truth.masks import mask_area

            assert [mask_area(m) for m in objects.masks] == pytest.approx([1200] * 2, rel=0.1)
    assert any("200x100 px" in line for line in notes.lines())


def test_run_lengths_of_another_size(tmp_path):
    np = pytest.importorskip("numpy")
    coco_mask = pytest.importorskip("pycocotools.mask")
    mask = np.zeros((50, 100), np.uint8)
    mask[10:30, 20:60] = 1
    code = coco_mask.encode(np.asfortranarray(mask))
    code["counts"] = code["counts"].decode()
    found = content(1, 1)
    found["images"][0].update(width=100, height=50)
    found["annotations"][0]["segmentation"] = code
    (annotations,), _ = read(tmp_path / "a.json", found)
    objects = FrameObjects.from_instances(annotations.frames[0], SIZE)
    expected = mask.repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(coco_mask.decode(dict(objects.masks[0])), expected)


# ------------------------------------------------------------------ numbers and names


def folder(names, name="clip"):
    return VideoReference(f"/data/{name}", name, tuple(names), len(names), size=SIZE)


def test_the_name_of_the_file_is_believed_before_its_number(tmp_path):
    every_fifth = folder([f"{n:06d}.png" for n in range(0, 50, 5)])
    found = content()
    for image, number in zip(found["images"], (0, 5, 10), strict=True):
        image.update(frame_id=number, file_name=f"clip/{number:06d}.png")
    (annotations,), notes = read(tmp_path / "a.json", found, videos=[every_fifth])
    assert annotations.image_ids == {0: 1, 1: 2, 2: 3}
    assert "file_name, which is believed" in " ".join(notes.lines())
    # The suffix alone makes no other name.
    for image in found["images"]:
        image["file_name"] = image["file_name"].replace(".png", ".jpg")
    (annotations,), _ = read(tmp_path / "a.json", found, videos=[every_fifth])
    assert annotations.image_ids == {0: 1, 1: 2, 2: 3}


def test_videos_are_found_by_their_paths_with_and_without_suffix(tmp_path):
    clips = [
        VideoReference(f"/data/{name}.mp4", f"camera {name}", length=10, size=SIZE) for name in "ab"
    ]
    found = content(1, 1)
    found["videos"] = [{"id": 1, "name": "b"}, {"id": 2, "name": "a.mp4"}]
    first, second = (dict(found["images"][0], id=n, video_id=n) for n in (1, 2))
    found["images"] = [first, second]
    found["annotations"][0]["image_id"] = 1
    (of_a, of_b), _ = read(tmp_path / "a.json", found, videos=clips)
    assert (boxes_of(of_a), boxes_of(of_b)) == (0, 1)


def test_images_under_names_that_the_folder_does_not_have_are_none_of_its_frames(tmp_path):
    found = content()
    found["images"][2]["file_name"] = "clip/999999.png"
    clip = folder([f"{n:06d}.png" for n in range(5)])
    (annotations,), notes = read(tmp_path / "a.json", found, videos=[clip])
    assert sorted(annotations.frames) == [0, 1]
    assert (notes.kept, notes.elsewhere, notes.left_out) == (4, 2, 0)
    assert "1 images have file names" in notes.lines()[0] and "images[2]" in notes.lines()[0]


@pytest.mark.parametrize(
    ("numbers", "first", "expected"),
    [
        ([0, 1, 2], None, [0, 1, 2]),
        ([2, 5], None, [2, 5]),
        (list(range(1, 11)), None, list(range(10))),  # ten frames, the last one is number 10
        ([1, 2, 3], 1, [0, 1, 2]),
        ([1, 2, 3], 0, [1, 2, 3]),
        ([1, 2, 3], None, None),  # either
        ([0, 1], 1, None),
        ([3, 10], None, None),  # beyond the end, and not from 1
    ],
)
def test_numbers_from_one_are_used_where_certain_and_refused_where_not(
    tmp_path, numbers, first, expected
):
    found = content(len(numbers), 1)
    for image, number in zip(found["images"], numbers, strict=True):
        image["frame_id"] = number
    if expected is None:
        with pytest.raises(ConfigError, match="count from|frame 10"):
            read(tmp_path / "a.json", found, first_frame_number=first)
        return
    (annotations,), notes = read(tmp_path / "a.json", found, first_frame_number=first)
    assert sorted(annotations.frames) == expected
    shifted = first is None and expected != numbers
    assert any("counted from 1" in line for line in notes.lines()) == shifted


NAMES = {
    "Person": "person",
    "PERSON ": "person",
    "traffic_light": "traffic light",
    "Traffic-Light": "traffic light",
    "trafficlight": "traffic light",
    "people": None,
    "motorbike": None,
}


@pytest.mark.parametrize("name", list(NAMES))
def test_names_that_are_spelled_in_another_way(tmp_path, name):
    classes = ("person", "car", "traffic light")
    found = content(1, 2)
    found["categories"] = [{"id": 5, "name": name}, {"id": 6, "name": "car"}]
    found["annotations"][1]["category_id"] = 6
    (annotations,), notes = read(tmp_path / "a.json", found, classes=classes)
    labels = [i["bbox_label"] for i in annotations.frames[0]]
    meant = NAMES[name]
    assert labels == ([1] if meant is None else [classes.index(meant), 1])
    assert notes.left_out == (meant is None)
    assert any(repr(name) in line for line in notes.lines())


def test_a_spelling_that_would_be_two_classes_is_neither(tmp_path):
    found = content(1, 1)
    found["categories"][0]["name"] = "PERSON"
    with pytest.raises(ConfigError, match="'PERSON'.*make the names agree"):
        read(tmp_path / "a.json", found, classes=("person", "Person"))


@pytest.mark.parametrize("classes", ["person", b"person", ("person", 3)])
def test_a_text_is_no_sequence_of_names(tmp_path, classes):
    with pytest.raises(ConfigError, match="classes must be a sequence of names"):
        read(tmp_path / "a.json", content(), classes=classes)
    (tmp_path / "gt.txt").write_text("1,1,1,1,5,5,1\n")
    with pytest.raises(ConfigError, match="classes must be a sequence of names"):
        read_annotations(tmp_path / "gt.txt", [CLIP], classes)


# ------------------------------------------------------------------ MOTChallenge


def read_lines(path, lines, classes=("person",), video=CLIP):
    path.write_text("\n".join(lines) + "\n")
    notes = AnnotationNotes()
    (found,) = read_annotations(path, [video], classes, "person", notes)
    return found, notes


def test_the_class_column_counts(tmp_path):
    lines = ["1,1,11,11,20,30,1,1,1.0"] + [
        f"1,{k},50,50,10,10,1,{k},1.0" for k in (2, 3, 6, 7, 8, 12)
    ]
    found, notes = read_lines(tmp_path / "gt.txt", lines)
    # Pedestrian; persons on vehicles, static persons, distractors and reflections are ignored.
    assert [i["ignore_flag"] for i in found.frames[0]] == [0, 1, 1, 1, 1]
    assert notes.left_out == 2 and "'car' (column 8: 3)" in notes.lines()[0]
    found, notes = read_lines(tmp_path / "gt.txt", lines, classes=("car", "person"))
    assert [i["bbox_label"] for i in found.frames[0]] == [1, 1, 0, 1, 1, 1]


def test_classes_of_labels_txt(tmp_path):
    (tmp_path / "labels.txt").write_text("person\nbus\nCar\n")
    lines = [f"1,{k},50,50,10,10,1,{k},1" for k in (1, 2, 3)]
    found, notes = read_lines(tmp_path / "gt.txt", lines, classes=("car", "person"))
    assert [i["bbox_label"] for i in found.frames[0]] == [1, 0]
    assert notes.left_out == 1 and any("'bus'" in line for line in notes.lines())
    with pytest.raises(ConfigError, match=r"line 1 .*class 4 in column 8.*labels\.txt"):
        read_lines(tmp_path / "gt.txt", ["1,1,50,50,10,10,1,4,1"])


def test_world_coordinates_are_no_classes(tmp_path):
    found, notes = read_lines(tmp_path / "gt.txt", ["1,9,49,15,31.5,75.25,1,-4.1554,-7.3591,0"])
    assert found.frames[0][0]["bbox"] == [48, 14, 79.5, 89.25] and notes.left_out == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.5,1,1,1,5,5,1", "line 2 .*frame '1.5'"),
        ("1,1,nan,1,5,5,1", "line 2 .*left is 'nan'"),
        ("1,1,1,1,inf,5,1", "line 2 .*width is 'inf'"),
        ("1,1,1_0,1,5,5,1", "line 2 .*left is '1_0'"),
        ("\uff11,1,1,1,5,5,1", "line 2 .*frame"),
        ("1,1,1,1,5,5,1,0,1", "line 2 .*class 0 in column 8"),
        ("1,1,1,1,5,5,1,1.5,1", "line 2 .*class '1.5'"),
        ("1,7,1,1,5,5,1", "line 2 .*id 7 in frame 1, as line 1"),
        ("99,7,1,1,5,5,1", "frame 99.*only 10 frames"),
    ],
)
def test_lines_that_are_wrong(tmp_path, line, message):
    with pytest.raises(ConfigError, match=message) as error:
        read_lines(tmp_path / "gt.txt", ["1,7,11,11,20,30,1", line])
    assert "gt.txt" in str(error.value)


def test_what_the_sequence_says_of_its_size(tmp_path):
    (tmp_path / "gt").mkdir()
    (tmp_path / "seqinfo.ini").write_text("[Sequence]\nimWidth=400\nimHeight=200\n")
    found, notes = read_lines(tmp_path / "gt/gt.txt", ["1,1,21,11,40,60,1"])
    assert found.frames[0][0]["bbox"] == [10, 5, 30, 35] and "400x200" in notes.lines()[0]
    (tmp_path / "seqinfo.ini").write_text("[Sequence]\nimWidth=100\nimHeight=200\n")
    with pytest.raises(ConfigError, match="seqinfo.ini.*100x200 px.*90 degrees"):
        read_lines(tmp_path / "gt/gt.txt", ["1,1,21,11,40,60,1"])


@pytest.mark.parametrize(
    "text", ["", "[Other]\nimWidth=400\n", "[Sequence]\nimWidth=0\nimHeight=0\n", "no section\n"]
)
def test_a_description_that_says_nothing_changes_nothing(tmp_path, text):
    (tmp_path / "seqinfo.ini").write_text(text)
    found, _ = read_lines(tmp_path / "gt.txt", ["1,1,21,11,40,60,1"])
    assert found.frames[0][0]["bbox"] == [20, 10, 60, 70]


# ------------------------------------------------------------------ fuzzing

ODD = [None, "", "x", "7", -1, 0, 1, 2, 7, 0.5, 1e300, math.nan, math.inf, True, [], {}, [[]]]
ODD += [[1], "\u0663", "\x00", {"size": [100, 200], "counts": "x"}, [[1, 2, 3, 4, 5, 6]]]


def mutate(rng, found):
    """Change one to three values anywhere; half of the time the file's bytes."""
    found = copy.deepcopy(found)
    for _ in range(rng.randint(1, 3)):
        node, parent, key = found, None, None
        while isinstance(node, (dict, list)) and node and (parent is None or rng.random() < 0.8):
            parent = node
            key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
            node = node[key]
        how = rng.random()
        if how < 0.2 and isinstance(parent, dict):
            del parent[key]
        elif how < 0.3 and isinstance(parent, list):
            parent.append(copy.deepcopy(node))
        else:
            parent[key] = copy.deepcopy(rng.choice(ODD))
    text = json.dumps(found)
    if rng.random() < 0.3:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(["", "\x00", "9", '"', "}", "[" * 3000]) + text[at + 1 :]
    return text


def check(path, seed, suffix):
    rng = random.Random(seed)
    if suffix == ".json":
        path.write_text(mutate(rng, content()))
    else:
        lines = [f"{n},{k},{5 * k + 1},3,20,30,1,{1 + k},1" for n in (1, 2) for k in (0, 1)]
        text = list("\n".join(lines))
        for _ in range(rng.randint(1, 4)):
            text[rng.randrange(len(text))] = rng.choice(
                [*"0,.-\n e9", "nan", '"', "\x00", "\uff11"]
            )
        path.write_text("".join(text))
    notes = AnnotationNotes()
    try:
        found = read_annotations(path, [CLIP], ("person",), "person", notes)
        kept = sum(boxes_of(a) for a in found if a is not None)
        for annotations in found:
            for frame in () if annotations is None else annotations.frames.values():
                objects = FrameObjects.from_instances(frame, SIZE)
                assert all(map(math.isfinite, objects.boxes.reshape(-1).tolist()))
    except BlockCopyError as error:
        assert path.name in str(error), (seed, str(error))
        return
    assert kept == notes.kept, seed
    if suffix == ".json":
        listed = len(json.loads(path.read_text(encoding="utf-8-sig"))["annotations"])
        assert kept + notes.left_out + notes.elsewhere == listed, seed


@pytest.mark.parametrize("suffix", [".json", ".txt"])
def test_mutated_files_give_a_result_or_an_error_that_names_them(tmp_path, suffix):
    for seed in range(400):
        check(tmp_path / f"fuzz{suffix}", seed, suffix)


@pytest.mark.weekly
@pytest.mark.parametrize("suffix", [".json", ".txt"])
def test_thousands_of_mutated_files(tmp_path, suffix):
    for seed in range(1000, 11000):
        check(tmp_path / f"fuzz{suffix}", seed, suffix)


def test_the_remedy_of_a_refused_numbering_is_an_option_of_the_tool():
    from pathlib import Path

    text = (Path(__file__).resolve().parents[3] / "tools/_cli.py").read_text()
    assert re.search(r'"--ann-first",\s+type=int,\s+choices=\(0, 1\)', text)


@pytest.mark.parametrize("line", ["1;1;5;5;30;40;1", "1 1 5 5 30 40 1", "frame,id,x", "# made by"])
def test_lines_that_are_not_motchallenges_are_refused_with_its_form(tmp_path, line):
    path = tmp_path / "gt.txt"
    path.write_text(f"{line}\n1,1,6,6,30,40,1\n")
    with pytest.raises(ConfigError, match=r"line 1 of .*numbers between commas, and no other line"):
        read_annotations(path, [CLIP], ("person",))
    path.write_text("1,1,6,6,30,40,1\n")
    (found,) = read_annotations(path, [CLIP], ("person",))
    assert [tuple(one["bbox"]) for one in found.frames[0]] == [(5, 5, 35, 45)]

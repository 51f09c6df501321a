"""The look-alike of Cityscapes, read by tables and rules written down here by hand."""

from __future__ import annotations

import filecmp
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.io import loadmat

from blockcopy_plugins.errors import ConfigError
from examples.tiny_cityscapes import make_tiny_cityscapes
from examples.tiny_cityscapes.street import FRAME_RATE, Street
from examples.tiny_cityscapes.view import Painter

# Cityscapes' own table (cityscapesscripts, helpers/labels.py): id, train id, colour, instances.
OFFICIAL = {
    "unlabeled": (0, 255, (0, 0, 0), False),
    "ego vehicle": (1, 255, (0, 0, 0), False),
    "rectification border": (2, 255, (0, 0, 0), False),
    "out of roi": (3, 255, (0, 0, 0), False),
    "static": (4, 255, (0, 0, 0), False),
    "dynamic": (5, 255, (111, 74, 0), False),
    "ground": (6, 255, (81, 0, 81), False),
    "road": (7, 0, (128, 64, 128), False),
    "sidewalk": (8, 1, (244, 35, 232), False),
    "parking": (9, 255, (250, 170, 160), False),
    "rail track": (10, 255, (230, 150, 140), False),
    "building": (11, 2, (70, 70, 70), False),
    "wall": (12, 3, (102, 102, 156), False),
    "fence": (13, 4, (190, 153, 153), False),
    "guard rail": (14, 255, (180, 165, 180), False),
    "bridge": (15, 255, (150, 100, 100), False),
    "tunnel": (16, 255, (150, 120, 90), False),
    "pole": (17, 5, (153, 153, 153), False),
    "polegroup": (18, 255, (153, 153, 153), False),
    "traffic light": (19, 6, (250, 170, 30), False),
    "traffic sign": (20, 7, (220, 220, 0), False),
    "vegetation": (21, 8, (107, 142, 35), False),
    "terrain": (22, 9, (152, 251, 152), False),
    "sky": (23, 10, (70, 130, 180), False),
    "person": (24, 11, (220, 20, 60), True),
    "rider": (25, 12, (255, 0, 0), True),
    "car": (26, 13, (0, 0, 142), True),
    "truck": (27, 14, (0, 0, 70), True),
    "bus": (28, 15, (0, 60, 100), True),
    "caravan": (29, 255, (0, 0, 90), True),
    "trailer": (30, 255, (0, 0, 110), True),
    "train": (31, 16, (0, 80, 100), True),
    "motorcycle": (32, 17, (0, 0, 230), True),
    "bicycle": (33, 18, (119, 11, 32), True),
    "license plate": (-1, -1, (0, 0, 142), False),
}
TRAIN, VAL = "aachen_000000_000019", "frankfurt_000000_000294"
CLASSES = ("ignore", "pedestrian", "rider", "sitting person", "person (other)", "person group")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return make_tiny_cityscapes(
        folder, clips={"train": [TRAIN], "val": [VAL]}, frames=(1, 1), noise=0, train_ids=True
    )


def fine(root, split, clip, what):
    return root / "gtFine" / split / clip.partition("_")[0] / f"{clip}_gtFine_{what}"


def boxes(root, split, clip):
    folder = root / "gtBboxCityPersons" / split / clip.partition("_")[0]
    return json.loads((folder / f"{clip}_gtBboxCityPersons.json").read_text())["objects"]


def read(path):
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None, path
    return image


def changed(first, second):
    return (first.astype(int) != second.astype(int)).any(2)


# ------------------------------------------------------------------------------------------- files


def test_layout_and_names(root):
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}

    expected = {"overview.png", "annotations/anno_train.mat", "annotations/anno_val.mat"}
    for split, city, sequence, number in (
        ("train", "aachen", "000000", 19),
        ("val", "frankfurt", "000000", 294),
    ):
        clip = f"{city}_{sequence}_{number:06d}"
        expected.add(f"leftImg8bit/{split}/{city}/{clip}_leftImg8bit.png")
        expected.add(f"gtBboxCityPersons/{split}/{city}/{clip}_gtBboxCityPersons.json")
        for what in ("color", "instanceIds", "labelIds", "labelTrainIds"):
            expected.add(f"gtFine/{split}/{city}/{clip}_gtFine_{what}.png")
        expected.add(f"gtFine/{split}/{city}/{clip}_gtFine_polygons.json")
        for frame in range(number - 1, number + 2):
            name = f"{city}_{sequence}_{frame:06d}_leftImg8bit.png"
            expected.add(f"leftImg8bit_sequence/{split}/{city}/{name}")
    assert found == expected


def test_clips_of_30_frames_with_the_20th_annotated(tmp_path):
    root = make_tiny_cityscapes(tmp_path, clips={"val": [VAL]}, size=(32, 64), overview=False)

    frames = sorted((root / "leftImg8bit_sequence/val/frankfurt").iterdir())
    assert [path.name for path in frames] == [
        f"frankfurt_000000_{number:06d}_leftImg8bit.png" for number in range(275, 305)
    ]
    annotated = root / f"leftImg8bit/val/frankfurt/{VAL}_leftImg8bit.png"
    assert filecmp.cmp(annotated, frames[19], shallow=False)
    assert not filecmp.cmp(annotated, frames[18], shallow=False)


@pytest.mark.parametrize(("frames", "numbers"), [(4, (291, 295)), (22, (275, 297))])
def test_fewer_frames_keep_their_numbers_and_contents(root, tmp_path, frames, numbers):
    short = make_tiny_cityscapes(
        tmp_path, {"val": [VAL]}, size=(32, 64), frames=frames, overview=False
    )
    folder = short / "leftImg8bit_sequence/val/frankfurt"
    found = sorted(int(path.name.split("_")[2]) for path in folder.iterdir())
    assert found == list(range(*numbers))

    full = make_tiny_cityscapes(tmp_path / "full", {"val": [VAL]}, size=(32, 64), overview=False)
    for path in folder.iterdir():
        assert filecmp.cmp(path, full / path.relative_to(short), shallow=False)


def test_image_formats(root):
    height, width = 256, 512
    frame = read(root / f"leftImg8bit/val/frankfurt/{VAL}_leftImg8bit.png")
    assert frame.shape == (height, width, 3) and frame.dtype == np.uint8
    for what, dtype, shape in (
        ("labelIds", np.uint8, (height, width)),
        ("labelTrainIds", np.uint8, (height, width)),
        ("instanceIds", np.uint16, (height, width)),
        ("color", np.uint8, (height, width, 4)),
    ):
        image = read(fine(root, "val", VAL, f"{what}.png"))
        assert (image.dtype, image.shape) == (dtype, shape), what


# ------------------------------------------------------------------------------------------ labels


@pytest.mark.parametrize(("split", "clip"), [("train", TRAIN), ("val", VAL)])
def test_label_images_are_the_polygons_drawn_by_the_official_rules(root, split, clip):
    truth = json.loads(fine(root, split, clip, "polygons.json").read_text())
    assert (truth["imgHeight"], truth["imgWidth"]) == (256, 512)
    size = (512, 256)
    images = {what: Image.new("I", size, 0) for what in ("labelIds", "instanceIds")}
    images["labelTrainIds"] = Image.new("I", size, 255)
    colour = Image.new("RGBA", size, (0, 0, 0, 255))
    numbers = {}
    for thing in truth["objects"]:
        name = thing["label"]
        group = name not in OFFICIAL and name.endswith("group")
        name = name.removesuffix("group") if group else name
        label_id, train_id, paint, has_instances = OFFICIAL[name]
        if label_id < 0:
            continue
        instance = label_id
        if has_instances and not group:
            instance = 1000 * label_id + numbers.get(name, 0)
            numbers[name] = numbers.get(name, 0) + 1
        outline = [tuple(corner) for corner in thing["polygon"]]
        for what, value in (
            ("labelIds", label_id),
            ("labelTrainIds", train_id),
            ("instanceIds", instance),
        ):
            ImageDraw.Draw(images[what]).polygon(outline, fill=value)
        ImageDraw.Draw(colour).polygon(outline, fill=(*paint, 255))

    for what, image in images.items():
        found = read(fine(root, split, clip, f"{what}.png"))
        np.testing.assert_array_equal(found, np.asarray(image), err_msg=what)
    found = cv2.cvtColor(read(fine(root, split, clip, "color.png")), cv2.COLOR_BGRA2RGBA)
    np.testing.assert_array_equal(found, np.asarray(colour))


def test_a_street_has_most_of_the_classes_and_the_traps_of_the_real_data(root):
    labels, ids = set(), set()
    for split, clip in (("train", TRAIN), ("val", VAL)):
        truth = json.loads(fine(root, split, clip, "polygons.json").read_text())
        labels |= {thing["label"] for thing in truth["objects"]}
        ids |= set(np.unique(read(fine(root, split, clip, "labelTrainIds.png"))).tolist())

    assert {"persongroup", "license plate", "out of roi", "ego vehicle", "static"} <= labels
    assert len(ids - {255}) >= 16
    assert 255 in ids


def test_polygons_stay_within_the_image(root):
    truth = json.loads(fine(root, "val", VAL, "polygons.json").read_text())
    for thing in truth["objects"]:
        corners = np.array(thing["polygon"])
        assert len(corners) >= 3 and corners.min() >= 0
        assert corners[:, 0].max() <= 511 and corners[:, 1].max() <= 255


# ------------------------------------------------------------------------------------- CityPersons


@pytest.mark.parametrize(("split", "clip"), [("train", TRAIN), ("val", VAL)])
def test_boxes_of_persons(root, split, clip):
    ids = read(fine(root, split, clip, "instanceIds.png"))
    persons = boxes(root, split, clip)
    aligned = 0
    for person in persons:
        x, y, width, height = person["bbox"]
        if person["label"] == "person group":
            assert person["instanceId"] == 24 and person["bboxVis"] == [0, 0, 0, 0]
            continue
        if person["label"] == "ignore":
            assert person["instanceId"] == 0 and person["bboxVis"] == person["bbox"]
            continue
        assert person["instanceId"] // 1000 == (25 if person["label"] == "rider" else 24)
        rows, columns = np.nonzero(ids == person["instanceId"])
        left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        if person["label"] in ("pedestrian", "rider"):
            aligned += 1
            assert abs(width - 0.41 * height) <= 0.5
            inside = (columns >= x) & (columns < x + width) & (rows >= y) & (rows < y + height)
            assert inside.mean() > 0.75  # arms and feet leave it, as the rule is about the height
            # Head and feet are where the pixels end, or hidden.
            assert y <= top + 1 and y + height >= bottom - 1
            left, top = max(left, x), max(top, y)
            right, bottom = min(right, x + width), min(bottom, y + height)
        else:
            assert person["bbox"] == person["bboxVis"]
        assert person["bboxVis"] == [left, top, right - left, bottom - top]
    assert aligned >= 5
    # Whoever is annotated in the label image has a box, and the other way round.
    expected = {i for i in np.unique(ids).tolist() if i // 1000 in (24, 25)}
    assert {p["instanceId"] for p in persons if p["instanceId"] >= 1000} == expected
    assert {"pedestrian", "rider", "ignore", "person group"} <= {p["label"] for p in persons}


def test_each_subset_of_the_protocol_has_somebody(root):
    subsets = {"reasonable": 0, "small": 0, "heavy": 0, "all": 0}
    for split, clip in (("train", TRAIN), ("val", VAL)):
        for person in boxes(root, split, clip):
            if person["label"] == "pedestrian":
                width, height = person["bbox"][2:]
                seen = np.prod(person["bboxVis"][2:]) / (width * height)
                subsets["reasonable"] += height >= 50 and seen >= 0.65
                subsets["small"] += 50 <= height <= 75 and seen >= 0.65
                subsets["heavy"] += height >= 50 and 0.2 <= seen < 0.65
                subsets["all"] += height >= 20 and seen >= 0.2
    assert subsets["heavy"] >= 2 and subsets["small"] >= 2
    assert subsets["all"] > subsets["reasonable"] + subsets["heavy"] > subsets["small"]


@pytest.mark.parametrize(("split", "clip"), [("train", TRAIN), ("val", VAL)])
def test_mat_files_say_what_the_json_files_say(root, split, clip):
    content = loadmat(root / f"annotations/anno_{split}.mat")[f"anno_{split}_aligned"]
    assert content.shape == (1, 1) and content[0, 0].shape == (1, 1)
    cell = content[0, 0][0, 0]

    assert cell.dtype.names == ("cityname", "im_name", "bbs")
    assert cell["cityname"].tolist() == [clip.partition("_")[0]]
    assert cell["im_name"].tolist() == [f"{clip}_leftImg8bit.png"]
    rows = [
        [CLASSES.index(p["label"]), *p["bbox"], p["instanceId"], *p["bboxVis"]]
        for p in boxes(root, split, clip)
    ]
    assert cell["bbs"].tolist() == rows


def test_mat_file_lists_the_images_by_name(tmp_path):
    names = ["munster_000000_000019", "frankfurt_000001_000019", "frankfurt_000000_000294"]
    make_tiny_cityscapes(tmp_path, {"val": names}, size=(32, 64), frames=1, overview=False)

    content = loadmat(tmp_path / "annotations/anno_val.mat")["anno_val_aligned"]
    found = [str(cell[0, 0]["im_name"][0]) for cell in content[0]]
    assert found == [f"{name}_leftImg8bit.png" for name in sorted(names)]
    # Nobody is large enough here to have no box at all, yet boxes are rows of 10 in any case.
    assert all(cell[0, 0]["bbs"].shape[1] == 10 for cell in content[0])


# ------------------------------------------------------------------------------------------ motion


def frames_of(root, numbers):
    folder = root / "leftImg8bit_sequence/val/frankfurt"
    return [read(folder / f"frankfurt_000000_{n:06d}_leftImg8bit.png") for n in numbers]


def test_frames_differ_where_something_moves_and_nowhere_else(root):
    before, now, after = frames_of(root, (293, 294, 295))
    street = Street(np.random.default_rng([0, *VAL.encode()]))

    for first, second, times in ((before, now, (-1, 0)), (now, after, (0, 1))):
        near = np.zeros((256, 512), np.uint8)
        movers = 0
        for number in times:
            view = street.view(number / FRAME_RATE, (256, 512))
            for thing in street.things(number / FRAME_RATE):
                if thing.moving:
                    movers += 1
                    for part in (*thing.shadow, *thing.parts):
                        points = view.project(part.points)
                        cv2.fillPoly(near, [np.rint(points).astype(np.int32)], 1)
        near = cv2.dilate(near, np.ones((5, 5), np.uint8)) > 0
        differs = changed(first, second)

        assert movers > 20
        assert not (differs & ~near).any()
        assert 0.02 < near.mean() < 0.35
        assert 0.2 < differs.sum() / near.sum()


def test_moving_things_are_the_persons_and_vehicles_of_the_labels(root):
    before, now = frames_of(root, (293, 294))
    ids = read(fine(root, "val", VAL, "instanceIds.png"))
    differs = changed(before, now)

    still = np.isin(ids, [1, 3, 19, 20])  # bonnet, border, traffic lights and signs
    assert differs[still].mean() < 0.02
    walkers = [p["instanceId"] for p in boxes(root, "val", VAL) if p["bbox"][3] > 45]
    for person in walkers:
        assert differs[ids == person].mean() > 0.3, person


def test_moving_camera_changes_the_whole_picture(tmp_path):
    root = make_tiny_cityscapes(
        tmp_path, {"val": [VAL]}, frames=(1, 0), noise=0, camera="moving", overview=False
    )
    first, second = frames_of(root, (293, 294))
    differs = changed(first, second)

    assert differs[128:230].mean() > 0.5  # the road
    assert differs[40:100].mean() > 0.2  # houses and trees


def test_noise_is_everywhere_and_as_strong_as_asked_for(root, tmp_path):
    noisy = make_tiny_cityscapes(tmp_path, {"val": [VAL]}, frames=(1, 0), noise=3.0, overview=False)
    for number in (293, 294):
        clean, grainy = (frames_of(folder, [number])[0].astype(float) for folder in (root, noisy))
        unclipped = (clean > 20) & (clean < 235)
        assert abs((grainy - clean)[unclipped].std() - 3.0) < 0.15
        assert abs((grainy - clean)[unclipped].mean()) < 0.05
    difference = [frames_of(noisy, [n])[0].astype(float) for n in (293, 294)]
    assert (difference[0] != difference[1]).mean() > 0.8


def test_a_person_is_painted_where_the_outline_is():
    street = Street(np.random.default_rng([0, *VAL.encode()]))
    view = street.view(0.0, (256, 512))
    things = street.things(0.0)
    sky = street.backdrop((256, 512))
    texture = street.texture(view)
    front = max(
        (t for t in things if t.person == "pedestrian" and t.depth < street.crossing),
        key=lambda t: -t.depth,
    )
    with_front = Painter(sky).paint(things, view, texture)
    without = Painter(sky).paint([t for t in things if t is not front], view, texture)
    outline = np.zeros((256, 512), np.uint8)
    cv2.fillPoly(outline, [view.outline(front)], 1)
    outline = cv2.dilate(outline, np.ones((3, 3), np.uint8)) > 0
    differs = changed(with_front, without)
    head, feet = view.project(np.stack([front.head, front.feet]))
    upper = np.arange(256) < head[1] + 0.8 * (feet[1] - head[1])  # the shadow is further down

    assert not (differs[upper] & ~outline[upper]).any()
    assert differs[outline].mean() > 0.7  # which was made one pixel wider


# ------------------------------------------------------------------------------------- determinism


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*.*")}


def without_dates(files):
    """MATLAB's files state when they were written, in their first 116 bytes."""
    return {path: data[116:] if path.suffix == ".mat" else data for path, data in files.items()}


def test_same_seed_same_files_for_any_number_of_processes(tmp_path):
    clips = {"train": [TRAIN], "val": [VAL]}
    made = []
    for name, seed, processes in (("a", 3, 1), ("b", 3, 2), ("c", 4, 1)):
        folder = make_tiny_cityscapes(
            tmp_path / name, clips, size=(32, 64), frames=2, seed=seed, processes=processes
        )
        made.append(without_dates(contents(folder)))

    assert made[0] == made[1]
    assert made[0].keys() == made[2].keys()
    images = [path for path in made[0] if "leftImg8bit" in path.name]
    assert all(made[0][path] != made[2][path] for path in images)


def test_clips_do_not_depend_on_each_other(root, tmp_path):
    make_tiny_cityscapes(tmp_path, {"val": [VAL]}, frames=(1, 1), noise=0)
    for number in (293, 294, 295):
        name = f"leftImg8bit_sequence/val/frankfurt/frankfurt_000000_{number:06d}_leftImg8bit.png"
        assert filecmp.cmp(root / name, tmp_path / name, shallow=False)


def test_default_clips_have_names_of_their_own(tmp_path):
    make_tiny_cityscapes(tmp_path, {"train": 5, "val": 2}, size=(32, 64), frames=1, overview=False)
    for split, count in (("train", 5), ("val", 2)):
        assert len(list((tmp_path / "leftImg8bit" / split).rglob("*.png"))) == count


# ----------------------------------------------------------------------------------- tool, mistakes


def test_tool_writes_the_data_set_and_the_contact_sheet(tmp_path):
    tool = Path(__file__).resolve().parents[2] / "tools/make_tiny_cityscapes.py"
    command = [sys.executable, str(tool), "data", "--train", "1", "--val", "0"]
    command += ["--size", "64", "128", "--frames", "2", "--contact-sheet", "shown/sheet.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    assert "overview.png" in done.stdout
    sheet = read(tmp_path / "shown/sheet.png")
    assert sheet.std() > 30
    assert len(list((tmp_path / "data/leftImg8bit_sequence/train/aachen").iterdir())) == 2
    assert not (tmp_path / "data/leftImg8bit_sequence/val").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(camera="handheld"), "handheld"),
        (dict(frames=0), "30 frames"),
        (dict(frames=(20, 0)), "20 before"),
        (dict(size=(8, 512)), "32 px"),
        (dict(clips={"test": 1}), "'test'"),
        (dict(clips={"val": ["frankfurt"]}), "not the name of a clip"),
        (dict(clips={"val": ["frankfurt_000000_000005"]}), "19 or higher"),
    ],
)
def test_mistakes_are_named(tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        make_tiny_cityscapes(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()

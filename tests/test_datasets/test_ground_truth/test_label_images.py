"""Which label image belongs to which frame, and how a dataset's label images are read."""

from __future__ import annotations

import pytest

from blockcopy_plugins.datasets.ground_truth import LabelRules, VideoReference, find_label_images
from blockcopy_plugins.errors import ConfigError

RULES = LabelRules(img_suffix=".jpg", seg_map_suffix=".png")
CITY = LabelRules(img_suffix="_leftImg8bit.png", seg_map_suffix="_gtFine_labelTrainIds.png")


def make(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return str(folder)


def video(name="v", frames=None, length=None):
    return VideoReference(
        path=f"videos/{name}",
        name=name,
        frame_names=None if frames is None else tuple(frames),
        length=length if frames is None else len(frames),
    )


def names(found):
    return [{frame: path.rpartition("/")[2] for frame, path in one.items()} for one in found]


def test_names_of_frames(tmp_path):
    folder = make(tmp_path / "l", "b.png", "z.png", "notes.txt")
    found = find_label_images(folder, [video(frames=["a.jpg", "b.jpg", "c.jpg"])], RULES)
    assert found == [{1: f"{folder}/b.png"}]


def test_suffixes_of_the_dataset(tmp_path):
    stem = "ulm_000001_000019"
    folder = make(
        tmp_path / "l",
        *(f"{stem}_gtFine_{kind}.png" for kind in ("labelTrainIds", "labelIds", "color")),
    )
    frames = [f"ulm_000001_{i:06d}_leftImg8bit.png" for i in (18, 19, 20)]
    found = find_label_images(folder, [video(frames=frames)], CITY)
    assert names(found) == [{1: f"{stem}_gtFine_labelTrainIds.png"}]


def test_numbers_in_the_names_where_no_names_agree(tmp_path):
    """The numbers of the names, not places in the folder: these frames count from 1."""
    folder = make(tmp_path / "l", "label_2.png", "label_10.png")
    frames = [f"img_{i:04d}.jpg" for i in range(1, 12)]
    found = find_label_images(folder, [video(frames=frames)], RULES)
    assert names(found) == [{1: "label_2.png", 9: "label_10.png"}]


@pytest.mark.parametrize("first", [0, 2])
def test_label_images_that_begin_one_number_beside_the_frames_are_refused(tmp_path, first):
    frames = [f"img_{i:04d}.jpg" for i in range(1, 5)]
    numbered = make(tmp_path / "l", *(f"label_{i}.png" for i in range(first, first + 4)))
    with pytest.raises(ConfigError, match=rf"numbered {first} to .*1 to 4; name the label images"):
        find_label_images(numbered, [video(frames=frames)], RULES)
    named = make(tmp_path / "named", *(frame.replace(".jpg", ".png") for frame in frames))
    found = find_label_images(named, [video(frames=frames)], RULES)
    assert names(found) == [{i: f"img_{i + 1:04d}.png" for i in range(4)}]


def test_numbers_of_the_frames_of_a_video_file(tmp_path):
    folder = make(tmp_path / "l", "000000.png", "x_000012.png")
    found = find_label_images(folder, [video(length=13)], RULES)
    assert names(found) == [{0: "000000.png", 12: "x_000012.png"}]
    with pytest.raises(ConfigError, match=r"frame 12, counted from 0.*has 12 frames"):
        find_label_images(folder, [video(length=12)], RULES)
    # Where the frames were not counted to the end nothing can be said of it.
    assert names(find_label_images(folder, [video()], RULES))[0][12] == "x_000012.png"


def test_label_images_that_are_counted_from_one(tmp_path):
    """As FFmpeg numbers pictures: certain where they reach the number of frames, else asked for."""
    folder = make(tmp_path / "l", "000001.png", "000011.png")
    with pytest.raises(ConfigError, match=r"begin at 1.*--ann-first 0 or --ann-first 1"):
        find_label_images(folder, [video(length=12)], RULES)
    from_one = find_label_images(folder, [video(length=12)], RULES, first_frame_number=1)
    assert names(from_one) == [{0: "000001.png", 10: "000011.png"}]
    from_zero = find_label_images(folder, [video(length=12)], RULES, first_frame_number=0)
    assert names(from_zero) == [{1: "000001.png", 11: "000011.png"}]
    assert names(find_label_images(folder, [video(length=11)], RULES)) == names(from_one)
    # Of a folder of frames the numbers are those in the frames' names, wherever these stand.
    folder = make(tmp_path / "m", "lab_1.png", "lab_2.png")
    found = find_label_images(folder, [video(frames=["f_1.png", "f_5.png", "f_2.png"])], RULES)
    assert names(found) == [{0: "lab_1.png", 2: "lab_2.png"}]


def test_one_folder_for_several_videos(tmp_path):
    folder = make(tmp_path / "l", "a1.png", "b1.png")
    videos = [video("a", ["a1.jpg", "a2.jpg"]), video("b", ["b0.jpg", "b1.jpg"])]
    assert names(find_label_images(folder, videos, RULES)) == [{0: "a1.png"}, {1: "b1.png"}]
    # One without label images of its own does not get those of another by their numbers.
    videos.append(video("c", ["c1.jpg"]))
    assert find_label_images(folder, videos, RULES)[2] == {}
    with pytest.raises(ConfigError, match=r"numbered, but 2 videos.*'.*/l/d'"):
        find_label_images(folder, [video("d"), video("e")], RULES)
    make(tmp_path / "l" / "d", "3.png")
    make(tmp_path / "l" / "e", "4.png")
    found = find_label_images(folder, [video("d"), video("e")], RULES)
    assert names(found) == [{3: "3.png"}, {4: "4.png"}]


def test_a_label_image_belongs_to_one_video(tmp_path):
    folder = make(tmp_path / "l", "0.png")
    videos = [video(name, ["0.jpg", "1.jpg"]) for name in ("a", "b")]
    with pytest.raises(ConfigError, match="'videos/a' or of 'videos/b'; give one folder for each"):
        find_label_images(folder, videos, RULES)
    # The same video as two streams has the same labels twice, a folder and a file alike.
    assert find_label_images(folder, [videos[0]] * 2, RULES) == [{0: f"{folder}/0.png"}] * 2
    assert find_label_images(folder, [video(length=2)] * 2, RULES) == [{0: f"{folder}/0.png"}] * 2


@pytest.mark.parametrize(
    ("files", "frames", "message"),
    [
        (None, ["a.jpg"], "no folder of label images"),
        (["a.txt"], ["a.jpg"], "no label image .*belongs to a frame"),
        (["x.png"], ["a.jpg", "b.jpg"], "no label image .*belongs to a frame"),
        (["1.png"], ["a_1.jpg", "b_1.jpg"], "several frames have the same number"),
        (["x_1.png", "y_1.png"], ["a_1.jpg"], "'.*x_1.png' and '.*y_1.png'"),
        (["a.png", "a.bmp"], ["a.jpg"], None),
    ],
)
def test_folders_that_do_not_fit(tmp_path, files, frames, message):
    folder = str(tmp_path / "l") if files is None else make(tmp_path / "l", *files)
    if message is None:
        found = find_label_images(folder, [video(frames=frames)], RULES)
        assert names(found) == [{0: "a.png"}]
        return
    with pytest.raises(ConfigError, match=message):
        find_label_images(folder, [video(frames=frames)], RULES)


class Base:
    METAINFO = dict(classes=("road", "tree", "car"))

    def __init__(self, img_suffix=".jpg", seg_map_suffix=".png", reduce_zero_label=False):
        raise AssertionError("looks for its files")

    @classmethod
    def get_label_map(cls, classes):
        if not set(classes) <= set(cls.METAINFO["classes"]):
            raise ValueError(f"{classes} is not a subset")
        return {
            i: classes.index(c) if c in classes else 255
            for i, c in enumerate(("road", "tree", "car"))
        }


class Ours(Base):
    def __init__(self, seg_map_suffix="_L.png", reduce_zero_label=True, **kwargs):
        super().__init__(seg_map_suffix=seg_map_suffix, **kwargs)


def test_rules_are_those_of_the_dataset():
    assert LabelRules.of(None, {}) == LabelRules()
    assert LabelRules.of(Ours, {}) == LabelRules(".jpg", "_L.png", True)
    given = dict(reduce_zero_label=False, ignore_index=11, metainfo=dict(classes=["car", "road"]))
    found = LabelRules.of(Ours, given)
    assert found == LabelRules(".jpg", "_L.png", False, 11, {0: 1, 1: 255, 2: 0})
    with pytest.raises(ConfigError, match="Ours: .*not a subset"):
        LabelRules.of(Ours, dict(metainfo=dict(classes=["moon"])))


def test_rules_of_stock_datasets():
    datasets = pytest.importorskip("mmseg.datasets")
    city = LabelRules.of(datasets.CityscapesDataset, {})
    assert city == CITY
    ade = LabelRules.of(datasets.ADE20KDataset, {})
    assert ade == LabelRules(".jpg", ".png", True)
    some = LabelRules.of(datasets.CityscapesDataset, dict(metainfo=dict(classes=["car", "road"])))
    assert some.label_map[0] == 1 and some.label_map[13] == 0 and some.label_map[1] == 255

"""What the tools say, on the screen and in results.json, of frames and annotations left out."""

from __future__ import annotations

import json
import warnings

import pytest

pytest.importorskip("mmdet")
av = pytest.importorskip("av")
cv2 = pytest.importorskip("cv2")

from tests.test_tools import tiny_detector as tiny  # noqa: E402
from tests.tool_process import run_tool  # noqa: E402

TEST = ["tiny.py", "--no-dense-too", "--policy", "all", "--work-dir", "wd"]
RUNS = {
    "skipped": (
        "test_video",
        [*TEST, "--video", "frames", "--ann", "gt.json", "--out", "r.json", "--show-dir", "show"],
    ),
    "strict": ("test_video", [*TEST, "--video", "frames", "--out", "s.json", "--strict-frames"]),
    "demo": ("demo_video", ["frames", "out.mp4", "--config", "tiny.py", "--policy", "none"]),
    "strict demo": (
        "demo_video",
        ["frames", "strict.mp4", "--config", "tiny.py", "--policy", "none", "--strict-frames"],
    ),
    "size": ("test_video", [*TEST, "--video", "a.mp4", "--ann", "double.json", "--out", "d.json"]),
    "from one": ("test_video", [*TEST, "--video", "a.mp4", "--ann", "one.json"]),
    "from one, told": (
        "test_video",
        [*TEST, "--video", "a.mp4", "--ann", "one.json", "--ann-first", "1", "--out", "o.json"],
    ),
    "right": ("test_video", [*TEST, "--video", "a.mp4", "--ann", "right.json", "--out", "a.json"]),
}
_DRIVER = """
import contextlib, importlib, io, json, sys
sys.path.insert(0, sys.argv[1])
found = {}
for name, (tool, arguments) in json.loads(sys.argv[2]).items():
    module, err, out = importlib.import_module(tool), io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        status = module.run(module.main, module.parse_args(arguments))
    found[name] = (status, out.getvalue(), err.getvalue())
print('FOUND' + json.dumps(found))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("left_out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny.write_config(folder, tiny.write_weights(folder))
    tiny.write_clip(folder / "a.mp4", 8, 1)
    (folder / "frames").mkdir()
    with av.open(str(folder / "a.mp4")) as container:
        for n, frame in enumerate(container.decode(video=0)):
            image = frame.to_ndarray(format="bgr24")
            cv2.imwrite(str(folder / f"frames/{n:03d}.png"), image)
    (folder / "frames/005.png").write_bytes(b"")
    right = json.loads(tiny.write_coco(folder / "right.json", "a", 8).read_text())

    def write(name, change):
        found = json.loads(json.dumps(right))
        change(found)
        (folder / name).write_text(json.dumps(found))

    def of_folder(found):
        for n, image in enumerate(found["images"]):
            image["file_name"] = f"frames/{n:03d}.png"
        found["videos"][0]["name"] = "frames"
        found["categories"].append({"id": 2, "name": "other"})
        found["annotations"][0]["category_id"] = 2
        found["annotations"][1].pop("bbox")

    def twice(found):
        for image in found["images"]:
            image.update(width=2 * image["width"], height=2 * image["height"])
        for annotation in found["annotations"]:
            annotation["bbox"] = [2 * v for v in annotation["bbox"]]
            annotation["area"] *= 4

    def from_one(found):
        for image in found["images"]:
            image["frame_id"] += 1
            image.pop("file_name")
        found["images"] = found["images"][:-1]
        found["annotations"] = found["annotations"][:-1]

    write("gt.json", of_folder)
    write("double.json", twice)
    write("one.json", from_one)
    return folder


@pytest.fixture(scope="module")
def runs(place):
    done = run_tool(["-c", _DRIVER, tiny.ROOT / "tools", json.dumps(RUNS)], place)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.rpartition("FOUND")[2])


def frames_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        count = sum(1 for _ in container.decode(video=0))
        return count, float(stream.average_rate)


def test_a_frame_that_cannot_be_read(place, runs):
    status, _, stderr = runs["skipped"]
    assert status == 0, stderr
    results = json.loads((place / "r.json").read_text())
    assert results["frames"] == 7 and results["partial"] is None
    skipped = results["skipped_frames"]
    assert skipped["count"] == 1 and skipped["videos"][0]["frames"][0]["number"] == 5
    assert "005.png" in skipped["videos"][0]["frames"][0]["reason"]
    assert stderr.count("005.png") == 1 and "note: skipped 1 frame that cannot be read" in stderr
    lines = (place / "r_frames.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame_number"] for line in lines] == [0, 1, 2, 3, 4, 6, 7]


def test_what_was_left_out_of_the_annotations(place, runs):
    _, _, stderr = runs["skipped"]
    told = json.loads((place / "r.json").read_text())["annotations"]
    assert (told["kept"], told["left_out"]["count"]) == (6, 2)
    reasons = {one["reason"]: one["count"] for one in told["left_out"]["reasons"]}
    assert reasons == {
        "the category 'other' is not among the classes": 1,
        "they have no box": 1,
    }
    for reason in reasons:
        assert stderr.count(reason) == 1


def test_strict_frames_stops(place, runs):
    for name, left in (("strict", "s.json"), ("strict demo", "nothing")):
        status, _, stderr = runs[name]
        assert status == 2 and "005.png" in stderr, stderr
        assert not (place / left).exists()
    # What was shown before the frame is kept.
    assert frames_of(place / "strict.mp4")[0] == 5


def test_the_demo_holds_the_place(place, runs):
    status, out, stderr = runs["demo"]
    assert status == 0 and out.startswith("7 frames, 1 skipped"), stderr
    assert frames_of(place / "out.mp4") == (8, 10.0)


def test_annotations_of_another_size_give_the_same_figures(place, runs):
    assert runs["right"][0] == runs["size"][0] == 0, runs["size"][2]
    figures = [
        json.loads((place / n).read_text())["metrics"]["blockcopy"] for n in ("a.json", "d.json")
    ]
    assert figures[0] == pytest.approx(figures[1])
    assert "was made for frames of 320x256 px" in runs["size"][2]


def test_numbers_from_one_are_asked_for_and_the_remedy_works(place, runs):
    status, _, stderr = runs["from one"]
    assert status == 2 and "--ann-first 0 or --ann-first 1" in stderr
    status, _, stderr = runs["from one, told"]
    assert status == 0, stderr
    assert (
        json.loads((place / "o.json").read_text())["metrics"]["blockcopy"]["video/annotated_frames"]
        == 7
    )

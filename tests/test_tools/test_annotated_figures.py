"""Figures of test_video.py against what MMDetection finds in the frames: 1.0 where all is right."""

from __future__ import annotations

import json
import warnings

import pytest

pytest.importorskip("mmdet")
av = pytest.importorskip("av")

from tests.test_tools import tiny_detector as tiny  # noqa: E402
from tests.tool_process import run_tool  # noqa: E402

FRAMES, LOST = 8, 4
CATEGORIES = [{"id": 1, "name": "person"}]


def write_avi(path, clip):
    """The clip as pictures of their own; beside it, one of them is beyond repair."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        (stream.height, stream.width), stream.pix_fmt = tiny.SIZE, "yuvj420p"
        stream.codec_context.bit_rate = 20_000_000
        for frame in source.decode(video=0):
            frame = av.VideoFrame.from_ndarray(frame.to_ndarray(format="bgr24"), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        packet = [bytes(p) for p in container.demux(video=0) if p.size][LOST]
    content = path.read_bytes()
    assert content.count(packet) == 1
    path.with_name("bad.avi").write_bytes(content.replace(packet, b"\xff" * len(packet)))


def found_by_mmdetection(folder):
    """Boxes (x, y, w, h) of each frame, found frame by frame by the model as it is."""
    from mmdet.apis import inference_detector, init_detector

    model = init_detector(str(folder / "tiny.py"), str(folder / "tiny.pth"), device="cpu")
    boxes = []
    with av.open(str(folder / "good.avi")) as container:
        for frame in container.decode(video=0):
            found = inference_detector(model, frame.to_ndarray(format="bgr24")).pred_instances
            corners = found.bboxes[found.scores > 0.3].tolist()
            boxes.append([[x, y, right - x, bottom - y] for x, y, right, bottom in corners])
    return boxes


def coco(boxes, shift=0, ids=lambda n: n, categories=CATEGORIES, category=lambda n: 1):
    images = [
        {"id": ids(n + 1), "video_id": 1, "frame_id": n + shift, "file_name": f"{n}.png"}
        | {"height": tiny.SIZE[0], "width": tiny.SIZE[1]}
        for n in range(len(boxes) - shift)
    ]
    annotations = [
        {"image_id": n + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for n in range(len(images))
        for box in boxes[n]
    ]
    for n, annotation in enumerate(annotations):
        annotation.update(id=n + 1, category_id=category(n))
    return json.dumps(
        {"videos": [{"id": 1, "name": "clip"}], "images": images, "annotations": annotations}
        | {"categories": categories}
    )


def mot(boxes, more=()):
    """MOTChallenge: frames and pixels count from 1."""
    rows = [
        f"{n + 1},{k + 1},{x + 1},{y + 1},{w},{h},1,1,1.0"
        for n, found in enumerate(boxes)
        for k, (x, y, w, h) in enumerate(found)
    ]
    return "\n".join([*rows, *more]) + "\n"


def with_some_masks(text):
    found = json.loads(text)
    for annotation in found["annotations"][::2]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return json.dumps(found)


def write_annotations(folder, boxes):
    both = [*CATEGORIES, {"id": 2, "name": "Person"}]
    cars = [f"{n + 1},{90 + k},5,{30 * k + 1},40,20,1,3,1.0" for n in range(8) for k in (0, 1, 2)]
    written = {
        "right.json": coco(boxes),
        "shifted.json": coco(boxes, shift=1),
        "text_ids.json": coco(boxes, ids=str),
        "two_spellings.json": coco(boxes, categories=both, category=lambda n: 1 + n % 2),
        "some_masks.json": with_some_masks(coco(boxes)),
        "right.txt": mot(boxes),
        "with_cars.txt": mot(boxes, cars),
        "labels/gt.txt": mot(boxes, cars),
        "labels/labels.txt": "person\nbus\ncar\n",
    }
    (folder / "labels").mkdir()
    for name, text in written.items():
        (folder / name).write_text(text)


# The video, its annotations, how many frames are annotated and boxes left out, other arguments.
RUNS = {
    "as it is": ("good.avi", "right.json", FRAMES, 0),
    "MOTChallenge": ("good.avi", "right.txt", FRAMES, 0),
    "a packet is lost": ("bad.avi", "right.json", FRAMES - 1, 0),
    "a packet is lost, MOTChallenge": ("bad.avi", "right.txt", FRAMES - 1, 0),
    "ids as texts": ("good.avi", "text_ids.json", FRAMES, 0),
    "a class in two spellings": ("good.avi", "two_spellings.json", FRAMES, 0),
    "masks of some": ("good.avi", "some_masks.json", FRAMES, 0),
    "cars by MOT16's numbers": ("good.avi", "with_cars.txt", FRAMES, 24),
    "cars by labels.txt": ("good.avi", "labels/gt.txt", FRAMES, 24),
    "frames from 1": ("good.avi", "shifted.json", FRAMES - 1, 0, "--ann-first", "1"),
    "one frame late": ("good.avi", "shifted.json", FRAMES - 1, 0, "--ann-first", "0"),
}
_DRIVER = """
import contextlib, io, json, sys
sys.path.insert(0, sys.argv[1])
import test_video
found = {}
for name, (video, annotations, _, _, *more) in json.loads(sys.argv[2]).items():
    arguments = ["tiny.py", "--no-dense-too", "--policy", "all", "--work-dir", "wd"]
    arguments += ["--video", video, "--ann", annotations, "--out", "r.json", *more]
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        status = test_video.run(test_video.main, test_video.parse_args(arguments))
    if status:
        sys.exit(err.getvalue())
    found[name] = json.load(open("r.json"))
print("FOUND" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = tiny.write_weights(folder)
        path = tiny.write_config(folder, weights)
        path.write_text(path.read_text().replace("('thing',)", "('person',)"))
        write_avi(folder / "good.avi", tiny.write_clip(folder / "clip.mp4", FRAMES, 1))
        boxes = found_by_mmdetection(folder)
    assert all(boxes)
    write_annotations(folder, boxes)
    done = run_tool(["-c", _DRIVER, tiny.ROOT / "tools", json.dumps(RUNS)], folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.rpartition("FOUND")[2])


@pytest.mark.parametrize("name", list(RUNS))
def test_what_the_model_finds_is_found(outcome, name):
    results = outcome[name]
    figures = results["metrics"]["blockcopy"]
    annotated, left_out = RUNS[name][2:4]
    assert figures["video/annotated_frames"] == annotated
    assert results["annotations"]["left_out"]["count"] == left_out
    # What is found of objects without a mask would be wrong.
    assert not [key for key in figures if "segm" in key]
    remarks = " ".join(results["annotations"]["remarks"])
    assert ("boxes are compared and masks are not" in remarks) == (name == "masks of some")
    if name == "one frame late":  # so that the others say that no frame was taken for another
        assert figures["video/bbox_AP"] < 0.9
    else:
        assert figures["video/bbox_AP50"] > 0.99 and figures["video/bbox_AP"] > 0.97


def test_the_lost_frame_is_told_of(outcome):
    told = outcome["a packet is lost"]["skipped_frames"]
    assert [one["number"] for one in told["videos"][0]["frames"]] == [LOST]
    assert outcome["as it is"]["skipped_frames"]["count"] == 0

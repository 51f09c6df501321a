"""YOLO models by Ultralytics' own ``predict`` and ``track``, on videos of two sizes."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch

import blockcopy_plugins as bc
from blockcopy_plugins.errors import ConfigError, FrameError

pytest.importorskip("ultralytics", reason="needs ultralytics")
cv2 = pytest.importorskip("cv2")

from ultralytics import YOLO  # noqa: E402

# No box suppresses another: which of two equal ones does would turn on the last digit.
OPTIONS = dict(imgsz=192, conf=0.3, iou=1.0, verbose=False, save=False, stream=True)
FRAMES = 4


def write_video(path, size, seed) -> str:
    """A square that moves over a still background."""
    height, width = size
    random = np.random.default_rng(seed)
    cells = random.integers(0, 255, (height // 16, width // 16, 3), dtype=np.uint8)
    background = cells.repeat(16, 0).repeat(16, 1)
    out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (width, height))
    for t in range(FRAMES):
        frame = background.copy()
        frame[32:80, 12 * t : 12 * t + 48] = (30, 30, 255)
        out.write(frame)
    out.release()
    return str(path)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two of different sizes, and a third of the size of the first."""
    folder = tmp_path_factory.mktemp("videos")
    sizes = {"wide": (128, 192), "high": (192, 128), "other": (128, 192)}
    return [
        write_video(folder / f"{name}.avi", size, seed)
        for seed, (name, size) in enumerate(sizes.items())
    ]


def fit_norms(model, part, frames):
    """Give batch norms the statistics of some frames, so that outputs follow what they show."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    part.train()
    with torch.no_grad():
        part(frames)
    part.eval()


@pytest.fixture(scope="module")
def weights():
    """Such that there is something to find."""
    torch.manual_seed(0)
    yolo = YOLO("yolov8n.yaml", verbose=False)
    fit_norms(yolo.model, yolo.model, torch.rand(4, 3, 128, 192))
    for branch in yolo.model.model[-1].cv2:
        torch.nn.init.normal_(branch[-1].weight, 0, 3.0)
    for branch in yolo.model.model[-1].cv3:
        torch.nn.init.normal_(branch[-1].weight, 0, 0.5)
        torch.nn.init.normal_(branch[-1].bias, -2, 0.5)
    return yolo.model.state_dict()


def make(weights) -> YOLO:
    yolo = YOLO("yolov8n.yaml", verbose=False)
    yolo.model.load_state_dict(weights)
    return yolo


@pytest.fixture()
def yolo(weights):
    return make(weights)


@pytest.fixture(scope="module")
def dense(weights, videos):
    """What Ultralytics finds by itself, of each video."""
    yolo = make(weights)
    return [boxes(yolo.predict(video, **OPTIONS)) for video in videos]


def boxes(results) -> list[torch.Tensor]:
    return [result.boxes.data.clone() for result in results]


def same(found, wanted) -> bool:
    """Boxes are equal to rounding, in whatever order."""
    assert len(wanted) >= 3, "without boxes this would say nothing"
    if abs(len(found) - len(wanted)) > 2:
        return False
    nearest = (found[None] - wanted[:, None]).abs().amax(-1).amin(1)
    return (nearest < 0.01).float().mean() > 0.98


def config(policy="all"):
    return bc.BlockCopyConfig(block_size=64, policy=policy)


def test_two_sizes_with_all_blocks_equal_the_frameworks_own(yolo, videos, dense):
    bc.blockcopy_(yolo, config())
    for video, wanted in zip(videos, dense, strict=True):
        found = boxes(yolo.predict(video, **OPTIONS))
        assert all(map(same, found, wanted))
    report = bc.report(yolo)
    assert report.frames == len(videos) * FRAMES and report.share_on_blocks > 0.95


def test_a_video_is_never_given_the_one_before(yolo, videos, dense):
    bc.blockcopy_(yolo, config("none"))
    for video, wanted in zip(videos[::2], dense[::2], strict=True):
        found = boxes(yolo.predict(video, **OPTIONS))
        assert all(same(frame, wanted[0]) for frame in found)
        assert not same(found[-1], wanted[-1]), "the test is no test if nothing moves"


def test_tracking_frame_by_frame_goes_on_with_the_stream(yolo, videos):
    pytest.importorskip("lap", reason="Ultralytics' trackers need lap")
    bc.blockcopy_(yolo, config("none"))
    frames = list(_frames(videos[0]))
    options = {**OPTIONS, "stream": False, "persist": True}
    for frame in frames:
        yolo.track(frame, **options)
    assert bc.report(yolo).executed_rate == pytest.approx(1 / len(frames))
    bc.reset_(yolo)
    yolo.track(frames[0], **options)
    assert bc.report(yolo).executed_rate == pytest.approx(2 / (len(frames) + 1))


def test_the_rate_is_the_one_asked_for_though_it_was_converted_late(yolo, videos):
    list(yolo.predict(videos[0], **OPTIONS))
    grid = lambda frame, context: (torch.arange(6) % 2 == 0).view(1, *context.grid_shape[1:])  # noqa: E731
    bc.blockcopy_(yolo, config(grid))
    list(yolo.predict(videos[0], **OPTIONS))
    report = bc.report(yolo)
    assert report.frames == FRAMES
    assert report.executed_rate == pytest.approx((1 + (FRAMES - 1) / 2) / FRAMES)


def test_the_default_policy_learns_from_the_boxes(yolo, videos, recwarn):
    bc.blockcopy_(yolo, config(dict(type="GainPolicy", target=0.5)))
    list(yolo.predict(videos[0], **OPTIONS))
    assert not [w for w in recwarn if "goes by the picture alone" in str(w.message)]


def test_frames_of_one_video_in_a_batch_run_one_after_the_other(yolo, videos):
    bc.blockcopy_(yolo, config("none"))
    found = boxes(yolo.predict(videos[0], batch=FRAMES, **OPTIONS))
    assert all(same(frame, found[0]) for frame in found)
    assert bc.report(yolo).executed_rate == pytest.approx(1 / FRAMES)
    assert bc.report(yolo).frames == FRAMES


def test_pictures_in_memory_at_once_are_refused_until_they_are_named(yolo, videos):
    bc.blockcopy_(yolo, config())
    first, second = list(_frames(videos[0]))[:2]
    with pytest.raises(FrameError, match="cameras name them"):
        list(yolo.predict([first, second], **OPTIONS))
    with bc.streams(yolo, ["cam0", "cam1"]):
        list(yolo.predict([first, second], **OPTIONS))
    list(yolo.predict(first, **OPTIONS))
    assert bc.report(yolo).frames == 3


def test_the_model_inside_is_converted_and_its_copy_in_the_predictor_answers(yolo, videos, dense):
    bc.blockcopy_(yolo.model, config("none"))
    list(yolo.predict(videos[0], **OPTIONS))
    assert bc.report(yolo.model).frames == FRAMES
    # Of the same size: nothing but a reset tells it from the first.
    bc.reset_(yolo.model)
    found = boxes(yolo.predict(videos[2], **OPTIONS))
    assert same(found[0], dense[2][0])
    # Of another size: begins by itself.
    found = boxes(yolo.predict(videos[1], **OPTIONS))
    assert same(found[0], dense[1][0])
    with pytest.raises(FrameError, match=r"bc.restore_\(yolo.model\)"):
        list(yolo.predict(videos[0], batch=2, **OPTIONS))
    bc.restore_(yolo.model)
    bc.blockcopy_(yolo, config())
    found = boxes(yolo.predict(videos[0], batch=2, **OPTIONS))
    assert all(map(same, found, dense[0]))


def test_dense_and_restore_act_on_what_runs(yolo, videos, dense):
    bc.blockcopy_(yolo, config("none"))
    with bc.dense(yolo):
        found = boxes(yolo.predict(videos[0], **OPTIONS))
    assert all(map(same, found, dense[0]))
    assert bc.report(yolo).frames == 0
    list(yolo.predict(videos[0], **OPTIONS))
    assert bc.report(yolo).frames == FRAMES
    bc.restore_(yolo)
    found = boxes(yolo.predict(videos[0], **OPTIONS))
    assert all(map(same, found, dense[0]))
    with pytest.raises(ConfigError, match="not converted"):
        bc.report(yolo)


def test_copies_and_pickles(yolo, videos, dense):
    bc.blockcopy_(yolo, config())
    other = copy.deepcopy(yolo)
    list(yolo.predict(videos[0], **OPTIONS))
    found = boxes(other.predict(videos[0], **OPTIONS))
    assert all(map(same, found, dense[0]))
    assert bc.report(yolo).frames == bc.report(other).frames == FRAMES
    file = io.BytesIO()
    torch.save(yolo.model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    frame = torch.rand(1, 3, 128, 192)
    yolo.model.eval(), loaded.eval()
    with torch.no_grad(), bc.dense(yolo):
        wanted = yolo.model(frame)[0]
    # Boxes in pixels, of random weights.
    torch.testing.assert_close(loaded(frame)[0], wanted, rtol=1e-3, atol=5e-2)
    assert bc.report(loaded).frames == 1


def test_augmented_predictions_are_refused_and_run_dense_as_said(yolo, videos):
    bc.blockcopy_(yolo, config())
    with pytest.raises(ConfigError, match="bc.dense"):
        list(yolo.predict(videos[0], augment=True, **OPTIONS))
    with bc.dense(yolo):
        list(yolo.predict(videos[0], augment=True, **OPTIONS))


def test_an_exported_model_is_refused(tmp_path):
    yolo = YOLO("yolov8n.yaml", verbose=False)
    del yolo.model
    yolo.model = "yolov8n.onnx"
    with pytest.raises(ConfigError, match=".pt or .yaml"):
        bc.blockcopy_(yolo)


def _frames(path):
    capture = cv2.VideoCapture(path)
    while True:
        there, frame = capture.read()
        if not there:
            return
        yield frame


def test_pictures_of_no_predictor_have_nothing_to_do_with_each_other(yolo, videos):
    """As a validator runs them: through a backend of its own."""
    from ultralytics.nn.autobackend import AutoBackend

    bc.blockcopy_(yolo, config("none"))
    backend = AutoBackend(copy.deepcopy(yolo.model), device=torch.device("cpu"), verbose=False)
    backend.eval()
    for _ in range(3):
        backend(torch.rand(2, 3, 128, 192))
    report = bc.report(yolo)
    assert report.frames == 6 and report.executed_rate == 1.0


def moving(policy, **motion):
    return bc.BlockCopyConfig(block_size=64, policy=policy, propagate="move", **motion)


def test_boxes_move_with_the_picture(yolo):
    from ultralytics.utils.nms import non_max_suppression

    model, size = yolo.model.eval(), torch.tensor([192.0, 128.0])
    for branch in model.model[-1].cv3:
        branch[-1].weight.data *= 0.05  # scores that differ
    policy = dict(type="EveryNthFramePolicy", n=3)
    bc.blockcopy_(model, moving(policy, motion=lambda frame, context: [(8, -4)] * len(frame)))
    frames = torch.rand(3, 1, 3, 128, 192, generator=torch.Generator().manual_seed(0))
    outputs = [model(frame)[0].clone() for frame in frames]
    # What Ultralytics' own suppression finds, moved by hand.
    first = non_max_suppression(outputs[0].clone(), 0.1, 0.7)[0]
    for age in (1, 2):
        moved = first.clone()
        moved[:, :4] += torch.tensor([8.0, -4, 8, -4]) * age
        moved[:, 4] *= 0.98**age
        there = (moved[:, 2:4] > 0).all(1) & (moved[:, :2] < size).all(1) & (moved[:, 4] > 0.1)
        moved = moved[there]
        moved[:, :4] = moved[:, :4].clamp_min(0).minimum(size.repeat(2))
        later = non_max_suppression(outputs[age].clone(), 0.1, 1.0)[0]
        assert 3 <= len(moved) < 300 and len(later) == len(moved)
        distance = (later[None] - moved[:, None]).abs().amax(-1)
        assert (distance.amin(0) < 0.01).all() and (distance.amin(1) < 0.01).all()
    assert bc.report(model).propagation.moved == 2


def test_moved_boxes_are_suppressed_as_the_predictor_says(yolo, videos):
    policy = dict(type="EveryNthFramePolicy", n=FRAMES)
    bc.blockcopy_(yolo, moving(policy, motion=lambda frame, context: [(8, 0)] * len(frame)))
    strict = {**OPTIONS, "conf": 0.5, "iou": 0.3}
    first, *rest = boxes(yolo.predict(videos[0], **strict))
    assert len(first) >= 3 and all(len(later) for later in rest)
    assert all(len(later) <= len(first) and (later[:, 4] > 0.5).all() for later in rest)
    assert bc.report(yolo).propagation.moved == FRAMES - 1


def test_boxes_that_do_not_move_are_copied_bit_for_bit(yolo):
    frame = torch.rand(1, 3, 128, 192)
    policy = dict(type="EveryNthFramePolicy", n=3)
    bc.blockcopy_(yolo.model, moving(policy, motion=lambda frame, context: [(0, 0)] * len(frame)))
    yolo.model.eval()
    first, *rest = [yolo.model(frame + 0.01 * t)[0].clone() for t in range(3)]
    assert all(torch.equal(later, first) for later in rest)


@pytest.mark.parametrize("name", ["yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolo26n"])
def test_what_a_head_says_of_a_box_moves_with_it(name):
    from blockcopy_plugins.integrations.ultralytics.output_parts import read_objects, write_objects

    torch.manual_seed(0)
    model = YOLO(f"{name}.yaml", verbose=False).model.eval()
    if name == "yolo26n":
        model.end2end = True
    head, size = model.model[-1], (128, 192)
    with torch.no_grad():
        given = model(torch.rand(1, 3, *size))[0]
    given = (given[0] if isinstance(given, tuple) else given)[0]
    rows = given.clone() if name == "yolo26n" else given.T.clone()
    found = read_objects(given, head, size, least_score=0.0, overlap=0.5)
    assert len(found) >= 3
    written = rows.clone()
    write_objects(written, found, head)
    # Put back where they were they are what they were; the others have lost their scores.
    place = found.others["index"]
    torch.testing.assert_close(written[place], rows[place], rtol=1e-5, atol=1e-4)
    rest = torch.ones(len(rows), dtype=torch.bool).index_fill_(0, place, False)
    assert rest.any() and not written[rest][:, 4].any()

"""torchvision's detectors by ``model([image])``, its segmentors and classifiers by tensors."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import blockcopy_plugins as bc
from blockcopy_plugins.errors import FrameError

torchvision = pytest.importorskip("torchvision", reason="needs torchvision")

DETECTORS = (
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "retinanet_resnet50_fpn",
    "fcos_resnet50_fpn",
    "ssdlite320_mobilenet_v3_large",
    "maskrcnn_resnet50_fpn",
)
BLOCK = 64


def build(name: str):
    """With random weights and norms such that boxes differ from picture to picture."""
    torch.manual_seed(0)
    options = dict(weights_backbone=None) if name != "resnet18" else {}
    if "cnn_resnet" in name or "retina" in name or "fcos" in name:
        options.update(min_size=128, max_size=192)
    model = torchvision.models.get_model(name, weights=None, **options)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    for part in (model, getattr(model, "roi_heads", model)):
        # With random weights no box is likely.
        part.score_thresh = 0.0
        part.detections_per_img = 20
    # Rounding is then far below what ranks one box before another.
    return model.double().eval()


def video(size, seed, frames=4) -> list[torch.Tensor]:
    """A square that moves over a still background, ``(3, H, W)`` from 0 to 1."""
    draw = torch.Generator().manual_seed(seed)
    background = torch.rand(3, *size, generator=draw, dtype=torch.float64)
    found = []
    for t in range(frames):
        frame = background.clone()
        frame[:, 32:80, 12 * t : 12 * t + 48] = background[:, 32:80, :48] * 0.5
        found.append(frame)
    return found


VIDEOS = (video((128, 192), 0), video((192, 128), 1))


def config(policy="all"):
    return bc.BlockCopyConfig(block_size=BLOCK, policy=policy)


def same(found, wanted) -> bool:
    """Detections are equal to rounding."""
    (found,), (wanted,) = found, wanted
    assert len(wanted["boxes"]) >= 3, "without boxes this would say nothing"
    if len(found["boxes"]) != len(wanted["boxes"]):
        return False
    return all(torch.allclose(found[k], wanted[k], 1e-6, 1e-6) for k in ("boxes", "scores"))


@pytest.mark.parametrize("name", DETECTORS)
def test_two_sizes_with_all_blocks_equal_the_frameworks_own(name):
    model = build(name)
    with torch.no_grad():
        dense = [[model([frame]) for frame in frames[:2]] for frames in VIDEOS]
    bc.blockcopy_(model, config())
    for frames, wanted in zip(VIDEOS, dense, strict=True):
        found = [model([frame]) for frame in frames[:2]]
        assert all(map(same, found, wanted))
        bc.reset_(model)
    report = bc.report(model)
    assert report.frames == 4
    # What is left are the RoI heads, which are heavy beside pictures so small.
    assert report.share_on_blocks > (0.3 if "rcnn" in name else 0.95)


def test_a_video_of_another_size_is_refused_until_the_stream_is_reset():
    model = build(DETECTORS[1])
    wide, high = VIDEOS
    with torch.no_grad():
        wanted = model([high[0]])
    bc.blockcopy_(model, config("none"))
    first = [model([frame]) for frame in wide]
    assert all(same(found, first[0]) for found in first)
    assert bc.report(model).executed_rate == pytest.approx(1 / len(wide))
    with pytest.raises(FrameError, match="reset_"):
        model([high[0]])
    assert same(model([wide[0]]), first[0])
    bc.reset_(model)
    assert same(model([high[0]]), wanted)


def test_several_cameras_and_the_rate_that_was_asked_for(recwarn):
    model = build(DETECTORS[0])
    bc.blockcopy_(model, config(dict(type="GainPolicy", target=0.5)))
    first, second = video((128, 192), 3, 8), video((128, 192), 4, 8)
    with bc.streams(model, ["cam0", "cam1"]):
        for pair in zip(first, second, strict=True):
            assert len(model(list(pair))) == 2
    report = bc.report(model)
    assert report.frames == 16
    assert report.executed_rate <= 0.5 + 1 / 8 + 0.1
    assert not [w for w in recwarn if "goes by the picture alone" in str(w.message)]


def test_it_may_be_called_with_a_batch_and_not_with_an_image():
    model = build(DETECTORS[0])
    bc.blockcopy_(model, config())
    model(torch.stack(VIDEOS[0][:2]))
    with pytest.raises(FrameError, match=r"model\(\[image\]\)"):
        model(VIDEOS[0][0])
    model([VIDEOS[0][0]])


def test_task_outputs_are_in_pixels_of_the_network_input():
    model = build(DETECTORS[0])
    bc.blockcopy_(model, config())
    adapter = bc.handle(model).adapter
    image = VIDEOS[0][0]
    call = adapter.read_call(([image],), {})
    rows, columns = (call.frame.shape[2] / 128, call.frame.shape[3] / 192)
    box = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    found = dict(boxes=box, scores=torch.ones(1), labels=torch.ones(1, dtype=torch.int64))
    (seen,) = adapter.task_outputs([found], call)
    expected = box * torch.tensor([columns, rows, columns, rows])
    torch.testing.assert_close(seen.boxes, expected, rtol=0.02, atol=0.5)


def test_copies_pickles_and_restore():
    model = build(DETECTORS[1])
    with torch.no_grad():
        wanted = model([VIDEOS[0][1]])
    bc.blockcopy_(model, config())
    model([VIDEOS[0][0]])
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert same(other([VIDEOS[0][1]]), wanted)
        assert bc.report(other).frames >= 1
    assert bc.report(model).frames == 1
    bc.restore_(model)
    assert "forward" not in vars(model.transform)
    with torch.no_grad():
        assert same(model([VIDEOS[0][1]]), wanted)


def test_a_segmentor_and_a_classifier_are_called_as_ever():
    segmentor = build("lraspp_mobilenet_v3_large")
    frames = [frame[None] for frame in VIDEOS[0]]
    with torch.no_grad():
        wanted = [segmentor(frame)["out"] for frame in frames]
    bc.blockcopy_(segmentor, config())
    for frame, expected in zip(frames, wanted, strict=True):
        torch.testing.assert_close(segmentor(frame)["out"], expected, rtol=1e-3, atol=1e-4)
    classifier = build("resnet18")
    with torch.no_grad():
        expected = classifier(frames[0])
    bc.blockcopy_(classifier, config(dict(type="GainPolicy", target=0.5)))
    with pytest.warns(UserWarning, match="goes by the picture alone"):
        torch.testing.assert_close(classifier(frames[0]), expected, rtol=1e-3, atol=1e-4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **kwargs: pytest.fail(str(args[0])))
        classifier(frames[1])

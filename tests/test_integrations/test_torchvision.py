"""torchvision's detectors by ``model([image])``, its segmentors and classifiers by tensors."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.errors import FrameError
from blockcopy_plugins.ops import library

torchvision = pytest.importorskip("torchvision", reason="needs torchvision")

from torchvision.models.detection.anchor_utils import (  # noqa: E402
    AnchorGenerator,
    DefaultBoxGenerator,
)
from torchvision.models.detection.ssd import SSD  # noqa: E402

# The heads behind the RPN are heavy beside networks so small.
pytestmark = pytest.mark.filterwarnings("ignore:.*save.*next to nothing:UserWarning")

DETECTORS = ("FasterRCNN", "MaskRCNN", "RetinaNet", "FCOS", "SSD")
BLOCK = 64
CLASSES = 3


class Pyramid(nn.Module):
    """A backbone of four levels, strides 4 to 32."""

    out_channels = 32

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 7, 4, 3)
        self.steps = nn.ModuleList(nn.Conv2d(32, 32, 3, 2, 1) for _ in range(3))

    def forward(self, x):
        levels = [self.stem(x).relu()]
        for step in self.steps:
            levels.append(step(levels[-1]).relu())
        return OrderedDict((str(i), level) for i, level in enumerate(levels))


def build(name: str) -> nn.Module:
    """With random weights, in float64: rounding is far below what ranks one box before another."""
    torch.manual_seed(0)
    kind = SSD if name == "SSD" else getattr(torchvision.models.detection, name)
    options = dict(num_classes=CLASSES, min_size=128, max_size=192)
    anchors = AnchorGenerator(((16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 4)
    if "RCNN" in name:
        options["rpn_anchor_generator"] = anchors
    elif name == "RetinaNet":
        options["anchor_generator"] = anchors
    elif name == "FCOS":
        options["anchor_generator"] = AnchorGenerator(((8,), (16,), (32,), (64,)), ((1.0,),) * 4)
    else:
        boxes = DefaultBoxGenerator([[2], [2], [2], [2]])
        options = dict(anchor_generator=boxes, size=(192, 128), num_classes=CLASSES)
    backbone = Pyramid()
    if name == "SSD":
        backbone.out_channels = [32] * 4
    model = kind(backbone, **options)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, 0, (2 / parameter[0].numel()) ** 0.5)
    for part in (model, getattr(model, "roi_heads", model)):
        # With random weights no box is likely.
        part.score_thresh = 0.0
        part.detections_per_img = 20
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
    # What else there is are the RoI heads, which are heavy beside pictures so small.
    assert "roi_heads" in str(report.modules) if "RCNN" in name else report.share_on_blocks > 0.95
    assert report.macs_densified < 0.05 * report.macs_dense


def test_a_video_of_another_size_is_refused_until_the_stream_is_reset():
    model = build("RetinaNet")
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
    model = build("FasterRCNN")
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
    model = build("FasterRCNN")
    bc.blockcopy_(model, config())
    model(torch.stack(VIDEOS[0][:2]))
    with pytest.raises(FrameError, match=r"model\(\[image\]\)"):
        model(VIDEOS[0][0])
    model([VIDEOS[0][0]])


def test_task_outputs_are_in_pixels_of_the_network_input():
    model = build("FasterRCNN")
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


@pytest.mark.parametrize("name", ["RetinaNet", "FasterRCNN"])
def test_copies_pickles_and_restore(name):
    model = build(name)
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
    torch.manual_seed(0)
    segmentor = torchvision.models.get_model(
        "lraspp_mobilenet_v3_large", weights=None, weights_backbone=None
    )
    segmentor = segmentor.double().eval()
    frames = [frame[None] for frame in VIDEOS[0]]
    with torch.no_grad():
        wanted = [segmentor(frame)["out"] for frame in frames]
    bc.blockcopy_(segmentor, config())
    for frame, expected in zip(frames, wanted, strict=True):
        torch.testing.assert_close(segmentor(frame)["out"], expected, rtol=1e-3, atol=1e-4)
    classifier = torchvision.models.get_model("resnet18", weights=None).double().eval()
    with torch.no_grad():
        expected = classifier(frames[0])
    bc.blockcopy_(classifier, config(dict(type="GainPolicy", target=0.5)))
    with pytest.warns(UserWarning, match="goes by the picture alone"):
        torch.testing.assert_close(classifier(frames[0]), expected, rtol=1e-3, atol=1e-4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **kwargs: pytest.fail(str(args[0])))
        classifier(frames[1])


@pytest.mark.skipif(not library.has_kernel("roi_align", "cpu"), reason="no compiled kernels")
def test_regions_are_pooled_by_the_kernel_as_torchvision_pools_them():
    torch.manual_seed(0)
    model = build("MaskRCNN").float()
    heads = model.roi_heads
    poolers = [heads.box_roi_pool, heads.mask_roi_pool]
    sizes = [(128, 192), (120, 192)]
    maps = OrderedDict((str(i), torch.randn(2, 8, 32 >> i, 48 >> i)) for i in range(4))
    corners = torch.rand(2, 40, 2) * torch.tensor([150.0, 100.0])
    boxes = [torch.cat((c, c + 2 + 150 * torch.rand(40, 2) ** 3), 1) for c in corners]
    wanted = [pooler(maps, boxes, sizes) for pooler in poolers]
    bc.blockcopy_(model, config())
    adapter = bc.handle(model).adapter
    assert adapter.reads_channels_last(heads)
    given = OrderedDict(
        (name, map_.contiguous(memory_format=torch.channels_last)) for name, map_ in maps.items()
    )
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(
            "torchvision.ops.poolers.roi_align", lambda *a, **k: pytest.fail("torchvision's own")
        )
        found = [pooler(given, boxes, sizes) for pooler in poolers]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    bc.restore_(model)
    assert not any("forward" in vars(pooler) for pooler in poolers)


class Dictated:
    """A policy that executes so many blocks, others in each frame; all of them in the first."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.draw = torch.Generator().manual_seed(0)

    def __call__(self, frame, context):
        grid = torch.zeros(context.grid_shape, dtype=torch.bool).flatten()
        grid[torch.randperm(len(grid), generator=self.draw)[: self.blocks]] = True
        return grid.view(context.grid_shape)


@pytest.mark.parametrize("name", ["FasterRCNN", "RetinaNet"])
def test_backbone_and_heads_are_replayed_as_programs(name):
    found = {}
    frames = video((128, 192), 5, 12)
    for programs in (True, False):
        model = build(name)
        options = bc.BlockCopyConfig(block_size=BLOCK, policy=Dictated(2), programs=programs)
        bc.blockcopy_(model, options)
        found[programs] = [model([frame]) for frame in frames]
        report = bc.report(model)
        if programs:
            parts = report.programs.parts
            # The backbone, and the head once its parent is known to be no part: two frames are
            # recorded after the first.
            assert parts.made >= 2 and parts.replayed >= 2 * (len(frames) - 4), str(report)
            assert set(parts.eager_calls.values()) <= {1}, str(report)
    assert all(map(same, found[True], found[False]))


@pytest.mark.parametrize("name", ["FasterRCNN", "MaskRCNN"])
def test_boxes_and_masks_move_with_the_picture(name):
    model = build(name)
    policy = dict(type="EveryNthFramePolicy", n=4)
    shift = (8, -4)
    bc.blockcopy_(
        model,
        bc.BlockCopyConfig(
            block_size=BLOCK,
            policy=policy,
            propagate="move",
            motion=lambda frame, context: [shift] * len(frame),
        ),
    )
    height, width = 96, 144
    frames = video((height, width), 6, 3)
    first, *rest = [model([frame])[0] for frame in frames]
    assert len(first["boxes"]) >= 3
    ratio = 128 / height  # pixels of the network's input per pixel of the picture
    limits = torch.tensor([width, height] * 2, dtype=torch.float64)
    for age, later in enumerate(rest, 1):
        step = torch.tensor(shift * 2, dtype=torch.float64) / ratio * age
        moved = first["boxes"] + step
        there = ((moved[:, 2:] > 0) & (moved[:, :2] < limits[:2])).all(1)
        wanted = moved[there].clamp_min(0).minimum(limits)
        torch.testing.assert_close(later["boxes"], wanted, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(later["scores"], first["scores"][there] * 0.98**age)
        assert torch.equal(later["labels"], first["labels"][there])
        assert set(later) == set(first)
        if name == "MaskRCNN":
            x, y = (round(float(side)) for side in step[:2])
            wanted = torch.zeros_like(first["masks"][there])
            wanted[..., :y, x:] = first["masks"][there][..., -y:, :-x]
            assert torch.equal(later["masks"], wanted) and wanted.any()
    assert bc.report(model).propagation.moved == 2

"""The laws on detectors as MMDetection's zoo configures them, with random weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

pytest.importorskip("mmdet")

from mmengine.config import Config  # noqa: E402

import blockcopy_plugins as bc  # noqa: E402
from blockcopy_plugins.engine.masked_reference import MaskedReference  # noqa: E402
from blockcopy_plugins.errors import FrameError, GridError  # noqa: E402

ZOO = {
    "mask-rcnn_r50_fpn": "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "retinanet_r50_fpn": "retinanet/retinanet_r50_fpn_1x_coco.py",
    # Nothing in the engine was written with these in view.
    "atss_r50_fpn": "atss/atss_r50_fpn_1x_coco.py",
    "cascade-mask-rcnn_x101": "cascade_rcnn/cascade-mask-rcnn_x101-32x4d_fpn_1x_coco.py",
}
SIZES = [(128, 192), (192, 128), (97, 131)]
BLOCK = 64


class Heads(nn.Module):
    """All that runs on blocks: backbone, neck and dense head."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, x):
        features = self.detector.extract_feat(x)
        head = getattr(self.detector, "rpn_head", None) or self.detector.bbox_head
        return features, head(features)


def build(name: str) -> Heads:
    import mmdet
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules

    register_all_modules()
    config = Config.fromfile(f"{mmdet.__path__[0]}/.mim/configs/{ZOO[name]}")
    config.model.backbone.init_cfg = None
    torch.manual_seed(0)
    net = Heads(MODELS.build(config.model)).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return net


@pytest.fixture(
    scope="module",
    params=[
        "mask-rcnn_r50_fpn",
        "atss_r50_fpn",
        pytest.param("retinanet_r50_fpn", marks=pytest.mark.slow),
        pytest.param("cascade-mask-rcnn_x101", marks=pytest.mark.slow),
    ],
)
def net(request) -> Heads:
    return build(request.param)


def frames(size, count: int, images: int = 1) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(7)
    return [torch.randn(images, 3, *size, generator=draw) for _ in range(count)]


def grids(size, rates, images: int = 1) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(8)
    shape = (images, -(-size[0] // BLOCK), -(-size[1] // BLOCK))
    return [torch.rand(shape, generator=draw) < rate for rate in rates]


def assert_alike(found, expected, relative: float = 1e-4) -> None:
    found, expected = tree_leaves(found), tree_leaves(expected)
    assert len(found) == len(expected) > 5
    for a, b in zip(found, expected, strict=True):
        assert type(a) is torch.Tensor
        assert a.shape == b.shape
        assert (a - b).abs().max() <= relative * b.abs().max()


def assert_equal(found, expected) -> None:
    for a, b in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        assert torch.equal(a, b)


@pytest.fixture()
def converted(net):
    """Converts the net; what is given back takes the grid of the next call."""

    class Dictated:
        grid = None

        def __call__(self, frame, context):
            return self.grid

    dictated = Dictated()

    def convert(**options):
        bc.blockcopy_(net, bc.BlockCopyConfig(block_size=BLOCK, policy=dictated, **options))
        return dictated

    yield convert
    if "_blockcopy" in net.__dict__:
        bc.restore_(net)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_law_1_all_executed_is_dense(net, converted, size, pack):
    (frame,) = frames(size, 1)
    with torch.no_grad():
        expected = net(frame)
    dictated = converted(pack_whole_frames=pack)
    (dictated.grid,) = grids(size, [2])
    assert_alike(net(frame), expected)


def test_law_2_nothing_changed(net, converted):
    size = SIZES[2]
    frame, other = frames(size, 2)
    dictated = converted()
    full, some, few, none = grids(size, [2, 0.5, 0.2, -1])
    dictated.grid = full
    first = net(frame)
    for dictated.grid in (some, few, none):
        last = net(frame)
        assert_alike(last, first)
    assert_equal(net(other), last)


@pytest.mark.parametrize("images", [1, 2])
def test_law_3_any_grid_is_the_masked_reference(net, converted, images):
    size = SIZES[2]
    video, plan = frames(size, 4, images), grids(size, [2, 0.5, 0.2, 0.7], images)
    reference = MaskedReference(net, BLOCK)
    expected = [reference(grid, frame) for grid, frame in zip(plan, video, strict=True)]
    dictated = converted()
    for frame, dictated.grid, wanted in zip(video, plan, expected, strict=True):
        assert_alike(net(frame), wanted)


def test_law_4_bad_input_leaves_the_stream_as_it_was(net, converted):
    size = SIZES[0]
    first, second = frames(size, 2)
    full, some = grids(size, [2, 0.5])
    dictated = converted()
    dictated.grid = full
    net(first)
    broken = second.clone()
    broken[0, 0, 3, 5] = float("nan")
    dictated.grid = some
    for bad, error in ((broken, FrameError), (second[:, :, 1:], FrameError)):
        with pytest.raises(error):
            net(bad)
    dictated.grid = some[:, :, :-1]
    with pytest.raises(GridError):
        net(second)
    net.train()
    with pytest.raises(FrameError):
        net(second)
    net.eval()
    dictated.grid = some
    after_errors = net(second)

    bc.reset_(net)
    dictated.grid = full
    net(first)
    dictated.grid = some
    assert_equal(net(second), after_errors)


def test_restore_leaves_no_trace(net, converted):
    frame = frames(SIZES[0], 1)[0]
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        expected = net(frame)
    dictated = converted()
    (dictated.grid,) = grids(SIZES[0], [2])
    assert list(net.state_dict()) == list(before)
    net(frame)
    bc.restore_(net)
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())
    with torch.no_grad():
        assert_equal(net(frame), expected)

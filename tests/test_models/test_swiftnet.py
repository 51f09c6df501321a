"""SwiftNet on blocks, its MACs, its training, and its parts; against the public codes on the same
weights: test_swiftnet_reference.py.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("mmseg")

from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.models.backbones import ResNet
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import blockcopy_plugins as bc
from blockcopy_plugins.engine.macs import MacCounter
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.models.swiftnet import (
    SpatialPyramidPooling,
    SwiftNetNeck,
    SwiftNetResNet,
)

ROOT = Path(__file__).resolve().parents[2]
BLOCK = 64
SIZES = [(128, 256), (200, 328), (97, 150)]


def build(name: str = "swiftnet_r18", **changes) -> nn.Module:
    """A segmentor with statistics that are not those of a fresh batch norm."""
    config = Config.fromfile(ROOT / f"configs/_base_/models/{name}.py")
    config.model.backbone.init_cfg = None
    config.merge_from_dict({f"model.{key}": value for key, value in changes.items()})
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(config.model)
    model.init_weights()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def narrow(**changes) -> nn.Module:
    return build(
        **{
            "backbone.stem_channels": 8,
            "backbone.base_channels": 8,
            "neck.in_channels": [8, 16, 32, 64],
            "neck.channels": 24,
            "decode_head.in_channels": 24,
            "decode_head.num_classes": 5,
            **changes,
        }
    )


class Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, mode="tensor")


def run(model, plan, video, **options):
    grids = iter(plan)
    config = bc.BlockCopyConfig(block_size=BLOCK, policy=lambda f, c: next(grids), **options)
    bc.blockcopy_(model, config)
    outputs = [model(frame) for frame in video]
    report = bc.report(model)
    bc.restore_(model)
    return outputs, report


def close(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def frames(size, count):
    return [torch.randn(1, 3, *size) for _ in range(count)]


def grid_shape(size):
    return (1, math.ceil(size[0] / BLOCK), math.ceil(size[1] / BLOCK))


@pytest.mark.parametrize("before_relu", [False, True])
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_all_executed_is_dense(size, before_relu):
    model = Logits(narrow(**{"backbone.skips_before_relu": before_relu}))
    video = frames(size, 2)
    wanted = [model(frame) for frame in video]
    plan = [torch.ones(grid_shape(size), dtype=torch.bool)] * len(video)
    found, _ = run(model, plan, video, pack_whole_frames=True)
    close(found, wanted)


@pytest.mark.parametrize("before_relu", [False, True])
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_any_grid_is_the_masked_reference(size, before_relu):
    model = Logits(narrow(**{"backbone.skips_before_relu": before_relu}))
    video = frames(size, 4)
    plan = [torch.rand(grid_shape(size)) < rate for rate in (2, 0.5, 0.3, 0.6)]
    reference = MaskedReference(model, BLOCK)
    wanted = [reference(grid, frame) for grid, frame in zip(plan, video, strict=True)]
    found, _ = run(model, plan, video)
    close(found, wanted)
    dense = model(video[-1])
    assert (found[-1] - dense).abs().max() > 0.1 * dense.abs().max()


@pytest.mark.parametrize("name", ["swiftnet_r18", "swiftnet_r50"])
@torch.no_grad()
def test_all_but_the_pooled_pyramid_runs_on_blocks(name):
    model = Logits(build(name))
    size = (128, 256)
    plan = [torch.ones(grid_shape(size), dtype=torch.bool)]
    _, report = run(model, plan, frames(size, 1), pack_whole_frames=True)
    assert report.share_on_blocks >= 0.99
    assert report.macs_executed == report.macs_dense  # No convolution runs twice.
    assert report.dense_ops
    assert all(op.path.startswith("model.neck.spp") for op in report.dense_ops)


@pytest.mark.parametrize(
    "name, published, to", [("swiftnet_r18", 104, 0.5), ("swiftnet_r50", 205.841, 0.0005)]
)
@torch.no_grad()
def test_macs_of_a_frame_of_cityscapes(name, published, to):
    """BlockCopy's counter also takes one for each ReLU and input of the pooling, two for each batch
    norm that was not fused with the convolution before it, and one for each bias, that of a fused
    one too.
    """
    model = build(name).to("meta")
    extra = 0

    def count(path, module, given, out):
        nonlocal extra
        fused = path.startswith("backbone")
        if isinstance(module, nn.Conv2d) and (fused or module.bias is not None):
            extra += out.numel()
        elif isinstance(module, nn.ReLU):
            extra += out.numel()
        elif isinstance(module, nn.MaxPool2d):
            extra += given[0].numel()
        elif isinstance(module, nn.BatchNorm2d) and not fused:
            extra += 2 * given[0].numel()

    for path, module in model.named_modules():
        module.register_forward_hook(lambda *of, path=path: count(path, *of))
    with MacCounter() as counter:
        logits = model(torch.empty(1, 3, 1024, 2048, device="meta"), mode="tensor")
    assert logits.shape == (1, 19, 256, 512)
    assert counter.macs / 1e9 == pytest.approx(published, rel=0.01)
    assert (counter.macs + extra) / 1e9 == pytest.approx(published, abs=to)


# Training.


def batch(size=(64, 96)):
    """Two squares on a ground, void around the left one."""
    draw = torch.Generator().manual_seed(1)
    image = torch.randint(0, 60, (3, *size), generator=draw)
    labels = torch.zeros(1, *size, dtype=torch.long)
    labels[:, 6:38, 6:38] = 255
    for label, (top, left) in {1: (10, 10), 2: (30, 60)}.items():
        image[label, top : top + 24, left : left + 24] += 150
        labels[:, top : top + 24, left : left + 24] = label
    sample = SegDataSample(metainfo={"img_shape": size, "ori_shape": size})
    sample.gt_sem_seg = PixelData(data=labels)
    return {"inputs": [image.byte()] * 2, "data_samples": [sample, copy.deepcopy(sample)]}


def test_losses_fall_and_pixels_are_learned():
    model = narrow(
        **{
            "decode_head.num_classes": 3,
            "data_preprocessor.size": (64, 96),
            "neck.pooling_norm_cfg": {"type": "BN"},
        }
    ).train()
    optimizer = build_optim_wrapper(
        model, {"optimizer": {"type": "Adam", "lr": 5e-3}, "type": "OptimWrapper"}
    )
    history = [model.train_step(batch(), optimizer) for _ in range(30)]
    assert all(torch.isfinite(losses["loss"]) for losses in history)
    assert history[-1]["decode.loss_ce"] < 0.5 * history[0]["decode.loss_ce"]
    # In evaluation, batch norm by the means of so few steps is another network.
    with torch.no_grad():
        (found, _) = model.test_step(batch())
    labels = batch()["data_samples"][0].gt_sem_seg.data
    known = labels != 255
    assert (found.pred_sem_seg.data == labels)[known].float().mean() > 0.8


# The parts.


def test_after_the_relu_it_is_the_residual_network_of_mmsegmentation():
    for depth in (18, 50):
        ours, theirs = (
            kind(depth, base_channels=8, stem_channels=8) for kind in (SwiftNetResNet, ResNet)
        )
        ours.eval()
        theirs.eval()
        theirs.load_state_dict(ours.state_dict())
        x = torch.randn(1, 3, 70, 90)
        with torch.no_grad():
            wanted = theirs(x)
            for a, b in zip(ours(x), wanted, strict=True):
                assert torch.equal(a, b)
            ours.skips_before_relu = True
            skips = ours(x)
        for a, b in zip(skips, wanted, strict=True):
            torch.testing.assert_close(a.relu(), b)
            assert a.min() < 0


def test_the_pyramid_by_hand():
    """One level of two rows on a map of 4x8: four columns, as the map is twice as wide as high."""
    pyramid = SpatialPyramidPooling(3, 2, 4, grids=(2,)).eval()
    x = torch.randn(1, 3, 4, 8)
    with torch.no_grad():
        reduced = F.conv2d(x.relu() / math.sqrt(1 + 1e-5), pyramid.reduce.conv.weight)
        pooled = reduced.reshape(1, 2, 2, 2, 4, 2).mean((3, 5))
        level = F.conv2d(pooled.relu(), pyramid.levels[0].conv.weight)
        # Twice as large, between the centres of the cells.
        level = F.interpolate(level, scale_factor=2, mode="bilinear")
        joined = torch.cat([reduced, level], 1)
        wanted = F.conv2d(joined.relu(), pyramid.fuse.conv.weight)
        torch.testing.assert_close(pyramid(x), wanted, rtol=1e-4, atol=1e-4)


def test_pyramids_norms_are_as_slow_as_the_authors():
    config = Config.fromfile(ROOT / "configs/_base_/models/swiftnet_r18.py")
    config.model.neck.pop("type")
    neck = SwiftNetNeck(**config.model.neck)
    momenta = {
        name.split(".")[0]: module.momentum
        for name, module in neck.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    }
    assert momenta == {"spp": 0.005, "upsamplings": 0.1}


def test_a_backbone_that_does_not_fit_is_an_error():
    neck = SwiftNetNeck(in_channels=[8, 16, 32], channels=6)
    with pytest.raises(ConfigError, match="takes 3 maps, but the backbone gives 2"):
        neck([torch.zeros(1, 8, 8, 8), torch.zeros(1, 16, 4, 4)])
    with pytest.raises(ConfigError, match="in_channels is"):
        SwiftNetNeck(in_channels=[8])
    plugin = {"cfg": {"type": "ContextBlock", "ratio": 1 / 16}, "position": "after_conv3"}
    with pytest.raises(ConfigError, match="plugins"):
        SwiftNetResNet(50, skips_before_relu=True, plugins=[plugin])


@pytest.mark.parametrize("name", ["swiftnet_r18", "deeplabv3plus_r18"])
@torch.no_grad()
def test_networks_of_camvid(name):
    """Both configs of each network give one model, with CamVid's eleven classes."""
    path = ROOT / f"configs/camvid/{name}_camvid"
    config, sparse = (Config.fromfile(f"{path}{end}.py") for end in ("", "_blockcopy"))
    assert sparse.model.to_dict() == config.model.to_dict()
    assert [hook["type"] for hook in sparse.custom_hooks] == ["blockcopy_plugins.BlockCopyHook"]
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(config.model).eval()
    logits = model(torch.zeros(1, 3, 72, 96), mode="tensor")
    assert logits.shape == (1, len(config.classes), 18, 24)

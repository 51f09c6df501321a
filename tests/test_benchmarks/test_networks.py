"""The networks in plain torch: are they the published ones, and do they run on blocks."""

from __future__ import annotations

import ast
import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[2]

import blockcopy_plugins as bc  # noqa: E402
from benchmarks.networks import NETWORKS, build  # noqa: E402
from benchmarks.networks.resnet import ResNet  # noqa: E402
from benchmarks.networks.shufflenet_detector import ShuffleNetV2, shuffle_channels  # noqa: E402
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference  # noqa: E402

# Strides from 8 on do not divide it, so that coarser levels, rounded up, reach beyond finer ones.
SIZE = (100, 140)
# What pools beside strided convolutions needs multiples of its stride.
SIZES = {name: (96, 136) if name in ("enet", "erfnet", "cgnet") else SIZE for name in NETWORKS}
# The smallest block that suits all strides.
BLOCKS = {name: 64 if name == "mask-rcnn_r50_fpn" else 32 for name in NETWORKS}
# Narrower, sums of few products with few channels are not of order one.
LIGHT = ("shufflenet_detector", "enet", "erfnet", "cgnet")
WIDTHS = {name: 0.25 if name in LIGHT else 0.125 for name in NETWORKS}
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}


def macs(make, size) -> float:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        make().eval()(torch.empty(1, 3, *size))
    return counter.get_total_flops() / 2


# Those of MMDetection's and MMSegmentation's models, and of ours that are built from their parts.
# Published are 104 and 205.8 (with norms, ReLUs and pooling) for SwiftNet with ResNet-18 and -50.
@pytest.mark.parametrize(
    ("name", "gmacs"),
    [
        ("csp_r50", 1128.200667),
        ("mask-rcnn_r50_fpn", 393.257288),
        ("swiftnet_r18", 103.566133),
        ("swiftnet_r50", 204.632082),
        ("deeplabv3plus_r50", 1409.259930),
    ],
)
def test_macs_at_1024x2048(name, gmacs):
    assert macs(NETWORKS[name], (1024, 2048)) / 1e9 == pytest.approx(gmacs, rel=1e-7)


@pytest.mark.parametrize(
    ("depth", "gmacs", "parameters"),
    # torchvision's table, and its parameters without the classifier's.
    [(18, 1.814, 11_689_512), (34, 3.664, 21_797_672), (50, 4.089, 25_557_032)],
)
def test_resnet_is_the_published_one(depth, gmacs, parameters):
    classifier = 1000 * (2048 if depth == 50 else 512)
    found = macs(lambda: ResNet(depth), (224, 224)) + classifier
    assert found / 1e9 == pytest.approx(gmacs, rel=1e-3)
    with torch.device("meta"):
        counts = [p.numel() for p in ResNet(depth).parameters()]
    assert sum(counts) == parameters - classifier - 1000


def test_shufflenet_is_the_published_one():
    # 1.0x has 146 MMACs with its last 1x1 convolution, on 7x7 pixels, and its classifier.
    expected = 146e6 - 49 * 464 * 1024 - 1024 * 1000
    assert macs(ShuffleNetV2, (224, 224)) == pytest.approx(expected, rel=0.01)
    with torch.device("meta"):
        counts = [p.numel() for p in ShuffleNetV2().parameters()]
    # torchvision's count; the last convolution has a norm.
    assert sum(counts) == 2_278_604 - 464 * 1024 - 2 * 1024 - 1025 * 1000


def test_macs_of_the_shufflenet_detector():
    size = (1024, 2048)
    cells = 64 * 128
    pointwise = (116 + 232 + 464) * 232 + 3 * 232 * 232 + 232 * 232 + 232 * 85
    depthwise = (1 + 2 + 3 + 3) * 25 * 232
    expected = macs(ShuffleNetV2, size) + cells * (pointwise + depthwise)
    assert macs(NETWORKS["shufflenet_detector"], size) == expected


def test_channels_of_the_two_halves_alternate():
    x = torch.arange(6.0).view(1, 6, 1, 1).expand(2, 6, 3, 5)
    assert shuffle_channels(x)[1, :, 2, 4].tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize(
    ("name", "parameters"),
    # In millions, of the papers' tables.
    [("enet", 0.37), ("erfnet", 2.1), ("cgnet", 0.5)],
)
def test_light_segmentors_have_the_published_parameters(name, parameters):
    with torch.device("meta"):
        count = sum(p.numel() for p in NETWORKS[name]().parameters())
    assert count / 1e6 == pytest.approx(parameters, rel=0.06)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("enet", [2, 4, 8, 16] * 2),
        ("erfnet", [d for dilation in (2, 4, 8, 16) * 2 for d in (dilation, 1)]),
        ("cgnet", [2] * 3 + [4] * 21),
        # Stages 3 and 4 with MMSegmentation's contracted first unit, then the pyramid.
        ("deeplabv3plus_r50", [2, 2, 2, 2, 2, 2, 4, 4, 12, 24, 36]),
        ("csp_r50", [2, 2, 2]),
    ],
)
def test_dilations(name, expected):
    with torch.device("meta"):
        convs = [m for m in NETWORKS[name](0.125).modules() if isinstance(m, nn.Conv2d)]
    found = [conv.dilation[0] for conv in convs if max(conv.dilation) > 1]
    assert found == expected


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("swiftnet_r18", [(19, 25, 35)]),
        ("swiftnet_r50", [(19, 25, 35)]),
        ("deeplabv3plus_r50", [(19, 25, 35)]),
        ("csp_r50", [(1, 26, 36), (1, 26, 36), (2, 26, 36)]),
        ("shufflenet_detector", [(85, 7, 9)]),
        ("enet", [(19, 96, 136)]),
        ("erfnet", [(19, 96, 136)]),
        ("cgnet", [(19, 96, 136)]),
        (
            "mask-rcnn_r50_fpn",
            [
                (channels, *size)
                for channels in (256, 3, 12)
                for size in ((25, 35), (13, 18), (7, 9), (4, 5), (2, 3))
            ],
        ),
    ],
)
def test_shapes(name, shapes):
    with torch.device("meta"):
        outputs = tree_leaves(NETWORKS[name]().eval()(torch.empty(2, 3, *SIZES[name])))
    assert [tuple(output.shape) for output in outputs] == [(2, *shape) for shape in shapes]


def frames(name, count, dtype, draw):
    return [torch.randn(2, 3, *SIZES[name], generator=draw).to(dtype) for _ in range(count)]


def convert(net, name, policy):
    return bc.blockcopy_(net, bc.BlockCopyConfig(block_size=BLOCKS[name], policy=policy))


def close(found, wanted, tolerance):
    for a, b in zip(tree_leaves(found), tree_leaves(wanted), strict=True):
        error = (a.double() - b).abs().max().item() / b.abs().max().item()
        assert error <= tolerance, f"error {error} of the largest value"


@pytest.mark.parametrize("name", NETWORKS)
def test_all_executed_is_dense(name):
    net = build(name, WIDTHS[name])
    dense = copy.deepcopy(net).double()
    convert(net, name, "all")
    for frame in frames(name, 3, torch.float32, torch.Generator().manual_seed(1)):
        with torch.no_grad():
            close(net(frame), dense(frame.double()), TOLERANCE[torch.float32])
    report = bc.report(net)
    # Means over the image, and the pyramid of SwiftNet, are of the whole map.
    assert report.share_on_blocks > 0.999, str(report)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_any_grids_are_the_masked_reference(name, dtype):
    if name == "enet" and dtype != torch.float32:
        # Of the dense model too: 3 to 34 % of the largest value.
        pytest.skip(
            "rounding decides which of two pixels is larger, and so where unpooling puts it"
        )
    net = build(name, WIDTHS[name]).to(dtype)
    reference = MaskedReference(copy.deepcopy(net).double(), BLOCKS[name])
    draw = torch.Generator().manual_seed(2)
    convert(net, name, lambda frame, context: torch.rand(context.grid_shape, generator=draw) < 0.4)
    for frame in frames(name, 3 if dtype == torch.float32 else 2, dtype, draw):
        found = net(frame)
        close(found, reference(bc.handle(net).last.grid, frame.double()), TOLERANCE[dtype])
    assert bc.report(net).executed_rate < 0.8


@pytest.mark.parametrize("name", NETWORKS)
def test_activations_are_of_order_one_and_depend_on_the_frame(name):
    net = build(name, WIDTHS[name])
    largest = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(lambda m, a, out: largest.append(out.abs().max().item()))
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        first, second = (tree_leaves(net(frame)) for frame in frames(name, 2, torch.float32, draw))
    assert 1 < max(largest) < 100
    for a, b in zip(first, second, strict=True):
        assert (a - b).square().mean() > 1e-3 * a.square().mean() > 0


def test_build_is_repeatable_and_leaves_the_random_numbers_alone():
    before = torch.random.get_rng_state()
    first, same, other = (build("swiftnet_r18", 0.125, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    states = [net.state_dict() for net in (first, same, other)]
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key])
        if value.is_floating_point():
            assert not torch.equal(value, states[2][key])
    assert not any(module.training for module in first.modules())


def test_width_is_a_factor_of_the_channels():
    with torch.device("meta"):
        assert ResNet(50, 0.5).channels == (128, 256, 512, 1024)
        assert ShuffleNetV2().channels == (116, 232, 464)
        assert min(ResNet(18, 1e-3).channels) == 4


def test_what_cannot_be_built_is_an_error():
    with pytest.raises(ValueError, match="no network 'resnet'.*swiftnet_r18"):
        build("resnet")
    for width in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="width is"):
            build("csp_r50", width)
    with pytest.raises(ValueError, match="depth is 101"):
        ResNet(101)
    with pytest.raises(TypeError):
        NETWORKS["mine"] = ResNet


def test_torch_is_all_they_need():
    allowed = {"torch", *sys.stdlib_module_names}
    for path in (ROOT / "benchmarks" / "networks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level != 1:
                names = ["." * node.level + (node.module or "")]
            else:
                continue
            assert {name.split(".")[0] for name in names} <= allowed, f"{path}: {names}"

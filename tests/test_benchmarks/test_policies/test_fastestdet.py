"""FastestDet: the published names, its channels' order, its boxes, and that it stays on blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("cv2")

import blockcopy_plugins as bc
from benchmarks.deviation import deviation
from benchmarks.policies.models.fastestdet import CLASSES, FastestDet, decode_boxes, fastestdet
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference


@pytest.fixture
def network():
    made = FastestDet().eval()
    draw = torch.Generator().manual_seed(0)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=draw)
            module.weight.data.uniform_(0.5, 2, generator=draw)
            module.bias.data.normal_(0, 0.1, generator=draw)
    return made


def test_names_and_sizes_are_the_published_ones():
    state = FastestDet().state_dict()
    sizes = {name: tuple(value.shape) for name, value in state.items()}
    for name, size in {
        "backbone.first_conv.0.weight": (24, 3, 3, 3),
        "backbone.stage2.0.branch_proj.2.weight": (24, 24, 1, 1),
        "backbone.stage3.7.branch_main.3.weight": (48, 1, 3, 3),
        "backbone.stage4.0.branch_main.5.weight": (96, 96, 1, 1),
        "SPP.Conv1x1.conv1x1.0.weight": (96, 336, 1, 1),
        "SPP.S3.6.weight": (96, 1, 5, 5),
        "SPP.output.0.weight": (96, 288, 1, 1),
        "detect_head.conv1x1.conv1x1.0.weight": (96, 96, 1, 1),
        "detect_head.cls_layers.conv5x5.3.weight": (80, 96, 1, 1),
    }.items():
        assert sizes[name] == size, name
    assert len(state) == 420  # of the published file, as is the number of parameters
    assert sum(p.numel() for p in FastestDet().parameters()) == 244490
    assert len(CLASSES) == len(set(CLASSES)) == 80


def test_every_second_channel_goes_through_the_unit(network):
    unit = network.backbone.stage3[1]
    x = torch.randn(2, 96, 5, 7)
    with torch.no_grad():
        got = unit(x)
        torch.testing.assert_close(got, torch.cat([x[:, ::2], unit.branch_main(x[:, 1::2])], 1))


def test_nothing_leaves_the_blocks(network):
    frames = torch.randn(3, 1, 3, 96, 128)
    grids = [torch.ones(1, 3, 4, dtype=torch.bool)]
    grids += [torch.rand(1, 3, 4) < rate for rate in (0.5, 0.2)]
    with torch.inference_mode():
        dense = network(frames[0])
        assert dense.shape == (1, 85, 6, 8)
        reference = MaskedReference(network, 32)
        wanted = [reference(grid, frame) for grid, frame in zip(grids, frames, strict=True)]
        at_work = iter(grids)
        config = bc.BlockCopyConfig(block_size=32, policy=lambda *_: next(at_work), strict=True)
        bc.blockcopy_(network, config)
        got = [network(frame) for frame in frames]
    assert deviation(got[0], dense) < 1e-4
    assert max(deviation(a, b) for a, b in zip(got, wanted, strict=True)) < 1e-4


def test_boxes():
    cells = torch.zeros(85, 3, 4)
    cells[0, 1, 2], cells[5 + 2, 1, 2] = 0.5, 0.8  # a car in row 1, column 2
    cells[1, 1, 2], cells[2, 1, 2] = 0.3, -0.2
    cells[3, 1, 2], cells[4, 1, 2] = -3.0, -2.0
    boxes, scores, labels = decode_boxes(cells)
    assert labels.tolist() == [2] and CLASSES[2] == "car"
    assert scores.item() == pytest.approx(0.5**0.6 * 0.8**0.4)
    x, y = 16 * (2 + np.tanh(0.3)), 16 * (1 + np.tanh(-0.2))
    w, h = (352 / (1 + np.exp(-value)) for value in (-3.0, -2.0))
    wanted = [x - w / 2, max(y - h / 2, 0), x + w / 2, min(y + h / 2, 48)]
    assert boxes[0].tolist() == pytest.approx(wanted, abs=1e-3)

    cells[:, 1, 3] = cells[:, 1, 2]  # the same car a little to the right, less sure
    cells[0, 1, 3], cells[1, 1, 3] = 0.4, -0.5
    assert len(decode_boxes(cells)[0]) == 1
    cells[5 + 2, 1, 3], cells[5 + 7, 1, 3] = 0.1, 0.8  # now a truck: it hides no car
    assert decode_boxes(cells)[2].tolist() == [2, 7]
    assert len(decode_boxes(torch.zeros(85, 3, 4))[0]) == 0


def test_factory(tmp_path):
    torch.save(FastestDet().state_dict(), tmp_path / "weights.pth")
    made = fastestdet(str(tmp_path / "weights.pth"), scale=0.5)
    frame = np.zeros((240, 330, 3), np.uint8)
    frame[..., 0] = 255
    pixels = made.preprocess(frame)
    assert pixels.shape == (1, 3, 128, 160) and pixels[0, :, 5, 5].tolist() == [1, 0, 0]
    with torch.inference_mode():
        boxes, scores, labels = made.decode(made.module(pixels))
    assert boxes.shape == (len(scores), 4) and labels.dtype == torch.int64
    with pytest.raises(ValueError, match="scale is 0, expected a factor above 0"):
        fastestdet(scale=0)

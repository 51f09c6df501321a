"""Ten thousand frames of cameras that come, go and change places, with much that is refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.errors import BlockCopyError

FRAMES, SAMPLED, SIDE, SIZE = 10_000, 50, 8, (24, 40)
CAMERAS = ("hall", "yard", 7)
STATUS = Path("/proc/self/status")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.c = nn.ConvTranspose2d(8, 5, 2, 2)

    def forward(self, x):
        return self.c(torch.relu(self.norm(self.b(torch.relu(self.a(x))))))


def resident_kib() -> int:
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if "VmRSS" in line)


@pytest.mark.weekly
@pytest.mark.skipif(not STATUS.exists(), reason="the system does not say how much memory is used")
@torch.no_grad()
def test_ten_thousand_frames():
    torch.manual_seed(0)
    draw, net = random.Random(0), Net().eval()
    guards = [dict(type="MaxAge", frames=9), dict(type="Dilate"), dict(type="SceneCut")]
    config = bc.BlockCopyConfig(SIDE, dict(type="GainPolicy", target=0.5), guards=guards)
    model = bc.blockcopy_(nn.Sequential(net).eval(), config)
    handle = bc.handle(model)
    # The oracle runs every frame of each camera, and is compared now and then.
    plain = Net().eval()
    plain.load_state_dict(net.state_dict())
    oracles: dict = {}
    picture = {camera: torch.randn(3, *SIZE) for camera in CAMERAS}
    refused = compared = 0
    memory = []
    for index in range(FRAMES):
        cameras = draw.sample(CAMERAS, draw.randint(1, 3))
        for camera in cameras:
            row, column = draw.randrange(SIZE[0] - 6), draw.randrange(SIZE[1] - 6)
            picture[camera] = picture[camera].clone()
            picture[camera][:, row : row + 6, column : column + 6] = torch.randn(3, 6, 6)
            if draw.random() < 0.002:
                picture[camera] = torch.randn(3, *SIZE)  # a cut
        frame = torch.stack([picture[camera] for camera in cameras])
        if draw.random() < 0.05:
            refused += refuses(model, frame, cameras, draw)
        if draw.random() < 0.01:
            gone = draw.choice(CAMERAS)
            if handle.states.find(gone) is not None:
                bc.reset_(model, [gone])
                oracles.pop(gone, None)
        with bc.streams(model, cameras):
            out = model(frame)
        grid = handle.last.host_grid
        check = index % (FRAMES // SAMPLED) == 0
        compared += check
        for image, camera in enumerate(cameras):
            if camera not in oracles:
                assert grid[image].all()
                oracles[camera] = MaskedReference(plain, SIDE)
            wanted = oracles[camera](grid[image : image + 1], frame[image : image + 1])
            if check:
                assert (out[image] - wanted[0]).abs().max() <= 1e-5 * wanted.abs().max()
        if index >= FRAMES // 5 and index % 1000 == 0:
            memory.append(resident_kib())
    assert compared == SAMPLED and refused > FRAMES // 30
    # Of the last 8000 frames; what an allocator keeps goes up and down by less.
    assert max(memory) - memory[0] < 16 * 1024


def refuses(model, frame, cameras, draw) -> int:
    """Hand the model something that it has to refuse."""
    bad, ids = frame, cameras
    kind = draw.randrange(4)
    if kind == 0:
        bad = frame.clone()
        bad[0, 1, 5, 5] = draw.choice([float("nan"), float("inf")])
    elif kind == 1:
        bad = frame[..., :-8]
        if all(bc.handle(model).states.find(camera) is None for camera in cameras):
            return 0
    elif kind == 2:
        ids = [*cameras, "one too many"]
    else:
        bad = frame.int()
    with pytest.raises(BlockCopyError), bc.streams(model, ids):
        model(bad)
    return 1

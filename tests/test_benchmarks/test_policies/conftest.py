"""Clips and networks so small that every figure can be worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
pytest.importorskip("mmengine")
pytest.importorskip("pycocotools")

BLOCK, ROWS, COLUMNS = 32, 4, 4
BLOCKS = ROWS * COLUMNS

# Each pixel by itself: dark is class 0, bright is class 1. Blocks know nothing of each other.
_SEGMENTOR = """
import torch
from torch import nn


class Made:
    def __init__(self):
        self.module = nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.module.weight.copy_(torch.tensor([[-1.0] * 3, [1.0] * 3])[..., None, None])
            self.module.bias.copy_(torch.tensor([1.5, -1.5]))
        self.module.eval()

    def preprocess(self, frame):
        return torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255

    def decode(self, outputs):
        return 4 * outputs[0]


def factory(checkpoint=None):
    return Made()


def undecided(checkpoint=None):
    made = Made()
    made.decode = lambda outputs: outputs
    return made


def bare(checkpoint=None):
    return nn.Conv2d(3, 2, 1)
"""

# One box around what is bright, found at half of the frame's size.
_DETECTOR = """
import torch
from torch import nn


class Made:
    classes = ("dog", "person")

    def __init__(self):
        self.module = nn.Conv2d(3, 1, 1, bias=False)
        nn.init.constant_(self.module.weight, 1 / 3)
        self.module.eval()

    def preprocess(self, frame):
        return torch.from_numpy(frame[::2, ::2].copy()).permute(2, 0, 1)[None].float() / 255

    def decode(self, outputs):
        bright = outputs[0, 0] > 0.5
        if not bright.any():
            return torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
        rows, columns = bright.any(1).nonzero(), bright.any(0).nonzero()
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return torch.tensor([box]).float(), torch.tensor([0.9]), torch.tensor([1])


def factory(checkpoint=None):
    return Made()
"""


@pytest.fixture
def segmentor(tmp_path):
    """``file.py:factory`` of a network that segments dark and bright."""
    path = tmp_path / "tiny_segmentor.py"
    path.write_text(_SEGMENTOR)
    return f"{path}:factory"


@pytest.fixture
def detector(tmp_path):
    """``file.py:factory`` of a network that finds what is bright."""
    path = tmp_path / "tiny_detector.py"
    path.write_text(_DETECTOR)
    return f"{path}:factory"


def write_frames(folder, frames):
    folder.mkdir(exist_ok=True)
    for number, frame in enumerate(frames):
        picture = np.repeat((255 * frame.astype(np.uint8))[..., None], 3, 2)
        cv2.imwrite(str(folder / f"{number:04d}.png"), picture)
    return folder


@pytest.fixture
def flipping_clip(tmp_path):
    """Makes a clip in which one block turns over in each frame, the next in the next frame."""

    def make(frames, name="flips"):
        bright, pictures = np.zeros((ROWS, COLUMNS), bool), []
        for number in range(frames):
            if number:
                place = (number - 1) % BLOCKS
                bright[divmod(place, COLUMNS)] ^= True
            pictures.append(bright.repeat(BLOCK, 0).repeat(BLOCK, 1))
        return write_frames(tmp_path / name, pictures)

    return make


@pytest.fixture
def jumping_clip(tmp_path):
    """Makes a clip of a square that is somewhere else in each frame, and its MOT ground truth."""

    def make(frames):
        pictures, lines = [], []
        for number in range(frames):
            picture = np.zeros((2 * BLOCK * ROWS, 2 * BLOCK * COLUMNS), bool)
            left, top = 16 + 64 * (number % 4), 16 + 64 * (number // 4 % 2)
            picture[top : top + 32, left : left + 32] = True
            pictures.append(picture)
            lines.append(f"{number + 1},1,{left + 1},{top + 1},32,32,1,-1,-1,-1\n")
        truth = tmp_path / "gt.txt"
        truth.write_text("".join(lines))
        return write_frames(tmp_path / "jumps", pictures), truth

    return make


@pytest.fixture
def measure(tmp_path):
    """Runs the command and returns what it wrote."""
    from benchmarks.policies.__main__ import main

    def run(*arguments, name="out.json"):
        path = tmp_path / name
        main([*map(str, arguments), "--block-size", str(BLOCK), "--json", str(path)])
        return json.loads(path.read_text())

    return run

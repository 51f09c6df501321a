"""What the tests of Detectron2's integration share: small models of its zoo, small videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

# The modules of tests skip themselves where Detectron2 is absent.

SIZE = (160, 224)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Weights of the small Mask R-CNN as Detectron2's trainer writes them."""
    from detectron2.checkpoint import DetectionCheckpointer

    from benchmarks.zoo import detectron2_models as models

    model = models.build(models.config_of("mask_rcnn_R_50_FPN", small=True))
    folder = tmp_path_factory.mktemp("weights")
    DetectionCheckpointer(model, str(folder)).save("model_final", iteration=7)
    return folder / "model_final.pth"


@pytest.fixture
def cfg(weights):
    """Config of the small Mask R-CNN with our keys and its weights; frames keep their size."""
    from benchmarks.zoo import detectron2_models as models
    from blockcopy_plugins.integrations.detectron2 import add_blockcopy_config

    found = models.config_of("mask_rcnn_R_50_FPN", small=True)
    add_blockcopy_config(found)
    found.MODEL.WEIGHTS = str(weights)
    found.MODEL.BLOCKCOPY.BLOCK_SIZE = 64
    found.INPUT.MIN_SIZE_TEST = SIZE[0]
    return found


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    """A folder of six frames: noise with a square that wanders."""
    return write_frames(tmp_path_factory.mktemp("videos") / "street", 6, 0)


@pytest.fixture(scope="session")
def pictures(video):
    """The frames of the video, BGR."""
    import cv2

    return [cv2.imread(str(path)) for path in sorted(video.iterdir())]


def write_frames(folder: Path, count: int, seed: int) -> Path:
    """Write a folder of frames."""
    import cv2

    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    background = random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    for number in range(count):
        frame = background.copy()
        left = 20 * number
        frame[40:100, left : left + 50] = random.integers(0, 256, (60, 50, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:04d}.png"), frame)
    return folder

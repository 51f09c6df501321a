"""Regions quantised to 8 bits by nncf, calibrated on frames of a real clip."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .peers import PeerUnavailable, import_engine, read_into_openvino

CLIP = Path(__file__).resolve().parent.parent / "demo" / "vtest_excerpt.mp4"
FRAMES = 24

# Of ImageNet, in the readers' order of channels: blue, green, red.
_MEAN, _STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)


@dataclass
class QuantisedRegion:
    """A region in 8 bits, and what it should give for a frame that it was not calibrated on.

    Attributes:
        model: Of OpenVINO, not compiled.
        exporter: Which of torch's exporters wrote it.
        version: Of nncf.
        calibrated: Frames that it was calibrated on.
        frame: float32 ``(1, 3, H, W)``, another frame of the clip.
        expected: The region's float32 outputs for it, in the order of ``tree_leaves``.
    """

    model: Any
    exporter: str
    version: str
    calibrated: int
    frame: Tensor
    expected: list[Tensor]


class Quantiser:
    """Quantises regions after training, each network once for a size of frames.

    Args:
        clip: A video file.
        frames: To calibrate on.
    """

    def __init__(self, clip: str | Path = CLIP, frames: int = FRAMES) -> None:
        self._clip = clip
        self._frames = frames
        self._done: dict[tuple[str, tuple[int, int]], QuantisedRegion] = {}

    def quantise(self, network: str, region: nn.Module, size: tuple[int, int]) -> QuantisedRegion:
        """A region in 8 bits.

        Args:
            network: Its name; the same name stands for the same weights.
            region: The dense region, eval mode, of any dtype.
            size: ``(H, W)`` of its frames in pixels.

        Raises:
            PeerUnavailable: If nncf or OpenVINO is missing, no exporter can write the region, or
                the clip is too short.
        """
        if (network, size) not in self._done:
            self._done[network, size] = self._quantise(region, size)
        return self._done[network, size]

    def _quantise(self, region: nn.Module, size: tuple[int, int]) -> QuantisedRegion:
        nncf = import_engine("nncf")
        import_engine("openvino")
        calibration = read_frames(self._clip, self._frames + 1, size)
        held_out = calibration.pop(len(calibration) // 2)  # where clips fade there is little to see
        region = copy.deepcopy(region).float()
        model, exporter = read_into_openvino(region, held_out)
        with torch.no_grad():
            expected = tree_leaves(region(held_out))
        quantised = nncf.quantize(
            model,
            nncf.Dataset([frame.numpy() for frame in calibration]),
            subset_size=len(calibration),
            target_device=nncf.TargetDevice.CPU,
        )
        return QuantisedRegion(
            quantised, exporter, nncf.__version__, len(calibration), held_out, expected
        )


def read_frames(clip: str | Path, count: int, size: tuple[int, int]) -> list[Tensor]:
    """Frames from all over a clip, as networks take them.

    Args:
        clip: A video file.
        count: How many; of a shorter clip, all that it has.
        size: ``(H, W)`` in pixels that they are resized to.

    Returns:
        float32 ``(1, 3, H, W)``, normalised with ImageNet's mean and deviation, in order.

    Raises:
        PeerUnavailable: If the clip has fewer than two frames: one to calibrate on, one to compare.
        BlockCopyError: If it cannot be read.
    """
    from blockcopy_plugins.datasets.video_reader import VideoReader

    reader = VideoReader(clip)
    length = reader.count()
    if length < 2:
        raise PeerUnavailable(
            f"{clip} has 1 frame, expected at least 2: to calibrate on, and to compare"
        )
    count = min(count, length)
    mean, std = torch.tensor(_MEAN).view(1, 3, 1, 1), torch.tensor(_STD).view(1, 3, 1, 1)
    found = []
    for i in range(count):
        frame = torch.from_numpy(reader.read(i * (length - 1) // (count - 1)))
        frame = frame.permute(2, 0, 1)[None].float()
        frame = F.interpolate(frame, size, mode="bilinear", antialias=True)
        found.append(((frame - mean) / std).contiguous())
    return found

"""Optical flow between the frames of videos, and where it can be relied on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blockcopy_plugins.errors import ConfigError, FrameError

_LEAST_SIDE = 16  # px; below it OpenCV's flow fails


@dataclass(frozen=True, eq=False)
class OpticalFlow:
    """Where each pixel of a frame was in the previous frame.

    Attributes:
        displacement: float32 (h, w, 2), px of this grid to the right and downwards: the pixel at
            (x, y) shows what was at (x, y) + displacement in the previous frame. The grid covers
            the whole frame, possibly at a reduced size.
        reliable: bool (h, w), where the flow can be relied on.
    """

    displacement: np.ndarray
    reliable: np.ndarray


def estimate_flow(previous: np.ndarray, present: np.ndarray) -> OpticalFlow:
    """Flow from a frame back to the previous one, by OpenCV's DIS.

    The method is that of Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016
    (OpenCV's preset ``MEDIUM``). It counts as reliable where the forward flow leads back, that is,
    not where something was hidden or outside the previous frame: with backward flow b and forward
    flow f, |b + f|^2 < 0.01 (|b|^2 + |f|^2) + 0.5 px^2, with f at the place that b leads to
    (Sundaram et al., "Dense Point Trajectories by GPU-Accelerated Large Displacement Optical
    Flow", ECCV 2010).

    Args:
        previous: uint8 (h, w), grey, at least 16 px high and wide.
        present: uint8 (h, w), the frame after it.

    Returns:
        The flow, (h, w).

    Raises:
        FrameError: The frames' sizes differ or are too small.
    """
    import cv2

    if previous.shape != present.shape or min(present.shape) < _LEAST_SIDE:
        raise FrameError(
            f"optical flow needs two frames of one size, at least {_LEAST_SIDE} px high and wide, "
            f"but got {previous.shape} and {present.shape}; leave out temporal consistency"
        )
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    backward = method.calc(present, previous, None)
    forward = method.calc(previous, present, None)
    height, width = present.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + backward[..., 0], y + backward[..., 1]
    back = cv2.remap(forward, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    apart = np.square(backward + back).sum(2)
    lengths = np.square(backward).sum(2) + np.square(back).sum(2)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return OpticalFlow(backward, inside & (apart < 0.01 * lengths + 0.5))


def grey_frame(frame: Any, width: int) -> np.ndarray:
    """A frame in grey, at a limited width.

    Args:
        frame: Tensor or array (3, H, W), uint8, BGR or RGB.
        width: Width to which a wider frame is reduced, px; the aspect ratio is kept.

    Returns:
        uint8 (h, w).

    Raises:
        FrameError: The frame has another form.
    """
    import cv2

    array = frame.detach().cpu().numpy() if hasattr(frame, "detach") else np.asarray(frame)
    if array.ndim != 3 or array.shape[0] != 3 or array.dtype != np.uint8:
        raise FrameError(
            f"optical flow needs frames as uint8 (3, H, W), but got {array.dtype} {array.shape}; "
            "let the data preprocessor normalise them, not the pipeline, or leave out temporal "
            "consistency"
        )
    grey = cv2.cvtColor(np.ascontiguousarray(array.transpose(1, 2, 0)), cv2.COLOR_BGR2GRAY)
    if grey.shape[1] <= width:
        return grey
    height = max(round(grey.shape[0] * width / grey.shape[1]), 1)
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)


class FrameFlows:
    """Flows of video frames, batch by batch, each computed once.

    If it is asked again for the last batch (by the metric of another run of the same frames), it
    returns the same flows.

    Args:
        width: Width to which wider frames are reduced, px.

    Raises:
        ConfigError: The width is too small.
    """

    def __init__(self, width: int = 512) -> None:
        if width < _LEAST_SIDE:
            raise ConfigError(f"width is {width} px, but has to be at least {_LEAST_SIDE}")
        self.width = width
        self._frames: Mapping[Hashable, tuple[int, np.ndarray]] = {}
        self._keys: tuple[tuple[Hashable, int], ...] = ()
        self._flows: list[OpticalFlow | None] = []

    def __call__(
        self, keys: Sequence[tuple[Hashable, int]], frames: Sequence[Any]
    ) -> list[OpticalFlow | None]:
        """Flows of a batch.

        Args:
            keys: The video of each image, and its number there.
            frames: The images, see `grey_frame`. Only the frames of the previous batch are kept.

        Returns:
            The flow of each image back to the previous frame; None if the previous batch did not
            contain that frame, as for the first frame of a video.

        Raises:
            FrameError: A frame has another form, or another size than the previous one.
        """
        keys = tuple(keys)
        if keys != self._keys:
            new, flows = {}, []
            for (video, number), frame in zip(keys, frames, strict=True):
                grey = grey_frame(frame, self.width)
                last, previous = self._frames.get(video, (None, None))
                follows = last is not None and last + 1 == number
                flows.append(estimate_flow(previous, grey) if follows else None)
                new[video] = (number, grey)
            self._frames, self._keys, self._flows = new, keys, flows
        return list(self._flows)

"""Background subtraction by OpenCV's mixture of Gaussians (MOG2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.host_transfer import to_host

from .base import PolicyContext, check_count, check_frame
from .picture import cells_per_block, cells_to_grid, picture_statistics, reduce_picture
from .threshold_policy import Look, ThresholdPolicy, remembered

# OpenCV's constants are made for 8-bit video, for which this is a usual standard deviation.
_GREY_LEVELS = 60.0
_FOREGROUND = 255


class BackgroundSubtractionPolicy(ThresholdPolicy):
    """Executes the blocks that contain foreground, found by OpenCV's MOG2.

    Each stream has a ``cv2.BackgroundSubtractorMOG2``. It sees the picture at the policies' reduced
    resolution (:mod:`.picture`; for blocks of 64 px and more, 16 x 16 cells a block), in grey
    levels, scaled so that the standard deviation of the stream's first frame is 60. The score of a
    block is the share of its cells that are foreground, now or when it was last executed. A block
    that something has left is therefore executed once more; otherwise its output would keep the
    object that is gone.

    A block is scored with a learning rate of 0, and the subtractor learns only from frames that
    have run, at OpenCV's own rate, ``1 / min(2 * frames, history)``.

    OpenCV works in host memory: on a GPU the picture is copied there, so this policy makes the host
    wait once more in each frame. OpenCV's knowledge of a stream cannot be copied: in a copy of a
    converted model, each stream begins with a full frame.

    Args:
        threshold: Share of a block's cells, 0 to 1. Default, if ``target`` is not given either:
            0.02.
        target: Executed rate to hold, above 0 and at most 1; instead of ``threshold``. See
            :class:`~blockcopy_plugins.policy.threshold_policy.ThresholdPolicy`.
        history: Number of frames from which the background is learned, at least 1; an object that
            stands still for a tenth of it becomes background. Default: 500.
        variance_threshold: Squared distance, in standard deviations of the background there, from
            which a cell is foreground; above 0. Default: 16.
        shadows: Whether cells that look like the background but darker count as shadows and not as
            foreground. Default: True.

    Raises:
        ConfigError: If OpenCV is not installed, both threshold and target are given, or an argument
            is out of range.
    """

    DEFAULT_THRESHOLD = 0.02
    # The smallest possible share, one cell of 16 x 16, is above the lowest threshold.
    LOWEST, HIGHEST = 1e-3, 1.0

    def __init__(
        self,
        threshold: float | None = None,
        target: float | None = None,
        history: int = 500,
        variance_threshold: float = 16.0,
        shadows: bool = True,
    ) -> None:
        super().__init__(threshold, target)
        if self.threshold is not None and self.threshold > 1:
            raise ConfigError(
                f"threshold must be a share of a block's cells, from 0 to 1, found {threshold!r}"
            )
        self.history = check_count("history", history, 1, "frames")
        if (
            isinstance(variance_threshold, bool)
            or not isinstance(variance_threshold, (int, float))
            or not 0 < variance_threshold < float("inf")
        ):
            raise ConfigError(
                f"variance_threshold must be a number above 0, found {variance_threshold!r}"
            )
        self.variance_threshold = float(variance_threshold)
        self.shadows = bool(shadows)
        _opencv()

    def look(self, frame: Tensor, context: PolicyContext) -> Look:
        """Separate foreground from background; waits for the device."""
        check_frame(frame, context)
        picture = reduce_picture(frame, context.block_size, context.grid_shape)
        (picture,) = to_host([picture])
        kept, known = remembered(
            self.memory, context, lambda background, _: background.shape == picture.shape[1:]
        )
        cells = cells_per_block(context.block_size)
        shares = torch.zeros(context.grid_shape)
        scores = torch.zeros(context.grid_shape)
        for image, background in enumerate(kept):
            if background is not None:
                shares[image] = background.foreground(picture[image], cells)
                scores[image] = torch.maximum(shares[image], background.executed)
        return Look(context, scores, known, (picture, kept, shares))

    def commit(self, look: Look, grid: Tensor, threshold: float | Tensor) -> None:
        """Let the subtractors learn, and keep each block's executed share of foreground."""
        picture, kept, shares = look.seen
        executed = look.context.host_grid(grid)
        for image, stream in enumerate(look.context.streams):
            background = kept[image]
            if background is None:
                background = self.memory[stream] = self._begin(picture[image], shares[image])
            background.learn(picture[image], self.history)
            background.executed = torch.where(executed[image], shares[image], background.executed)

    def __getstate__(self) -> dict[str, Any]:
        # OpenCV's objects can be neither copied nor saved.
        return {**self.__dict__, "memory": {}, "_looked": None}

    def _begin(self, picture: Tensor, shares: Tensor) -> _Background:
        subtractor = _opencv().createBackgroundSubtractorMOG2(
            history=self.history,
            varThreshold=self.variance_threshold,
            detectShadows=self.shadows,
        )
        _, scale = picture_statistics(picture[None])
        return _Background(
            subtractor, _GREY_LEVELS / float(scale), tuple(picture.shape), torch.zeros_like(shares)
        )


@dataclass(eq=False)
class _Background:
    """The data kept for a stream."""

    subtractor: Any  # cv2.BackgroundSubtractorMOG2
    scale: float  # grey levels to a unit of the frame
    shape: tuple[int, ...]  # of the picture, (3, h, w)
    executed: Tensor  # float32 (GH, GW), share of foreground in each block's last execution
    frames: int = 0

    def foreground(self, picture: Tensor, cells: int) -> Tensor:
        """Return each block's share of foreground, float32 ``(GH, GW)``; learns nothing."""
        mask = torch.from_numpy(self.subtractor.apply(self._image(picture), learningRate=0))
        return cells_to_grid((mask == _FOREGROUND).float(), cells, "mean")

    def learn(self, picture: Tensor, history: int) -> None:
        """Learn from a picture ``(3, h, w)``."""
        self.frames += 1
        # Its own frame count, on which its own rate depends, also goes up with each look.
        rate = 1 / min(2 * self.frames, history)
        self.subtractor.apply(self._image(picture), learningRate=rate)

    def _image(self, picture: Tensor):
        return (picture * self.scale).permute(1, 2, 0).contiguous().numpy()


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            "BackgroundSubtractionPolicy needs OpenCV: pip install opencv-python-headless (or "
            "opencv-python). MotionDetectionPolicy, which keeps a running average, needs torch "
            "alone"
        ) from error
    return cv2

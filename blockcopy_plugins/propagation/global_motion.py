"""Motion of the camera alone: one transformation for the whole picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ConfigError
from .grey_motion import GreyMotion, opencv

if TYPE_CHECKING:
    import numpy as np

_POINTS = 200
_APART = 7  # px of the reduced picture between tracked points
_LEAST_POINTS = 12
_LEAST_AGREE = 0.5
_MISS = 1.0  # px of the reduced picture by which a point may be off


class GlobalMotion(GreyMotion):
    """How far the picture has moved as a whole, by points that are tracked through it.

    Corners (Shi and Tomasi, "Good features to track", CVPR 1994) of the reduced grey picture are
    tracked (pyramids of Lucas and Kanade), and RANSAC finds the transformation that most of them
    agree with. If fewer than half agree, the motion is unknown. Objects that move by themselves are
    not followed, and their cells have a low confidence.

    Args:
        model: ``'similarity'`` (shift, turn, zoom), ``'affine'`` or ``'homography'``.
        width: Approximate width to which wider frames are reduced, px.
        cell: Approximate side of a cell, px of the network's input.

    Raises:
        ConfigError: If a value is out of range, or OpenCV is not installed.
    """

    MODELS = ("similarity", "affine", "homography")

    def __init__(self, model: str = "similarity", width: int = 320, cell: int = 8) -> None:
        super().__init__(width, cell)
        if model not in self.MODELS:
            raise ConfigError(
                f"model of GlobalMotion must be one of {', '.join(self.MODELS)}, found {model!r}"
            )
        self.model = model

    def flow(self, earlier: np.ndarray, later: np.ndarray) -> np.ndarray | None:
        """See :meth:`GreyMotion.flow`."""
        import numpy as np

        cv2 = opencv(type(self).__name__)
        points = cv2.goodFeaturesToTrack(later, _POINTS, 0.01, _APART)
        if points is None or len(points) < _LEAST_POINTS:
            return None
        found, status, _ = cv2.calcOpticalFlowPyrLK(later, earlier, points, None)
        tracked = status[:, 0] == 1
        now, then = points[tracked, 0], found[tracked, 0]
        if len(now) < _LEAST_POINTS:
            return None
        if self.model == "homography":
            matrix, agree = cv2.findHomography(now, then, cv2.RANSAC, _MISS)
        else:
            affine = self.model == "affine"
            fit = cv2.estimateAffine2D if affine else cv2.estimateAffinePartial2D
            matrix, agree = fit(now, then, method=cv2.RANSAC, ransacReprojThreshold=_MISS)
        if matrix is None or agree.mean() < _LEAST_AGREE:
            return None
        height, width = later.shape
        x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        moved = matrix.astype(np.float32) @ np.stack((x, y, np.ones_like(x))).reshape(3, -1)
        if len(moved) == 3:
            moved = moved[:2] / np.where(moved[2] == 0, np.float32(np.nan), moved[2])
        return moved.reshape(2, height, width).transpose(1, 2, 0) - np.stack((x, y), -1)

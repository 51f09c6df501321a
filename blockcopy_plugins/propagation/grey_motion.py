"""Shared code of the estimates of motion that look at pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..policy import PolicyContext
from .base import Motion, check_cell
from .displacement import Displacement, cells_of
from .grey_picture import GreyPicture, grey_pictures, grey_step, mean_of_cells

if TYPE_CHECKING:
    import numpy as np

# Of 255 grey levels, which are six standard deviations of the picture. Below the first, a cell
# shows the same except for noise; if the mean difference of the moved picture over the frame is
# above the second, it is not the same scene.
_NOISE = 4.0
_ANOTHER_SCENE = 16.0
# A cell whose content comes from further away than this share of the picture's width is unknown.
_FURTHEST = 0.25
_LEAST_SIDE = 32  # px of the reduced picture; below it OpenCV's flow fails or sees nothing


class GreyMotion(Motion):
    """Base class of estimates by small grey pictures, compared by OpenCV.

    A cell's confidence says how much better the previous picture explains the present one once it
    has been moved. It is 1 if moving at least halves the difference, or if hardly any
    difference is left, and 0 if moving does not reduce it. A cell whose content comes from outside
    the picture, or from a quarter of its width away, is unknown. If the moved picture is a
    different one as a whole (a cut), nothing is known.

    Args:
        width: Approximate width to which wider frames are reduced, px.
        cell: Approximate side of a cell, px of the network's input; at least two pixels of the
            reduced picture.

    Raises:
        ConfigError: If a value is out of range, or OpenCV is not installed.
    """

    def __init__(self, width: int = 320, cell: int = 8) -> None:
        super().__init__()
        if isinstance(width, bool) or not isinstance(width, int) or width < _LEAST_SIDE:
            raise ConfigError(
                f"width of {type(self).__name__} must be an integer of at least {_LEAST_SIDE} "
                f"(px), found {width!r}"
            )
        opencv(type(self).__name__)
        self.width = width
        # Pixels of the network's input by which a picture's pixel is widened to keep to a budget.
        self.coarser = 0
        self.cell = check_cell(type(self).__name__, cell)

    def see(self, frame: Tensor, context: PolicyContext) -> tuple[GreyPicture, ...]:
        """See :meth:`Motion.see`: the reduced pictures."""
        return grey_pictures(frame, self.width, self.coarser)

    def coarsen(self, size: tuple[int, int]) -> bool:
        """See :meth:`Motion.coarsen`: a smaller picture, and with it fewer and larger cells."""
        step = grey_step(size, self.width, self.coarser + 1)
        if min(size) < 2 * _LEAST_SIDE * step:
            return False
        self.coarser += 1
        return True

    def compare(self, before: Any, now: Any, size: tuple[int, int]) -> Displacement | None:
        """See :meth:`Motion.compare`."""
        if before.pixels.shape != now.pixels.shape or min(now.pixels.shape) < _LEAST_SIDE:
            return None
        return self.displacement(before, now.as_seen_with(before), size)

    def displacement(
        self, before: GreyPicture, now: GreyPicture, size: tuple[int, int]
    ) -> Displacement | None:
        """Estimate the displacement between two pictures of one size and scale of grey.

        Args:
            before: The earlier picture.
            now: The later one.
            size: ``(H, W)`` of the network's input, px.
        """
        earlier, later = before.bytes(), now.bytes()
        flow = self.flow(earlier, later)
        return None if flow is None else self._judged(earlier, later, flow, now.step, size)

    def flow(self, earlier: np.ndarray, later: np.ndarray) -> np.ndarray | None:
        """Find where the content of each pixel was in the earlier picture.

        Args:
            earlier: uint8 ``(h, w)``, grey.
            later: uint8 ``(h, w)``.

        Returns:
            float32 ``(h, w, 2)``: the later picture's pixel p shows what was at ``p + flow(p)``; or
            ``None`` if that cannot be determined.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement flow()")

    def _judged(
        self,
        earlier: np.ndarray,
        later: np.ndarray,
        flow: np.ndarray,
        step: int,
        size: tuple[int, int],
    ) -> Displacement | None:
        import numpy as np

        cv2 = opencv(type(self).__name__)
        height, width = later.shape
        # A sum with NaN or infinity in it is not finite.
        if not np.isfinite(flow.sum()):
            flow = np.nan_to_num(flow, nan=1e6, posinf=1e6, neginf=-1e6)
        x, y = flow[..., 0], flow[..., 1]
        columns = np.arange(width, dtype=np.float32)
        rows = np.arange(height, dtype=np.float32)[:, None]
        places = (x + columns, y + rows, cv2.INTER_LINEAR)
        moved = cv2.remap(earlier, *places, borderMode=cv2.BORDER_REPLICATE)

        side = max(round(self.cell / step), 2)
        cell = side * step
        values = np.stack((cv2.absdiff(later, moved), cv2.absdiff(later, earlier), x, y))
        means = mean_of_cells(torch.from_numpy(values), side, cells_of(size, cell))
        left, copied, x, y = means
        if float(left.mean()) > _ANOTHER_SCENE:
            return None
        better = 2 * (1 - left / copied.clamp_min(_NOISE))
        confidence = torch.where(left <= _NOISE, 1.0, better).clamp(0, 1)
        far = torch.hypot(x, y) > _FURTHEST * width
        found = Displacement(torch.stack((x, y), -1) * -float(step), confidence, cell, size)
        # If half of a cell's pixels came in from outside, its centre was half a pixel inside.
        return found.without_confidence(far | ~found.comes_from_inside(step / 2))


def opencv(wanted_by: str) -> Any:
    """Import OpenCV.

    Args:
        wanted_by: The name of what needs it, for the message.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            f"{wanted_by} needs OpenCV, which cannot be imported ({error}): pip install "
            "opencv-python, use motion='CodecMotion' or your own function, or "
            "propagate='copy'."
        ) from error
    return cv2

"""Motion by dense optical flow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .grey_motion import GreyMotion, opencv

if TYPE_CHECKING:
    import numpy as np


class DISMotion(GreyMotion):
    """How far each cell has moved, by OpenCV's DIS optical flow on a reduced grey picture.

    The method is that of Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016
    (OpenCV's preset ``ULTRAFAST``). The flow is averaged over cells.

    Args:
        width: Approximate width to which wider frames are reduced, px.
        cell: Approximate side of a cell, px of the network's input.

    Raises:
        ConfigError: If a value is out of range, or OpenCV is not installed.
    """

    def flow(self, earlier: np.ndarray, later: np.ndarray) -> np.ndarray | None:
        """See :meth:`GreyMotion.flow`."""
        cv2 = opencv(type(self).__name__)
        # Made again each time: one that is kept can be neither copied nor pickled with the model.
        method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        return method.calc(later, earlier, None)

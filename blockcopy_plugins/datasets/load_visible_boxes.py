"""Pipeline transform that says which part of each person is visible."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from blockcopy_plugins.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadVisibleBoxes(BaseTransform):
    """Makes a mask of each instance's visible box.

    MMDetection's transforms flip, resize, crop, drop and pack masks along with the boxes, so no
    other code has to know about visible boxes. Put it after ``LoadAnnotations`` with
    ``with_bbox=True`` and without masks.

    Required keys: ``img_shape``, ``instances``: for each, ``bbox`` and, if it is only partly
    visible, ``bbox_vis``, both x1, y1, x2, y2 in pixels of the image.

    Added keys: ``gt_masks``, ``PolygonMasks`` with one rectangle for each instance.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the masks.

        Returns:
            ``results`` with ``gt_masks``.
        """
        from mmdet.structures.mask import PolygonMasks

        rectangles = []
        for instance in results["instances"]:
            x1, y1, x2, y2 = instance.get("bbox_vis", instance["bbox"])
            rectangles.append([np.array([x1, y1, x2, y1, x2, y2, x1, y2], np.float32)])
        results["gt_masks"] = PolygonMasks(rectangles, *results["img_shape"][:2])
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

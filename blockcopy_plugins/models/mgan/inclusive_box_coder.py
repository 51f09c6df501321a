"""Box deltas of MMDetection 0.x, where a box's last row and column belong to it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmdet.models.task_modules.coders import LegacyDeltaXYWHBBoxCoder
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor

from blockcopy_plugins.registry import TASK_UTILS


@TASK_UTILS.register_module()
class InclusiveDeltaXYWHBBoxCoder(LegacyDeltaXYWHBBoxCoder):
    """Deltas between inclusive boxes: from pixel x1 to pixel x2, a width of ``x2 - x1 + 1``.

    MMDetection's ``LegacyDeltaXYWHBBoxCoder`` encodes like this, but decodes to boxes that are half
    a pixel larger on each side. With this coder, models trained with MMDetection 0.x (Pedestron)
    give their own boxes.

    Args: those of ``LegacyDeltaXYWHBBoxCoder``.
    """

    def decode(
        self,
        bboxes: Tensor,
        pred_bboxes: Tensor,
        max_shape: Sequence[int] | None = None,
        wh_ratio_clip: float = 16 / 1000,
    ) -> Tensor:
        """Apply deltas to boxes.

        Args:
            bboxes: ``(N, 4)``, inclusive boxes x1, y1, x2, y2 in pixels.
            pred_bboxes: ``(N, 4)`` or ``(N, 4 * classes)``, the deltas of each.
            max_shape: ``(H, W)`` of the image, to whose pixels corners are clipped.
            wh_ratio_clip: Neither width nor height shrinks below this ratio, nor grows beyond its
                inverse.

        Returns:
            Inclusive boxes of the shape of ``pred_bboxes``.
        """
        boxes = get_box_tensor(bboxes)[:, None]
        count = pred_bboxes.shape[1] // 4
        deltas = pred_bboxes.view(len(pred_bboxes), count, 4)
        deltas = deltas * deltas.new_tensor(self.stds) + deltas.new_tensor(self.means)
        most = abs(math.log(wh_ratio_clip))
        size = boxes[..., 2:] - boxes[..., :2] + 1
        center = (boxes[..., :2] + boxes[..., 2:]) * 0.5 + size * deltas[..., :2]
        reach = size * deltas[..., 2:].clamp(-most, most).exp() * 0.5
        corners = torch.cat([center - reach + 0.5, center + reach - 0.5], -1)
        if max_shape is not None:
            last = corners.new_tensor([max_shape[1] - 1, max_shape[0] - 1] * 2)
            corners = corners.clamp(min=torch.zeros_like(last), max=last)
        return corners.view_as(pred_bboxes)

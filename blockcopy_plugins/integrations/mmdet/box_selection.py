"""Selects the boxes that detectors of MMDetection keep, by this package's kernels.

mmcv's suppression on a CPU compares one pair of boxes after the other, and MMDetection sorts all
scores of a map to take the first thousand. Here the same boxes come out in the same order, except
that equal scores, whose order torch's sort does not specify, stay in their original order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import torch
from mmcv.ops import batched_nms
from mmcv.ops import nms as mmcv_nms
from mmdet.models.layers.bbox_nms import multiclass_nms
from mmdet.models.utils import filter_scores_and_topk
from torch import Tensor, nn

from ...ops import library
from ...ops.suppress_boxes import suppress_boxes
from ...ops.top_scores import above
from ..common.best_scores import best_above
from ..common.kernel_inputs import is_served
from ..common.rebound_methods import NamedOthers, StandIn, rebind_methods, rebound, with_names


def nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float | None = None,
    offset: int = 0,
    score_threshold: float = 0,
    max_num: int = -1,
    **former: Any,
) -> tuple[Tensor, Tensor]:
    """See :func:`mmcv.ops.nms`; ``former`` are former names of its arguments."""
    if former or not is_served(boxes, scores) or boxes.shape[1:] != (4,):
        given = dict(former) if iou_threshold is None else {"iou_threshold": iou_threshold}
        given |= {"offset": offset, "score_threshold": score_threshold, "max_num": max_num}
        return mmcv_nms(boxes, scores, **given)
    places = above(scores, score_threshold) if score_threshold > 0 else None
    its = (boxes, scores) if places is None else (boxes[places], scores[places])
    # mmcv's threshold is a float32.
    (threshold,) = struct.unpack("f", struct.pack("f", iou_threshold))
    kept = suppress_boxes(its[0], its[1].sort(descending=True)[1], threshold, offset)
    if max_num > 0:
        kept = kept[:max_num]
    if places is not None:
        kept = places[kept]
    return torch.cat((boxes[kept], scores[kept].unsqueeze(1)), 1), kept


def select_scores(
    scores: Tensor, score_thr: float, topk: int, results: Any = None
) -> tuple[Tensor, Tensor, Tensor, Any]:
    """See :func:`mmdet.models.utils.filter_scores_and_topk`."""
    served = is_served(scores) and scores.dim() == 2 and topk >= 0 and scores.is_contiguous()
    if not served or not isinstance(results, (dict, type(None))):
        return filter_scores_and_topk(scores, score_thr, topk, results)
    values, kept, labels = best_above(scores, score_thr, topk)
    its = None if results is None else {name: value[kept] for name, value in results.items()}
    return values, labels, kept, its


_batched_nms = with_names(batched_nms, {"nms": nms})

_OTHERS = NamedOthers(
    __name__,
    "_OTHERS",
    {
        mmcv_nms: nms,
        batched_nms: _batched_nms,
        multiclass_nms: rebound(multiclass_nms, {batched_nms: _batched_nms}),
        filter_scores_and_topk: select_scores,
    },
)


def select_boxes_fast(model: nn.Module) -> Iterator[StandIn]:
    """Let the heads of a detector select boxes by the kernels.

    Yields:
        Objects whose ``remove()`` undoes it.
    """
    if library.has_kernel("suppress_boxes", "cpu"):
        yield from rebind_methods(model, _OTHERS)

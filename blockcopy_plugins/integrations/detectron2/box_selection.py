"""Selects the boxes that models of Detectron2 keep, by this package's kernels.

The same boxes come out in the same order, except that equal scores, whose order torch's sort and
topk do not specify, stay in their original order.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from types import FunctionType
from typing import Any

from detectron2.layers import batched_nms as detectron2_batched_nms
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.modeling.roi_heads.fast_rcnn import (
    fast_rcnn_inference,
    fast_rcnn_inference_single_image,
)
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torchvision.ops import boxes as torchvision_boxes

from ...ops import library
from ...ops.suppress_boxes import suppress_boxes
from ...ops.top_scores import top_scores
from ..common.best_scores import best_above
from ..common.kernel_inputs import is_served
from ..common.rebound_methods import NamedOthers, StandIn, rebind_methods, rebound, stand_in_for


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """See :func:`torchvision.ops.nms`."""
    if not is_served(boxes, scores):
        return torchvision_boxes.nms(boxes, scores, iou_threshold)
    order = scores.sort(descending=True, stable=True)[1]
    return suppress_boxes(boxes, order, float(iou_threshold))


def _with_this_nms() -> FunctionType:
    """Torchvision's ``batched_nms``, whose ways of keeping classes apart call :func:`nms`."""
    ours = {torchvision_boxes.nms: nms}
    # Each way is wrapped for TorchScript.
    wrapped = {f: inspect.unwrap(f) for f in vars(torchvision_boxes).values() if callable(f)}
    ways = {f: rebound(inner, ours) for f, inner in wrapped.items() if inner is not f}
    return rebound(torchvision_boxes.batched_nms, ways)


_batched_nms = _with_this_nms()


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """See :func:`detectron2.layers.batched_nms`."""
    return _batched_nms(boxes.float(), scores, idxs, iou_threshold)


_best = rebound(fast_rcnn_inference_single_image, {detectron2_batched_nms: batched_nms})
_proposals = rebound(find_top_rpn_proposals, {detectron2_batched_nms: batched_nms})
_predict_proposals = rebound(RPN.predict_proposals, {find_top_rpn_proposals: _proposals})

_OTHERS = NamedOthers(
    __name__,
    "_OTHERS",
    {
        detectron2_batched_nms: batched_nms,
        fast_rcnn_inference: rebound(
            fast_rcnn_inference, {fast_rcnn_inference_single_image: _best}
        ),
        fast_rcnn_inference_single_image: _best,
        find_top_rpn_proposals: _proposals,
    },
)


class RankedProposals(StandIn):
    """Replaces :meth:`RPN.predict_proposals`, which decodes the boxes of all anchors."""

    def replacement(
        self,
        anchors: Sequence[Boxes],
        pred_objectness_logits: Sequence[Tensor],
        pred_anchor_deltas: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """See :meth:`RPN.predict_proposals`."""
        rpn = self.owner
        tensors = [each.tensor for each in anchors]
        if rpn.training or not is_served(*tensors, *pred_objectness_logits, *pred_anchor_deltas):
            given = (anchors, pred_objectness_logits, pred_anchor_deltas, image_sizes)
            return _predict_proposals(rpn, *given)
        most = rpn.pre_nms_topk[False]
        levels = list(zip(tensors, pred_objectness_logits, pred_anchor_deltas, strict=True))
        found = []
        for image, size in enumerate(image_sizes):
            its = [_best_of_level(each, image, most) for each in levels]
            found += _predict_proposals(rpn, *map(list, zip(*its, strict=True)), [size])
        return found


def _best_of_level(level: tuple[Tensor, Tensor, Tensor], image: int, most: int) -> tuple:
    """Anchors, logits and deltas of one image's candidates, as a level of that image alone."""
    anchors, logits, deltas = level
    best, places = top_scores(logits[image], most)
    return Boxes(anchors[places]), best[None], deltas[image][places][None]


class RankedDetections(StandIn):
    """Replaces :meth:`DenseDetector._decode_per_level_predictions`."""

    def replacement(
        self,
        anchors: Boxes,
        pred_scores: Tensor,
        pred_deltas: Tensor,
        score_thresh: float,
        topk_candidates: int,
        image_size: tuple[int, int],
    ) -> Instances:
        """See :meth:`DenseDetector._decode_per_level_predictions`."""
        if not is_served(pred_scores, pred_deltas) or not pred_scores.is_contiguous():
            given = (anchors, pred_scores, pred_deltas, score_thresh, topk_candidates, image_size)
            return self.original(*given)
        scores, rows, classes = best_above(pred_scores, score_thresh, topk_candidates)
        boxes = self.owner.box2box_transform.apply_deltas(pred_deltas[rows], anchors.tensor[rows])
        return Instances(image_size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)


def select_boxes_fast(model: nn.Module) -> Iterator[Any]:
    """Let the heads of a model select boxes by the kernels.

    Yields:
        Objects whose ``remove()`` undoes it.
    """
    if not library.has_kernel("suppress_boxes", "cpu"):
        return
    decode = "_decode_per_level_predictions"
    yield from stand_in_for(model, "predict_proposals", RPN.predict_proposals, RankedProposals)
    yield from stand_in_for(model, decode, getattr(DenseDetector, decode), RankedDetections)
    yield from rebind_methods(model, _OTHERS)

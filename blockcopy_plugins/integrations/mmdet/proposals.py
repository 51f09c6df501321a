"""Region proposals of MMDetection, without sorting the scores of all anchors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.structures.bbox import cat_boxes
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ...ops import library
from ...ops.top_scores import top_scores
from ..common.kernel_inputs import is_served
from ..common.rebound_methods import StandIn, stand_in_for

_METHOD = "_predict_by_feat_single"


@dataclass(eq=False)
class RankedProposals(StandIn):
    """Replaces :meth:`RPNHead._predict_by_feat_single`: the same boxes in the same order."""

    def replacement(
        self, cls_score_list, bbox_pred_list, score_factor_list, mlvl_priors, img_meta, cfg,
        rescale=False, with_nms=True,
    ):  # fmt: skip
        """See :meth:`RPNHead._predict_by_feat_single`."""
        head = self.owner
        cfg = head.test_cfg if cfg is None else cfg
        if not is_served(*cls_score_list, *bbox_pred_list) or head.cls_out_channels > 2:
            given = (cls_score_list, bbox_pred_list, score_factor_list, mlvl_priors, img_meta, cfg)
            return self.original(*given, rescale, with_nms)
        levels = zip(cls_score_list, bbox_pred_list, mlvl_priors, strict=True)
        found = [self._best(*level, cfg.get("nms_pre", -1)) for level in levels]
        scores, deltas, priors = zip(*found, strict=True)
        numbers = [s.new_full(s.shape, i, dtype=torch.long) for i, s in enumerate(scores)]
        boxes = head.bbox_coder.decode(
            cat_boxes(priors), torch.cat(deltas), max_shape=img_meta["img_shape"]
        )
        results = InstanceData(bboxes=boxes, scores=torch.cat(scores), level_ids=torch.cat(numbers))
        return head._bbox_post_process(results, cfg, rescale, with_nms, img_meta)

    def _best(self, logits: Tensor, deltas: Tensor, priors: Any, most: int):
        """Scores, deltas and priors of the candidates of one level."""
        head = self.owner
        logits = logits.permute(1, 2, 0).reshape(-1, head.cls_out_channels)
        scores = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(-1)[:, :-1]
        scores = scores.flatten()
        size = head.bbox_coder.encode_size
        if not 0 < most < len(scores):
            return scores, deltas.permute(1, 2, 0).reshape(-1, size), priors
        scores, places = top_scores(scores, most)
        # The deltas of an anchor lie a map apart, so only those of the kept anchors are read.
        anchors, columns = deltas.shape[0] // size, deltas.shape[2]
        cells, anchor = places // anchors, places % anchors
        each = deltas.unflatten(0, (anchors, size))
        return scores, each[anchor, :, cells // columns, cells % columns], priors[places]


def rank_proposals(model: nn.Module) -> Iterator[StandIn]:
    """Let the RPN of a detector rank by the kernel.

    Yields:
        Objects whose ``remove()`` undoes it.
    """
    if not library.has_kernel("top_scores", "cpu"):
        return
    yield from stand_in_for(model, _METHOD, RPNHead._predict_by_feat_single, RankedProposals)

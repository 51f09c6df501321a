"""The second stage of MGAN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi
from mmdet.utils import InstanceList
from torch import Tensor

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.registry import MODELS


@MODELS.register_module()
class MGANRoIHead(StandardRoIHead):
    """RoI features, attention to the visible part, box head.

    Args:
        mgan_head: The attention, see :class:`~.mask_guided_attention.MGANHead`.
        **kwargs: Arguments of MMDetection's ``StandardRoIHead``.
    """

    def __init__(self, mgan_head: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mgan_head = MODELS.build(mgan_head)

    def _bbox_forward(self, x: tuple[Tensor, ...], rois: Tensor) -> dict[str, Tensor]:
        """Run the head.

        Args:
            x: Feature maps.
            rois: ``(n, 5)``, number of the image and box in pixels.

        Returns:
            ``cls_score`` ``(n, classes + 1)``, ``bbox_pred`` ``(n, 4 * classes)``, ``bbox_feats``
            (attended) and ``visible_logits`` ``(n, 1, h, w)``.
        """
        features = self.bbox_roi_extractor(x[: self.bbox_roi_extractor.num_inputs], rois)
        if self.with_shared_head:
            features = self.shared_head(features)
        features, visible_logits = self.mgan_head(features)
        cls_score, bbox_pred = self.bbox_head(features)
        return {
            "cls_score": cls_score,
            "bbox_pred": bbox_pred,
            "bbox_feats": features,
            "visible_logits": visible_logits,
        }

    def loss(
        self,
        x: tuple[Tensor, ...],
        rpn_results_list: InstanceList,
        batch_data_samples: SampleList,
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            x: Feature maps.
            rpn_results_list: Proposals of each image; changed, as MMDetection's heads do.
            batch_data_samples: With ``gt_instances``: ``bboxes``, ``labels``, and ``masks``, the
                visible part of each.

        Returns:
            The box head's losses, ``loss_mask`` and ``loss_occ``.

        Raises:
            ConfigError: If the visible parts are not given.
        """
        gt_instances, ignored, _ = unpack_gt_instances(batch_data_samples)
        for instances in gt_instances:
            if len(instances) and "masks" not in instances:
                raise ConfigError(
                    f"gt_instances have {sorted(instances.keys())} and no masks, from which MGAN "
                    "learns what is visible; add dict(type='blockcopy_plugins.LoadVisibleBoxes') "
                    "after LoadAnnotations in the training pipeline"
                )
        results = [
            self._sample(*image, [level[i][None] for level in x])
            for i, image in enumerate(zip(rpn_results_list, gt_instances, ignored, strict=True))
        ]
        rois = bbox2roi([result.priors for result in results])
        found = self._bbox_forward(x, rois)
        losses = self.bbox_head.loss_and_target(
            cls_score=found["cls_score"],
            bbox_pred=found["bbox_pred"],
            rois=rois,
            sampling_results=results,
            rcnn_train_cfg=self.train_cfg,
        )["loss_bbox"]
        # An image's priors: first the positive ones, then the negative ones.
        positive = torch.cat(
            [
                torch.arange(len(result.priors), device=rois.device) < len(result.pos_priors)
                for result in results
            ]
        )
        visible = [instances.get("masks") for instances in gt_instances]
        losses.update(
            self.mgan_head.loss(
                found["visible_logits"][positive],
                self.mgan_head.targets(results, visible),
                found["cls_score"][positive],
                torch.cat([result.pos_gt_labels for result in results]),
            )
        )
        return losses

    def _sample(self, proposals, gt_instances, ignored, features) -> SamplingResult:
        """Assign an image's proposals to its persons and draw those to learn from."""
        proposals.priors = proposals.pop("bboxes")
        assigned = self.bbox_assigner.assign(proposals, gt_instances, ignored)
        return self.bbox_sampler.sample(assigned, proposals, gt_instances, feats=features)

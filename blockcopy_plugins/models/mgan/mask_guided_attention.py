"""The attention of MGAN: how visible a person is at each place of a region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures.mask import BitmapMasks, PolygonMasks, mask_target
from mmengine.config import ConfigDict
from mmengine.model import BaseModule
from torch import Tensor, nn

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.registry import MODELS


@MODELS.register_module()
class MGANHead(BaseModule):
    """Predicts the visible part of each region and multiplies features by it.

    A few 3x3 convolutions and one of 1x1 give a mask (for the paper, see the package). It has two
    losses: cross entropy of the mask with the visible part of the person (``loss_mask``), and
    classification of the positive regions, weighted by how much of each is occluded (``loss_occ``).

    Args:
        num_convs: Number of 3x3 convolutions.
        in_channels: Channels of the RoI features.
        conv_out_channels: Channels of the convolutions.
        attends: The factor of the mask. ``"hidden"``: the output of the convolutions, as in
            Pedestron. ``"rois"``: the RoI features, as in the authors' own code since May 2020.
            Weights for one of them do not work for the other, although all keys fit.
        roi_feat_size: Side of the RoI features, in cells.
        loss_mask: Binary cross entropy of masks ``(n, 1, h, w)``; its weight is the paper's alpha.
        loss_occ: Cross entropy of classes; its weight is the paper's beta.
        init_cfg: How weights are drawn, see MMEngine.

    Raises:
        ConfigError: If ``attends`` is neither.
    """

    def __init__(
        self,
        num_convs: int = 2,
        in_channels: int = 512,
        conv_out_channels: int = 512,
        attends: str = "hidden",
        roi_feat_size: int = 7,
        loss_mask: Mapping[str, Any] | None = None,
        loss_occ: Mapping[str, Any] | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if attends not in ("hidden", "rois"):
            raise ConfigError(f"attends is {attends!r}, expected 'hidden' or 'rois'")
        self.attends = attends
        self.roi_feat_size = roi_feat_size
        channels = [in_channels] + [conv_out_channels] * num_convs
        self.convs = nn.ModuleList(
            ConvModule(before, after, 3, padding=1)
            for before, after in zip(channels, channels[1:], strict=False)
        )
        self.conv_logits = nn.Conv2d(channels[-1], 1, 1)
        self.loss_mask = MMDET_MODELS.build(
            loss_mask or {"type": "mmdet.CrossEntropyLoss", "use_mask": True, "loss_weight": 0.5}
        )
        self.loss_occ = MMDET_MODELS.build(
            loss_occ or {"type": "mmdet.CrossEntropyLoss", "loss_weight": 1.0}
        )

    def forward(self, roi_feats: Tensor) -> tuple[Tensor, Tensor]:
        """Attend to the visible part.

        Args:
            roi_feats: ``(n, in_channels, h, w)``.

        Returns:
            The features times the mask, ``(n, C, h, w)``, and the mask's logits ``(n, 1, h, w)``.
        """
        hidden = roi_feats
        for conv in self.convs:
            hidden = conv(hidden)
        logits = self.conv_logits(hidden)
        features = hidden if self.attends == "hidden" else roi_feats
        return logits.sigmoid() * features, logits

    def targets(
        self,
        sampling_results: Sequence[SamplingResult],
        visible: Sequence[BitmapMasks | PolygonMasks],
    ) -> Tensor:
        """The visible part of the person that each positive region was assigned to.

        Args:
            sampling_results: For each image.
            visible: For each image, a mask for each person.

        Returns:
            ``(positives, h, w)``, of 0 and 1, float32. A cell is visible where its centre is (or
            half of it, if masks are bitmaps).
        """
        return mask_target(
            [result.pos_priors for result in sampling_results],
            [result.pos_assigned_gt_inds for result in sampling_results],
            visible,
            ConfigDict(mask_size=self.roi_feat_size),
        )

    def loss(
        self, logits: Tensor, targets: Tensor, cls_score: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """The two losses on the positive regions of a batch.

        Args:
            logits: ``(positives, 1, h, w)``.
            targets: ``(positives, h, w)``, see :meth:`targets`.
            cls_score: ``(positives, classes + 1)``, the box head's logits.
            labels: ``(positives,)``, classes.

        Returns:
            ``loss_mask`` and ``loss_occ``; zeros if no region is positive.
        """
        if not len(logits):
            nothing = logits.sum()
            return {"loss_mask": nothing, "loss_occ": nothing + cls_score.sum()}
        occluded = 1 - targets.mean((1, 2))
        return {
            # One mask for all classes.
            "loss_mask": self.loss_mask(logits, targets, torch.zeros_like(labels)),
            "loss_occ": self.loss_occ(cls_score, labels, occluded),
        }

"""CSP's head: where a person's centre is, how tall the person is, and the rounding offset."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.cnn import ConvModule, Scale
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.utils import filter_scores_and_topk
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.registry import MODELS

from .targets import make_targets


@MODELS.register_module()
class CSPHead(BaseDenseHead):
    """Centre, scale and offset maps of one class, and the boxes in them (Liu et al., CVPR 2019).

    A cell's box has its centre in the cell, moved by the offset, its height by the scale, and a
    width that is a fixed share of the height.

    Args:
        num_classes: 1; CSP separates persons from everything else.
        in_channels: Channels of the one input map.
        feat_channels: Channels of the maps in between.
        stacked_convs: 3x3 convolutions of each branch before its last.
        stride: Stride of the input map.
        aspect_ratio: Width of a box divided by its height; 0.41 in CityPersons and Caltech.
        norm_cfg: Norm after the stacked convolutions: group norm as in Pedestron, whose statistics
            are those of the whole map, or batch norm as in the authors' own code. None: no norm,
            with biases.
        min_height: In pixels. Lower boxes are ignored in training: the loss of the scale divides by
            the log of the height in cells.
        loss_center: Gets logits, centres, Gaussian, valid; see :class:`~.CenterFocalLoss`.
        loss_scale: A regression loss. It gets the predicted scale divided by the true one, and 1.
        loss_offset: A regression loss, in cells.
        train_cfg: Unused; present so that detectors can pass it.
        test_cfg: ``nms_pre`` (number of cells with the best scores), ``score_thr``, ``nms``,
            ``max_per_img``, ``min_bbox_size``.
        init_cfg: How weights are drawn or where they are loaded from, see MMEngine.

    Raises:
        ConfigError: If there is more than one class, or ``min_height`` is less than two cells.
    """

    def __init__(
        self,
        num_classes: int = 1,
        in_channels: int = 768,
        feat_channels: int = 256,
        stacked_convs: int = 1,
        stride: int = 4,
        aspect_ratio: float = 0.41,
        norm_cfg: dict | None = None,
        min_height: float = 8.0,
        loss_center: dict | None = None,
        loss_scale: dict | None = None,
        loss_offset: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if init_cfg is None:
            init_cfg = {
                "type": "Normal",
                "layer": "Conv2d",
                "std": 0.01,
                "override": {
                    "type": "Normal",
                    "name": "center_pred",
                    "std": 0.01,
                    "bias_prob": 0.01,
                },
            }
        super().__init__(init_cfg)
        if num_classes != 1:
            raise ConfigError(
                f"CSPHead finds one class, but num_classes is {num_classes}; set it to 1"
            )
        if min_height < 2 * stride:
            raise ConfigError(
                f"min_height must be at least two cells, {2 * stride} px, but is {min_height}: the "
                "loss of the scale divides by the log of the height in cells"
            )
        self.num_classes = num_classes
        self.stride = stride
        self.aspect_ratio = aspect_ratio
        self.min_height = min_height
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        self.loss_center = MMDET_MODELS.build(
            loss_center or {"type": "blockcopy_plugins.CenterFocalLoss", "loss_weight": 0.01}
        )
        smooth_l1 = {"type": "mmdet.SmoothL1Loss", "beta": 1.0}
        self.loss_scale = MMDET_MODELS.build(loss_scale or {**smooth_l1, "loss_weight": 1.0})
        self.loss_offset = MMDET_MODELS.build(loss_offset or {**smooth_l1, "loss_weight": 0.1})

        def branch() -> nn.Sequential:
            return nn.Sequential(
                *(
                    ConvModule(
                        feat_channels if i else in_channels,
                        feat_channels,
                        3,
                        padding=1,
                        norm_cfg=norm_cfg,
                    )
                    for i in range(stacked_convs)
                )
            )

        self.center_convs, self.scale_convs, self.offset_convs = branch(), branch(), branch()
        self.center_pred = nn.Conv2d(feat_channels, 1, 3, padding=1)
        self.scale_pred = nn.Conv2d(feat_channels, 1, 3, padding=1)
        self.offset_pred = nn.Conv2d(feat_channels, 2, 3, padding=1)
        self.scale_factor = Scale(1.0)
        self.offset_factor = Scale(1.0)

    def forward(self, feats: tuple[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Run the three branches.

        Args:
            feats: One map ``(N, in_channels, h, w)``.

        Returns:
            Logits of the centres ``(N, 1, h, w)``, logs of the heights in cells ``(N, 1, h, w)``,
            and offsets y, x of the centres from the middles of their cells, in cells,
            ``(N, 2, h, w)``; the last two in float32 at least.

        Raises:
            ConfigError: If there is not one map.
        """
        if len(feats) != 1:
            raise ConfigError(f"CSPHead takes one map, but got {len(feats)}; use CSPNeck before it")
        center = self.center_pred(self.center_convs(feats[0]))
        scale = self.scale_factor(_wide(self.scale_pred(self.scale_convs(feats[0]))))
        offset = self.offset_factor(_wide(self.offset_pred(self.offset_convs(feats[0]))))
        return center, scale, offset

    def loss_by_feat(
        self,
        centers: Tensor,
        scales: Tensor,
        offsets: Tensor,
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData | None] | None = None,
    ) -> dict[str, Tensor]:
        """The losses of :meth:`forward`'s maps.

        Args:
            centers: float ``(N, 1, h, w)``.
            scales: float ``(N, 1, h, w)``.
            offsets: float ``(N, 2, h, w)``.
            batch_gt_instances: For each image; ``bboxes`` ``(K, 4)``, xyxy in pixels of the input.
            batch_img_metas: For each image; unused.
            batch_gt_instances_ignore: For each image, or None; ``bboxes`` ``(M, 4)``, regions in
                which no cell is a negative.

        Returns:
            ``loss_center``, ``loss_scale``, ``loss_offset``: scalars.
        """
        ignored = batch_gt_instances_ignore or [None] * len(batch_gt_instances)
        targets = [
            make_targets(
                _boxes(found),
                _boxes(left_out),
                tuple(centers.shape[2:]),
                self.stride,
                self.min_height,
            )
            for found, left_out in zip(batch_gt_instances, ignored, strict=True)
        ]

        def batch(name: str) -> Tensor:
            return torch.stack([getattr(t, name) for t in targets]).to(centers.device)

        centers, scales, offsets = centers.float(), scales.float(), offsets.float()
        true_center, scale_known = batch("centers"), batch("scale_known")
        # Where no height is known the weight is 0, and the divisor is 1.
        true_scale = torch.where(scale_known > 0, batch("scale"), 1.0)
        return {
            "loss_center": self.loss_center(
                centers, true_center, batch("gaussian"), batch("valid")
            ),
            "loss_scale": self.loss_scale(
                scales / true_scale,
                torch.ones_like(scales),
                weight=scale_known,
                avg_factor=scale_known.sum().clamp(min=1),
            ),
            "loss_offset": self.loss_offset(
                offsets,
                batch("offset"),
                weight=true_center.expand_as(offsets),
                avg_factor=true_center.sum().clamp(min=1),
            ),
        }

    def predict_by_feat(
        self,
        centers: Tensor,
        scales: Tensor,
        offsets: Tensor,
        batch_img_metas: list[dict],
        cfg: ConfigDict | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Find the boxes in :meth:`forward`'s maps.

        Args:
            centers: float ``(N, 1, h, w)``.
            scales: float ``(N, 1, h, w)``.
            offsets: float ``(N, 2, h, w)``.
            batch_img_metas: For each image: ``img_shape``, ``(H, W)`` of the network's input
                without padding, and with ``rescale`` its ``scale_factor``, (width, height).
            cfg: Used instead of ``test_cfg``.
            rescale: Whether boxes are in pixels of the original image, instead of the input.
            with_nms: Whether overlapping boxes and more than ``max_per_img`` are dropped.

        Returns:
            For each image ``bboxes`` ``(K, 4)``, xyxy, ``scores`` ``(K,)`` and ``labels`` ``(K,)``,
            all 0, best first.
        """
        cfg = self.test_cfg if cfg is None else cfg
        return [
            self._predict_image(
                centers[i].detach(),
                scales[i].detach(),
                offsets[i].detach(),
                meta,
                cfg,
                rescale,
                with_nms,
            )
            for i, meta in enumerate(batch_img_metas)
        ]

    def _predict_image(
        self,
        centers: Tensor,
        scales: Tensor,
        offsets: Tensor,
        meta: dict,
        cfg: Any,
        rescale: bool,
        with_nms: bool,
    ) -> InstanceData:
        width = centers.shape[2]
        scores, labels, cells, _ = filter_scores_and_topk(
            centers.float().sigmoid().view(-1, 1), cfg.get("score_thr", 0.0), cfg.nms_pre
        )
        offset = offsets.reshape(2, -1)[:, cells].float()
        middle = self.stride // 2
        y = torch.div(cells, width, rounding_mode="floor") * self.stride + middle
        x = cells % width * self.stride + middle
        y, x = y + offset[0] * self.stride, x + offset[1] * self.stride
        half = scales.reshape(-1)[cells].float().exp() * self.stride / 2
        bottom, right = meta["img_shape"][0] - 1, meta["img_shape"][1] - 1
        boxes = torch.stack(
            [
                (x - self.aspect_ratio * half).clamp(0, right),
                (y - half).clamp(0, bottom),
                (x + self.aspect_ratio * half).clamp(0, right),
                (y + half).clamp(0, bottom),
            ],
            -1,
        )
        return self._bbox_post_process(
            InstanceData(bboxes=boxes, scores=scores, labels=labels), cfg, rescale, with_nms, meta
        )


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _boxes(instances: InstanceData | None) -> Tensor:
    if instances is None:
        return torch.zeros(0, 4)
    boxes = instances.bboxes
    return getattr(boxes, "tensor", boxes)

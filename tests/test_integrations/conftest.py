"""Tiny detectors of MMDetection with weights that make their results differ."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

CLASSES = 3
CHANNELS = 16
ANCHORS = dict(type="AnchorGenerator", scales=[4], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32])
CODER = dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2])


def preprocessor(divisor=32):
    return dict(
        type="DetDataPreprocessor",
        mean=[120.0, 110.0, 100.0],
        std=[60.0, 55.0, 50.0],
        bgr_to_rgb=True,
        pad_size_divisor=divisor,
    )


def backbone(**changed):
    return dict(
        type="ResNet",
        depth=18,
        base_channels=8,
        stem_channels=8,
        norm_eval=True,
        init_cfg=None,
        **changed,
    )


def neck(levels=4):
    return dict(type="FPN", in_channels=[8, 16, 32, 64], out_channels=CHANNELS, num_outs=levels)


def mask_rcnn(**changed):
    roi = dict(type="SingleRoIExtractor", out_channels=CHANNELS, featmap_strides=[4, 8, 16, 32])
    config = dict(
        type="MaskRCNN",
        data_preprocessor=preprocessor(),
        backbone=backbone(),
        neck=neck(),
        rpn_head=dict(
            type="RPNHead",
            in_channels=CHANNELS,
            feat_channels=CHANNELS,
            anchor_generator=ANCHORS,
            bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
        ),
        roi_head=dict(
            type="StandardRoIHead",
            bbox_roi_extractor=dict(
                roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=0), **roi
            ),
            bbox_head=dict(
                type="Shared2FCBBoxHead",
                in_channels=CHANNELS,
                fc_out_channels=32,
                roi_feat_size=7,
                num_classes=CLASSES,
                bbox_coder=CODER,
            ),
            mask_roi_extractor=dict(
                roi_layer=dict(type="RoIAlign", output_size=14, sampling_ratio=0), **roi
            ),
            mask_head=dict(
                type="FCNMaskHead",
                num_convs=1,
                in_channels=CHANNELS,
                conv_out_channels=CHANNELS,
                num_classes=CLASSES,
            ),
        ),
        train_cfg=dict(rpn=None, rcnn=None),
        test_cfg=dict(
            rpn=dict(
                nms_pre=200,
                max_per_img=50,
                nms=dict(type="nms", iou_threshold=0.7),
                min_bbox_size=0,
            ),
            rcnn=dict(
                score_thr=0.3,
                nms=dict(type="nms", iou_threshold=0.5),
                max_per_img=20,
                mask_thr_binary=0.5,
            ),
        ),
    )
    return {**config, **changed}


def dense_head(kind):
    common = dict(
        type=kind,
        num_classes=CLASSES,
        in_channels=CHANNELS,
        stacked_convs=1,
        feat_channels=CHANNELS,
    )
    if kind == "RetinaHead":
        common["anchor_generator"] = dict(
            type="AnchorGenerator",
            octave_base_scale=4,
            scales_per_octave=1,
            ratios=[1.0],
            strides=[4, 8, 16, 32],
        )
        common["bbox_coder"] = dict(type="DeltaXYWHBBoxCoder")
    else:
        common["strides"] = [4, 8, 16, 32]
        common["norm_cfg"] = dict(type="GN", num_groups=4, requires_grad=True)
    return common


def one_stage(kind):
    return dict(
        type={"RetinaHead": "RetinaNet", "FCOSHead": "FCOS"}[kind],
        data_preprocessor=preprocessor(),
        backbone=backbone(),
        neck=neck(),
        bbox_head=dense_head(kind),
        test_cfg=dict(
            nms_pre=100, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=20
        ),
    )


def with_weights(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights of the scale that training would give: activations and scores that differ."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


class Tiny:
    """Makers of configs, models and data; one object, so that tests need one fixture."""

    classes = CLASSES
    mask_rcnn = staticmethod(mask_rcnn)
    one_stage = staticmethod(one_stage)
    backbone = staticmethod(backbone)
    with_weights = staticmethod(with_weights)

    @staticmethod
    def build(config, seed=0):
        from mmdet.registry import MODELS
        from mmengine.config import ConfigDict
        from mmengine.registry import DefaultScope

        with warnings.catch_warnings(), DefaultScope.overwrite_default_scope("mmdet"):
            warnings.simplefilter("ignore")
            return with_weights(MODELS.build(ConfigDict(config)), seed)

    @staticmethod
    def sample(size, video_id=None, frame_id=None, scale=1.0, original=None):
        """A data sample of a picture of ``size`` (H, W) px."""
        from mmdet.structures import DetDataSample

        height, width = size
        info = dict(
            img_shape=size,
            ori_shape=original or (round(height / scale), round(width / scale)),
            scale_factor=(scale, scale),
            img_id=0,
        )
        if video_id is not None:
            info.update(video_id=video_id, frame_id=frame_id)
        return DetDataSample(metainfo=info)

    @classmethod
    def batch(cls, pictures, **info):
        """What a dataloader gives: uint8 pictures (3, H, W) and their samples."""
        samples = [
            cls.sample(tuple(p.shape[1:]), **{k: v[i] for k, v in info.items()})
            for i, p in enumerate(pictures)
        ]
        return dict(inputs=list(pictures), data_samples=samples)

    @staticmethod
    def picture(size, seed):
        """Large soft shapes rather than noise, uint8 (3, H, W)."""
        generator = torch.Generator().manual_seed(seed)
        small = torch.rand(1, 3, 5, 6, generator=generator) * 255
        large = nn.functional.interpolate(small, size=size, mode="bicubic")
        return large[0].clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="session")
def tiny():
    pytest.importorskip("mmdet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mmdet.utils import register_all_modules

        register_all_modules(init_default_scope=False)
    return Tiny


SEG_CLASSES = 4


def segmentor(kind="deeplabv3plus", mode="whole"):
    """Configs of segmentors on a ResNet of 8 channels, stride 8."""
    norm = dict(type="BN", requires_grad=True)
    dilated = dict(
        type="ResNetV1c",
        depth=18,
        base_channels=8,
        stem_channels=8,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        norm_cfg=norm,
        contract_dilation=True,
    )
    head = dict(
        in_channels=64,
        in_index=3,
        channels=16,
        num_classes=SEG_CLASSES,
        norm_cfg=norm,
        align_corners=False,
    )
    made = dict(
        type="EncoderDecoder",
        data_preprocessor=dict(
            type="SegDataPreProcessor", mean=[120.0] * 3, std=[60.0] * 3, bgr_to_rgb=True
        ),
        backbone=dilated,
        test_cfg=dict(mode=mode, crop_size=(64, 64), stride=(32, 32)),
    )
    if kind == "deeplabv3plus":
        made["decode_head"] = dict(
            type="DepthwiseSeparableASPPHead",
            dilations=(1, 12, 24, 36),
            c1_in_channels=8,
            c1_channels=4,
            **head,
        )
    elif kind == "pspnet":
        made["decode_head"] = dict(type="PSPHead", pool_scales=(1, 2, 3, 6), **head)
    elif kind == "danet":  # three maps of logits, of which one is used
        made["decode_head"] = dict(type="DAHead", pam_channels=4, **head)
    elif kind == "binary":
        made["decode_head"] = dict(
            type="FCNHead", threshold=0.5, **{**head, "num_classes": 2, "out_channels": 1}
        )
    elif kind == "ocr":
        made.update(type="CascadeEncoderDecoder", num_stages=2)
        made["decode_head"] = [
            dict(type="FCNHead", num_convs=1, **head),
            dict(type="OCRHead", ocr_channels=8, **head),
        ]
    elif kind == "point_rend":
        made.update(type="CascadeEncoderDecoder", num_stages=2, backbone=backbone(), neck=neck())
        shared = {**head, "in_channels": [CHANNELS] * 4, "in_index": [0, 1, 2, 3]}
        point = {**head, "in_channels": [CHANNELS], "in_index": [0]}
        del point["norm_cfg"]
        made["decode_head"] = [
            dict(type="FPNHead", feature_strides=[4, 8, 16, 32], **shared),
            dict(type="PointHead", num_fcs=1, coarse_pred_each_layer=True, **point),
        ]
        made["test_cfg"].update(subdivision_steps=2, subdivision_num_points=64, scale_factor=2)
    return made


def _even_out(classifier, args, logits):
    """Each class wins somewhere: logits of mean 0 and deviation 1 in one picture."""
    mean, std = logits.mean((0, 2, 3)), logits.std((0, 2, 3))
    classifier.bias.data.sub_(mean).div_(std)
    classifier.weight.data.div_(std[:, None, None, None])
    return (logits - mean[:, None, None]) / std[:, None, None]


class TinySegmentors(Tiny):
    """As :class:`Tiny`, of MMSegmentation."""

    classes = SEG_CLASSES
    config = staticmethod(segmentor)

    @staticmethod
    def build(config, seed=0):
        from mmengine.config import ConfigDict
        from mmengine.registry import DefaultScope
        from mmseg.registry import MODELS

        with warnings.catch_warnings(), DefaultScope.overwrite_default_scope("mmseg"):
            warnings.simplefilter("ignore")
            model = with_weights(MODELS.build(ConfigDict(config)), seed)
        for path, module in model.named_modules():
            if path.endswith("conv_seg"):
                module.register_forward_hook(_even_out)
        with torch.no_grad():
            model.test_step(TinySegmentors.batch([Tiny.picture((96, 128), seed=9)]))
        for module in model.modules():
            module._forward_hooks.clear()
        return model

    @staticmethod
    def sample(size, video_id=None, frame_id=None, scale=1.0, original=None):
        """A data sample of a picture of ``size`` (H, W) px."""
        from mmseg.structures import SegDataSample

        info = Tiny.sample(size, video_id, frame_id, scale, original).metainfo
        return SegDataSample(metainfo=info)


@pytest.fixture(scope="session")
def tiny_seg():
    pytest.importorskip("mmseg")
    pytest.importorskip("mmdet")  # for what both share
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mmseg.utils import register_all_modules

        register_all_modules(init_default_scope=False)
    return TinySegmentors

"""The demo's detector (demo/README.md) as a model of Detectron2.

    python demo/convert_to_detectron2.py work_dirs/maskrcnn_vtest_detectron2.pth
    python tools/detectron2_video.py --config-file configs/detectron2/mask_rcnn_R_18_thin_vtest.py \
        --input demo/vtest_excerpt.mp4 --output out.mp4

It is the same network as configs/demo/mask-rcnn_r18-thin_vtest.py: a ResNet-18 of half the usual
channels without its last stage, three pyramid levels, upright anchors, small RoI heads.
"""

from omegaconf import OmegaConf

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)

levels = ["p2", "p3", "p4"]
scales = (1.0 / 4, 1.0 / 8, 1.0 / 16)


def stage(first, channels, stride):
    return L(ResNet.make_stage)(
        block_class=BasicBlock,
        num_blocks=2,
        in_channels=first,
        out_channels=channels,
        stride_per_block=[stride, 1],
        norm="BN",
    )


def pooler(size):
    return L(ROIPooler)(
        output_size=size,
        scales=scales,
        sampling_ratio=1,
        pooler_type="ROIAlignV2",
        # Boxes of 32 px go to the second level.
        canonical_box_size=32,
        canonical_level=2,
    )


model = L(GeneralizedRCNN)(
    backbone=L(FPN)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=32, norm="BN"),
            stages=[stage(32, 32, 1), stage(32, 64, 2), stage(64, 128, 2)],
            out_features=["res2", "res3", "res4"],
        ),
        in_features=["res2", "res3", "res4"],
        out_channels=64,
        norm="BN",
    ),
    proposal_generator=L(RPN)(
        in_features=levels,
        head=L(StandardRPNHead)(in_channels=64, num_anchors=2),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[20, 28], [40, 56], [80, 112]],
            aspect_ratios=[2.4],
            strides=[4, 8, 16],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(
            thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=128,
        positive_fraction=0.5,
        pre_nms_topk=(400, 200),
        post_nms_topk=(200, 100),
        nms_thresh=0.7,
    ),
    roi_heads=L(StandardROIHeads)(
        num_classes=1,
        batch_size_per_image=32,
        positive_fraction=0.5,
        proposal_matcher=L(Matcher)(
            thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
        ),
        box_in_features=levels,
        box_pooler=pooler(7),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=ShapeSpec(channels=64, height=7, width=7),
            conv_dims=[],
            fc_dims=[256, 256],
        ),
        box_predictor=L(FastRCNNOutputLayers)(
            input_shape=ShapeSpec(channels=256),
            test_score_thresh=0.05,
            test_topk_per_image=50,
            box2box_transform=L(Box2BoxTransform)(weights=(10, 10, 5, 5)),
            num_classes=1,
        ),
        mask_in_features=levels,
        mask_pooler=pooler(14),
        mask_head=L(MaskRCNNConvUpsampleHead)(
            input_shape=ShapeSpec(channels=64, width=14, height=14),
            num_classes=1,
            conv_dims=[64, 64, 64],
        ),
    ),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
)

# At the video's own size; other sizes are scaled to fit it.
dataloader = OmegaConf.create()
dataloader.test = L(build_detection_test_loader)(
    dataset=None,
    mapper=L(DatasetMapper)(
        is_train=False,
        augmentations=[L(T.ResizeShortestEdge)(short_edge_length=576, max_size=768)],
        image_format="RGB",
    ),
)
train = dict(init_checkpoint="work_dirs/maskrcnn_vtest_detectron2.pth", device="cpu")
metadata = dict(classes=["person"])

blockcopy = dict(block_size=64, policy=dict(type="GainPolicy", target=0.3))

# A light CSP for the video of the demo, dense: persons of 30-100 px at 768x576.
#
# Compared with csp_r50: a ResNet-18 with half the channels, a neck of 32 channels a level, branches
# of 64, and batch norm in the head, which unlike group norm needs no whole maps. No weights are kept
# here; csp_r18-thin_vtest_train.py makes them.
_base_ = "./mask-rcnn_r18-thin_vtest.py"

load_from = None

model = dict(
    _delete_=True,
    type="blockcopy_plugins.CSP",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=16,
    ),
    backbone=dict(
        type="ResNet",
        depth=18,
        base_channels=32,
        num_stages=4,
        strides=(1, 2, 2, 1),
        dilations=(1, 1, 1, 2),
        out_indices=(1, 2, 3),
        frozen_stages=-1,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        style="pytorch",
    ),
    neck=dict(
        type="blockcopy_plugins.CSPNeck",
        in_channels=[64, 128, 256],
        out_channels=32,
        upsample=[2, 4, 4],
    ),
    bbox_head=dict(
        type="blockcopy_plugins.CSPHead",
        num_classes=1,
        in_channels=96,
        feat_channels=64,
        stride=4,
        norm_cfg=dict(type="BN", requires_grad=True),
        loss_center=dict(type="blockcopy_plugins.CenterFocalLoss", loss_weight=0.01),
        loss_scale=dict(type="SmoothL1Loss", beta=1.0, loss_weight=1.0),
        loss_offset=dict(type="SmoothL1Loss", beta=1.0, loss_weight=0.1),
    ),
    train_cfg=dict(),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type="nms", iou_threshold=0.5),
        max_per_img=50,
    ),
)
test_evaluator = dict(metric=["bbox"])

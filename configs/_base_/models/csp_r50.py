# CSP with ResNet-50 as in Pedestron (csp_r50.py), for one class, at a stride of 4 px.
model = dict(
    type="blockcopy_plugins.CSP",
    data_preprocessor=dict(
        type="mmdet.DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=16,
    ),
    backbone=dict(
        type="mmdet.ResNet",
        depth=50,
        num_stages=4,
        # The last stage keeps the stride of 16.
        strides=(1, 2, 2, 1),
        dilations=(1, 1, 1, 2),
        out_indices=(1, 2, 3),
        frozen_stages=-1,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        style="pytorch",
        init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet50"),
    ),
    neck=dict(
        type="blockcopy_plugins.CSPNeck",
        in_channels=[512, 1024, 2048],
        out_channels=256,
        upsample=[2, 4, 4],
    ),
    bbox_head=dict(
        type="blockcopy_plugins.CSPHead",
        num_classes=1,
        in_channels=768,
        feat_channels=256,
        stride=4,
        norm_cfg=dict(type="GN", num_groups=32, requires_grad=True),
        loss_center=dict(type="blockcopy_plugins.CenterFocalLoss", loss_weight=0.01),
        loss_scale=dict(type="mmdet.SmoothL1Loss", beta=1.0, loss_weight=1.0),
        loss_offset=dict(type="mmdet.SmoothL1Loss", beta=1.0, loss_weight=0.1),
    ),
    train_cfg=dict(),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.1,
        # Pedestron counts a box's last pixel as part of it.
        nms=dict(type="nms", iou_threshold=0.5, offset=1),
        max_per_img=100,
    ),
)

# MGAN (Pang et al., ICCV 2019) with VGG16 at stride 8, for pedestrians.
#
# Structure, conventions and thresholds as in Pedestron's mgan_vgg.py, so that its weights give its
# boxes (tools/convert_checkpoint.py): anchors, deltas, RoIs and NMS count a box's last row and column
# as part of it. Weights of the losses as in the paper. Training needs the visible part of each
# person: blockcopy_plugins.LoadVisibleBoxes after LoadAnnotations(with_bbox=True).
model = dict(
    type="blockcopy_plugins.MGAN",
    data_preprocessor=dict(
        type="mmdet.DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_mask=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type="blockcopy_plugins.VGG",
        depth=16,
        # No pooling after the last two stages: the maps have a stride of 8.
        strides=(2, 2, 2, 1, 1),
        frozen_stages=1,
        init_cfg=dict(type="Pretrained", checkpoint="torchvision://vgg16"),
    ),
    rpn_head=dict(
        type="RPNHead",
        in_channels=512,
        feat_channels=512,
        anchor_generator=dict(
            type="LegacyAnchorGenerator",
            center_offset=0.5,
            strides=[8],
            # Heights of 50 to 1000 px.
            scales=[4.0, 5.4, 7.2, 9.8, 13.2, 17.9, 24.2, 33.0, 44.1, 59.6, 80.0],
            ratios=[2.44],
        ),
        bbox_coder=dict(
            type="blockcopy_plugins.InclusiveDeltaXYWHBBoxCoder",
            target_means=[0.0, 0.0, 0.0, 0.0],
            target_stds=[1.0, 1.0, 1.0, 1.0],
        ),
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type="SmoothL1Loss", beta=1.0 / 9.0, loss_weight=1.0),
    ),
    roi_head=dict(
        type="blockcopy_plugins.MGANRoIHead",
        bbox_roi_extractor=dict(
            type="blockcopy_plugins.InclusiveRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=2),
            out_channels=512,
            featmap_strides=[8],
        ),
        mgan_head=dict(
            type="blockcopy_plugins.MGANHead",
            num_convs=2,
            in_channels=512,
            conv_out_channels=512,
            # Pedestron's; "rois" for weights of the authors' own code since May 2020.
            attends="hidden",
            loss_mask=dict(type="CrossEntropyLoss", use_mask=True, loss_weight=0.5),
            loss_occ=dict(type="CrossEntropyLoss", loss_weight=1.0),
        ),
        bbox_head=dict(
            type="Shared2FCBBoxHead",
            in_channels=512,
            fc_out_channels=1024,
            roi_feat_size=7,
            num_classes=1,
            bbox_coder=dict(
                type="blockcopy_plugins.InclusiveDeltaXYWHBBoxCoder",
                target_means=[0.0, 0.0, 0.0, 0.0],
                target_stds=[0.1, 0.1, 0.2, 0.2],
            ),
            reg_class_agnostic=False,
            loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type="SmoothL1Loss", beta=1.0, loss_weight=1.0),
        ),
    ),
    train_cfg=dict(
        rpn=dict(
            # Anchors in a region to ignore are not negatives.
            assigner=dict(
                type="MaxIoUAssigner",
                pos_iou_thr=0.7,
                neg_iou_thr=0.3,
                min_pos_iou=0.3,
                match_low_quality=True,
                ignore_iof_thr=0.5,
            ),
            sampler=dict(
                type="RandomSampler",
                num=256,
                pos_fraction=0.5,
                neg_pos_ub=-1,
                add_gt_as_proposals=False,
            ),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        rpn_proposal=dict(
            nms_pre=12000,
            max_per_img=2000,
            nms=dict(type="nms", iou_threshold=0.7, offset=1),
            min_bbox_size=-1,
        ),
        rcnn=dict(
            assigner=dict(
                type="MaxIoUAssigner",
                pos_iou_thr=0.5,
                neg_iou_thr=0.5,
                min_pos_iou=0.5,
                match_low_quality=False,
                ignore_iof_thr=0.5,
            ),
            sampler=dict(
                type="RandomSampler",
                num=512,
                pos_fraction=0.25,
                neg_pos_ub=-1,
                add_gt_as_proposals=True,
            ),
            pos_weight=-1,
            debug=False,
        ),
    ),
    test_cfg=dict(
        rpn=dict(
            nms_pre=12000,
            max_per_img=2000,
            nms=dict(type="nms", iou_threshold=0.7, offset=1),
            # Boxes without an area stay, as in Pedestron.
            min_bbox_size=-1,
        ),
        rcnn=dict(
            score_thr=0.0,
            nms=dict(type="nms", iou_threshold=0.5, offset=1),
            max_per_img=100,
        ),
    ),
)

# A light Mask R-CNN for one class in video of the size of vtest.avi (768x576, persons of 30-100 px).
#
# Only stock MMDetection classes. Compared with mask-rcnn_r50_fpn: a ResNet-18 of 40 channels without
# its last stage (its stride of 32 is as large as a person), three pyramid levels of 64 channels,
# upright anchors, and small RoI heads, so that nearly all MACs are in backbone, neck and RPN.
_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"

strides = [4, 8, 16]
norm_cfg = dict(type="BN", requires_grad=True)

model = dict(
    backbone=dict(
        depth=18,
        base_channels=32,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(0, 1, 2),
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[32, 64, 128], out_channels=64, num_outs=3, norm_cfg=norm_cfg),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        # Heights of 31 and 43, 62 and 87, 124 and 173 px.
        anchor_generator=dict(scales=[5, 7], ratios=[2.4], strides=strides),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            out_channels=64,
            featmap_strides=strides,
            finest_scale=32,
            roi_layer=dict(sampling_ratio=1),
        ),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=1),
        mask_roi_extractor=dict(
            out_channels=64,
            featmap_strides=strides,
            finest_scale=32,
            roi_layer=dict(sampling_ratio=1),
        ),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64, num_classes=1),
    ),
    train_cfg=dict(
        # Doubtful pseudo-labels are crowd regions: anchors and proposals in them are not negatives.
        rpn=dict(assigner=dict(ignore_iof_thr=0.5), sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=400, max_per_img=200),
        rcnn=dict(assigner=dict(ignore_iof_thr=0.5), sampler=dict(num=32, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=50)),
)

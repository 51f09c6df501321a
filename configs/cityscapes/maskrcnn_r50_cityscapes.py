# Mask R-CNN R50-FPN of MMDetection on the clips of Cityscapes; dense. Model and weights are those of
# its mask-rcnn_r50_fpn_1x_cityscapes.py.
_base_ = [
    "mmdet::_base_/default_runtime.py",
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "../_base_/datasets/cityscapes_video_instance.py",
]

load_from = "https://download.openmmlab.com/mmdetection/v2.0/cityscapes/mask_rcnn_r50_fpn_1x_cityscapes/mask_rcnn_r50_fpn_1x_cityscapes_20201211_133733-d2858245.pth"

model = dict(
    roi_head=dict(
        bbox_head=dict(num_classes=8, loss_bbox=dict(_delete_=True, type="SmoothL1Loss", beta=1.0)),
        mask_head=dict(num_classes=8),
    )
)

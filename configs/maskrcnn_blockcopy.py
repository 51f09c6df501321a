# Mask R-CNN R50-FPN of MMDetection, block-sparse. Only a few lines are added; the weights and
# everything else stay the same.
#
#   python tools/test_video.py configs/maskrcnn_blockcopy.py --video my.mp4 --show-dir out
#
# The weights are fetched when they are first used. Without a network, get the file by hand and pass
# it: python tools/test_video.py configs/maskrcnn_blockcopy.py mask_rcnn_r50_fpn_1x_coco....pth ...
_base_ = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"

load_from = "https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_r50_fpn_1x_coco/mask_rcnn_r50_fpn_1x_coco_20200205-d4b0c5d6.pth"

custom_hooks = [
    dict(
        type="blockcopy_plugins.BlockCopyHook",
        block_size=128,
        policy=dict(type="GainPolicy", target=0.3),
        guards=[dict(type="MaxAge", frames=60), dict(type="SceneCut")],
    )
]

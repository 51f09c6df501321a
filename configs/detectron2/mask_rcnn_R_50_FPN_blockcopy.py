"""Mask R-CNN R50-FPN as a lazy config, block-sparse on video.

The same tools take it: tools/detectron2_video.py --config-file THIS --input IN --output OUT.
"""

from detectron2 import model_zoo

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
dataloader = model_zoo.get_config("common/data/coco.py").dataloader
train = model_zoo.get_config("common/train.py").train
train.init_checkpoint = (
    "detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl"
)

# Options of BlockCopyConfig, and policy_checkpoint.
blockcopy = dict(
    block_size=128,
    policy=dict(type="GainPolicy", target=0.3),
    guards=[dict(type="MaxAge", frames=60), dict(type="SceneCut")],
)

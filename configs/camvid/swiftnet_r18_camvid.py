# SwiftNet-RN18 with half the channels, trained from scratch on a sequence of CamVid.
#
#   CAMVID=data/camvid python MMSEG/.mim/tools/train.py configs/camvid/swiftnet_r18_camvid.py
_base_ = ["../_base_/models/swiftnet_r18.py", "./camvid_training.py"]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size, seg_pad_val=_base_.void),
    backbone=dict(stem_channels=32, base_channels=32, init_cfg=None),
    # Few steps: the means over the pyramid's cells have to follow faster.
    neck=dict(in_channels=[32, 64, 128, 256], channels=64, pooling_norm_cfg=dict(type="BN")),
    decode_head=dict(
        in_channels=64,
        num_classes=len(_base_.classes),
        ignore_index=_base_.void,
        loss_decode=dict(class_weight=_base_.class_weight),
    ),
)

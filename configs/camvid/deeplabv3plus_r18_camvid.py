# MMSegmentation's DeepLabV3+ R18-D8 with a quarter of the channels, trained from scratch on a
# sequence of CamVid.
#
#   CAMVID=data/camvid python MMSEG/.mim/tools/train.py configs/camvid/deeplabv3plus_r18_camvid.py
_base_ = [
    __import__("mmseg").__path__[0] + "/.mim/configs/_base_/models/deeplabv3plus_r50-d8.py",
    "./camvid_training.py",
]

norm_cfg = dict(type="BN", requires_grad=True)
loss = dict(class_weight=_base_.class_weight)
head = dict(num_classes=len(_base_.classes), ignore_index=_base_.void, norm_cfg=norm_cfg)
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=_base_.crop_size, seg_pad_val=_base_.void),
    backbone=dict(depth=18, stem_channels=16, base_channels=16, norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=128,
        channels=64,
        c1_in_channels=16,
        c1_channels=16,
        loss_decode=loss,
        **head,
    ),
    auxiliary_head=dict(in_channels=64, channels=32, loss_decode=loss, **head),
)

# Its steps take longer.
max_iters = 700
train_dataloader = dict(batch_size=4)
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=100, end=max_iters, eta_min=1e-5),
]

# SwiftNet (Orsic et al., CVPR 2019), single scale, with ResNet-50, as in the BlockCopy paper.
_base_ = "./swiftnet_r18.py"

model = dict(
    backbone=dict(
        depth=50,
        init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet50"),
    ),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)

# SwiftNet (Orsic et al., CVPR 2019), single scale, with ResNet-18. Logits at a quarter of the image's
# resolution. Normalisation of pixels as in the BlockCopy paper's code; the authors' own weights need
# swiftnet_r18_orsic.py.
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        # For RGB values from 0 to 255.
        mean=[73.1584, 82.9090, 72.3924],
        std=[44.9149, 46.1529, 45.3192],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type="blockcopy_plugins.SwiftNetResNet",
        depth=18,
        init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet18"),
    ),
    neck=dict(
        type="blockcopy_plugins.SwiftNetNeck",
        in_channels=[64, 128, 256, 512],
        channels=128,
        grids=[8, 4, 2],
        norm_cfg=dict(type="BN"),
        pooling_norm_cfg=dict(type="BN", momentum=0.005),
    ),
    decode_head=dict(
        type="blockcopy_plugins.SwiftNetHead",
        in_channels=128,
        in_index=0,
        num_classes=19,
        dropout_ratio=0,
        norm_cfg=dict(type="BN"),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)

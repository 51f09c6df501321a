# Training of the light CSP from scratch on one CPU core, on the pseudo-labels of the demo
# (demo/README.md).
_base_ = "./csp_vtest.py"

max_iters = 2200
crop = (256, 256)

train_pipeline = [
    dict(type="LoadImageFromFile", backend_args=None),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomResize", scale=(768, 576), ratio_range=(0.8, 1.3), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop, allow_negative_crop=False),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(6, 12)),
    dict(type="RandomFlip", prob=0.5),
    dict(
        type="PhotoMetricDistortion",
        brightness_delta=24,
        contrast_range=(0.7, 1.3),
        saturation_range=(0.6, 1.4),
        hue_delta=10,
    ),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="CocoDataset",
        data_root=_base_.data_root,
        ann_file="annotations.json",
        data_prefix=dict(img="images/"),
        metainfo=_base_.metainfo,
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=train_pipeline,
    ),
)
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters + 1)
val_cfg = None
val_dataloader = None
val_evaluator = None

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.02),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=100, end=max_iters, eta_min=1e-5),
]
# The mean of the weights over the last few hundred steps is kept.
custom_hooks = [
    dict(
        type="EMAHook",
        ema_type="ExpMomentumEMA",
        momentum=0.01,
        gamma=100,
        update_buffers=True,
        priority=49,
    )
]
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=200, by_epoch=False, max_keep_ckpts=2, save_optimizer=False),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)

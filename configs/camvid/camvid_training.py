# CamVid as it comes with the SegNet tutorial (480x360, a frame a second, 11 classes and void, folders
# SEQUENCE/{frames,labels}), and a training from scratch of half an hour or so on one CPU core.
#
# Trained on sequence 0016E5 (204 frames of streets). All of 0006R0 (101 frames, most of them of a car
# park) is held out; no step of the training is chosen by its result there.
#
# The folder is data/camvid, or the one that the environment variable CAMVID names.
data_root = "{{$CAMVID:data/camvid}}"
train_sequence = "0016E5"
held_out_sequence = "0006R0"

void = 11
classes = [
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
]
palette = [
    [128, 128, 128],
    [128, 0, 0],
    [192, 192, 128],
    [128, 64, 128],
    [60, 40, 222],
    [128, 128, 0],
    [192, 128, 128],
    [64, 64, 128],
    [64, 0, 128],
    [64, 64, 0],
    [0, 128, 192],
]
# Frequency in the training sequence to the power of -1/2; mean 1 over its pixels.
class_weight = [0.96, 0.69, 3.69, 0.63, 1.55, 1.57, 3.81, 2.96, 1.65, 4.13, 6.35]
crop_size = (256, 256)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(480, 360), ratio_range=(0.75, 1.75), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75, ignore_index=void),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
dataset = dict(
    type="BaseSegDataset",
    data_root=data_root,
    metainfo=dict(classes=classes, palette=palette),
    img_suffix=".jpg",
    seg_map_suffix=".png",
    ignore_index=void,
)
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        data_prefix=dict(
            img_path=train_sequence + "/frames", seg_map_path=train_sequence + "/labels"
        ),
        pipeline=train_pipeline,
        **dataset,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        data_prefix=dict(
            img_path=held_out_sequence + "/frames", seg_map_path=held_out_sequence + "/labels"
        ),
        pipeline=test_pipeline,
        test_mode=True,
        **dataset,
    ),
)
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"], ignore_index=void)
test_dataloader = val_dataloader
test_evaluator = val_evaluator

max_iters = 1000
default_scope = "mmseg"
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
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
# The mean of the weights over the last hundred or so steps is kept.
custom_hooks = [
    dict(
        type="EMAHook",
        ema_type="MomentumAnnealingEMA",
        momentum=0.01,
        gamma=10,
        update_buffers=True,
        priority=49,
    )
]
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=20),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(
        type="CheckpointHook",
        interval=250,
        by_epoch=False,
        max_keep_ckpts=1,
        save_optimizer=False,
    ),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)

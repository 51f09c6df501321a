# The demo's detector, dense. Weights, recipe and figures: demo/README.md.
_base_ = [
    "../_base_/models/mask-rcnn_r18-thin_fpn.py",
    "mmdet::_base_/default_runtime.py",
]

load_from = "demo/maskrcnn_vtest.pth"
metainfo = dict(classes=("person",), palette=[(220, 20, 60)])
data_root = "data/vtest_pseudo/"

# At the video's own size; other sizes are scaled to fit it.
test_pipeline = [
    dict(type="LoadImageFromFile", backend_args=None),
    dict(type="Resize", scale=(768, 576), keep_ratio=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
# The pseudo-labels of the training half (demo/make_pseudo_labels.py): a check of the recipe, not a
# measure of accuracy.
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        ann_file="annotations.json",
        data_prefix=dict(img="images/"),
        metainfo=metainfo,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_evaluator = dict(
    type="CocoMetric", ann_file=data_root + "annotations.json", metric=["bbox", "segm"]
)
test_cfg = dict(type="TestLoop")

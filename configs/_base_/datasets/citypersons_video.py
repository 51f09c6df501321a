# Cityscapes' video clips at 1024x2048 with CityPersons' pedestrians: the 500 clips of val, the
# annotated frame last.
#
# data_root contains, from https://www.cityscapes-dataset.com/downloads (free, after registration):
#   leftImg8bit_sequence/   leftImg8bit_sequence_trainvaltest.zip, 324 GB
#   gtBboxCityPersons/      gtBbox_cityPersons_trainval.zip
# or, instead of the latter, annotations/anno_{train,val}.mat of
# https://github.com/cvgroup-njust/CityPersons.
data_root = "data/cityscapes/"

# The metric takes the ground truth from the dataset, so nothing here loads it.
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 1024), keep_ratio=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="blockcopy_plugins.VideoSampler"),
    dataset=dict(
        type="blockcopy_plugins.CityPersonsVideoDataset",
        data_root=data_root,
        split="val",
        pipeline=test_pipeline,
    ),
)
test_evaluator = dict(type="blockcopy_plugins.CityPersonsMetric")
test_cfg = dict(type="TestLoop")

# The clips on which a policy learns, without labels, before it is evaluated; read by
# tools/test_video.py and tools/train_policy.py.
policy_warm_up = dict(
    dataset=dict(
        type="blockcopy_plugins.CityPersonsVideoDataset",
        data_root=data_root,
        split="train",
        seed=0,
        labels=False,
        pipeline=test_pipeline,
    ),
)

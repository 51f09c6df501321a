# The light CSP on the demo's video, block-sparse. Weights: csp_r18-thin_vtest_train.py.
#
#   python tools/test_video.py configs/demo/csp_blockcopy_vtest.py csp_vtest.pth --show-dir out
_base_ = "./csp_vtest.py"

demo_dir = "{{ fileDirname }}/../../demo/"

custom_hooks = [
    dict(
        type="blockcopy_plugins.BlockCopyHook",
        block_size=64,
        policy=dict(type="GainPolicy", target=0.3),
    )
]

test_dataloader = dict(
    sampler=dict(_delete_=True, type="blockcopy_plugins.VideoSampler"),
    dataset=dict(
        _delete_=True,
        type="blockcopy_plugins.VideoFrameDataset",
        videos=demo_dir + "vtest_excerpt.mp4",
        metainfo=_base_.metainfo,
        pipeline=_base_.test_pipeline,
    ),
)
# Average precision and the miss rates of CityPersons.
test_evaluator = dict(_delete_=True, type="blockcopy_plugins.CityPersonsMetric")

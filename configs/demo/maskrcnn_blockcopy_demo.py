# The demo: a light Mask R-CNN on an excerpt of a street seen by a fixed camera, block-sparse.
# Needs nothing from outside the repository, and runs from any folder:
#
#   python tools/test_video.py configs/demo/maskrcnn_blockcopy_demo.py --show-dir demo/out
_base_ = "./mask-rcnn_r18-thin_vtest.py"

demo_dir = "{{ fileDirname }}/../../demo/"
load_from = demo_dir + "maskrcnn_vtest.pth"

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
test_evaluator = dict(_delete_=True, type="blockcopy_plugins.FrameDetectionMetric")

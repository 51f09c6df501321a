# deeplabv3plus_r18_camvid.py, block-sparse.
#
#   python tools/test_video.py configs/camvid/deeplabv3plus_r18_camvid_blockcopy.py WEIGHTS \
#       --video data/camvid/0006R0/frames --ann data/camvid/0006R0/labels
_base_ = "./deeplabv3plus_r18_camvid.py"

custom_hooks = [
    dict(
        type="blockcopy_plugins.BlockCopyHook",
        block_size=64,
        policy=dict(type="GainPolicy", target=0.3),
    )
]

# SwiftNet-RN50 on the clips of Cityscapes, block-sparse, with the BlockCopy paper's settings: the
# policy learns on 500 unlabelled clips of train, is then evaluated on all of val, and goes on learning
# from clip to clip.
#
#   python tools/test_video.py configs/swiftnet_r50_blockcopy.py swiftnet_r50.pth
_base_ = "./cityscapes/swiftnet_r50_cityscapes.py"

custom_hooks = [
    dict(
        type="blockcopy_plugins.BlockCopyHook",
        block_size=128,
        policy=dict(type="RLPolicy", target=0.5, update_every=3),
    )
]
policy_warm_up = dict(dataset=dict(clips=500))
test_cfg = dict(type="blockcopy_plugins.BlockCopyTestLoop", restart_policy=False)

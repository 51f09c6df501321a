# Mask R-CNN R50-FPN on the clips of Cityscapes, block-sparse, with the BlockCopy paper's settings: the
# policy learns on 400 unlabelled clips of train, is then evaluated on all of val, and goes on learning
# from clip to clip.
#
#   python tools/test_video.py configs/cityscapes/maskrcnn_blockcopy.py
_base_ = "./maskrcnn_r50_cityscapes.py"

custom_hooks = [
    dict(
        type="blockcopy_plugins.BlockCopyHook",
        block_size=128,
        policy=dict(type="RLPolicy", target=0.3, update_every=4, weight_decay=1e-4),
    )
]
policy_warm_up = dict(dataset=dict(clips=400))
test_cfg = dict(type="blockcopy_plugins.BlockCopyTestLoop", restart_policy=False)

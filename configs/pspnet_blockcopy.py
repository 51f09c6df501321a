# PSPNet R50 of MMSegmentation (Cityscapes), block-sparse; see deeplabv3plus_blockcopy.py.
_base_ = (
    __import__("mmseg").__path__[0]
    + "/.mim/configs/pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py"
)

load_from = "https://download.openmmlab.com/mmsegmentation/v0.5/pspnet/pspnet_r50-d8_512x1024_80k_cityscapes/pspnet_r50-d8_512x1024_80k_cityscapes_20200606_112131-2376f12b.pth"

custom_hooks = [
    dict(
        type="blockcopy_plugins.BlockCopyHook",
        block_size=128,
        policy=dict(type="GainPolicy", target=0.3),
        guards=[dict(type="MaxAge", frames=60), dict(type="SceneCut")],
    )
]

# DeepLabV3+ R50 of MMSegmentation (Cityscapes), block-sparse. Only three lines are added; the
# weights and everything else stay the same.
#
#   python tools/test_video.py configs/deeplabv3plus_blockcopy.py --video my.mp4 --show-dir out
#
# The weights are fetched when they are first used. Without a network, get the file by hand and pass
# it as CHECKPOINT.
#
# The base is the stock config mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-80k_cityscapes-...
# MMEngine looks for mmseg:: in a package named mmsegmentation, and OneDL's has another name
# (ModuleNotFoundError). It evaluates _base_ as an expression, so the folder of the installed module
# works for both, and also in a process that does not import this package.
_base_ = (
    __import__("mmseg").__path__[0]
    + "/.mim/configs/deeplabv3plus/deeplabv3plus_r50-d8_4xb2-80k_cityscapes-512x1024.py"
)

load_from = "https://download.openmmlab.com/mmsegmentation/v0.5/deeplabv3plus/deeplabv3plus_r50-d8_512x1024_80k_cityscapes/deeplabv3plus_r50-d8_512x1024_80k_cityscapes_20200606_114049-f9fb496d.pth"

custom_hooks = [
    dict(
        type="blockcopy_plugins.BlockCopyHook",
        block_size=128,
        policy=dict(type="GainPolicy", target=0.3),
        guards=[dict(type="MaxAge", frames=60), dict(type="SceneCut")],
    )
]

# DeepLabV3+ R50-D8 of MMSegmentation on the clips of Cityscapes; dense. Model and weights are those
# of its deeplabv3plus_r50-d8_4xb2-80k_cityscapes-512x1024.py.
_base_ = [
    __import__("mmseg").__path__[0] + "/.mim/configs/_base_/default_runtime.py",
    __import__("mmseg").__path__[0] + "/.mim/configs/_base_/models/deeplabv3plus_r50-d8.py",
    "../_base_/datasets/cityscapes_video_segmentation.py",
]

load_from = "https://download.openmmlab.com/mmsegmentation/v0.5/deeplabv3plus/deeplabv3plus_r50-d8_512x1024_80k_cityscapes/deeplabv3plus_r50-d8_512x1024_80k_cityscapes_20200606_114049-f9fb496d.pth"

# SwiftNet-RN50 on the clips of Cityscapes; dense.
#
# Weights: the BlockCopy paper's, by tools/convert_checkpoint.py swiftnet-blockcopy-rn50 IN OUT
# (--list says where they are).
_base_ = [
    __import__("mmseg").__path__[0] + "/.mim/configs/_base_/default_runtime.py",
    "../_base_/models/swiftnet_r50.py",
    "../_base_/datasets/cityscapes_video_segmentation.py",
]

# MGAN VGG16 on CityPersons, in the clips of Cityscapes; dense.
#
# Weights: Pedestron's, by tools/convert_checkpoint.py pedestron-mgan IN OUT (--list says where they
# are).
_base_ = [
    "mmdet::_base_/default_runtime.py",
    "../_base_/models/mgan_vgg16.py",
    "../_base_/datasets/citypersons_video.py",
]

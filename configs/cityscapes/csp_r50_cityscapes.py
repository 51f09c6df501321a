# CSP R50 on CityPersons, in the clips of Cityscapes; dense.
#
# Weights: Pedestron's epoch_72.pth.stu, by tools/convert_checkpoint.py pedestron-csp IN OUT
# (--list says where it is).
_base_ = [
    "mmdet::_base_/default_runtime.py",
    "../_base_/models/csp_r50.py",
    "../_base_/datasets/citypersons_video.py",
]

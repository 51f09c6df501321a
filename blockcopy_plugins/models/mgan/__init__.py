"""MGAN: a two-stage pedestrian detector that attends to the visible part of a person.

"Mask-Guided Attention Network for Occluded Pedestrian Detection", Pang, Xie, Khan, Anwer, Khan and
Shao, ICCV 2019. Importing this package registers its classes if MMDetection is installed.
``configs/_base_/models/mgan_vgg16.py`` puts them together.
"""

from importlib.util import find_spec

# checkpoint.py is also read where MMDetection is not installed.
if find_spec("mmdet") is not None:
    from .detector import MGAN
    from .inclusive_box_coder import InclusiveDeltaXYWHBBoxCoder
    from .inclusive_roi_extractor import InclusiveRoIExtractor
    from .mask_guided_attention import MGANHead
    from .roi_head import MGANRoIHead
    from .vgg import VGG

    __all__ = [
        "MGAN",
        "VGG",
        "InclusiveDeltaXYWHBBoxCoder",
        "InclusiveRoIExtractor",
        "MGANHead",
        "MGANRoIHead",
    ]

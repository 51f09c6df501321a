"""CSP: a pedestrian detector that finds each person's centre, height and offset, without anchors.

"High-level Semantic Feature Detection: A New Perspective for Pedestrian Detection", Liu, Liao, Ren,
Hu and Yu, CVPR 2019. Importing this package registers its classes if MMDetection is installed.
``configs/_base_/models/csp_r50.py`` puts them together.
"""

from importlib.util import find_spec

# checkpoint.py is also read where MMDetection is not installed.
if find_spec("mmdet") is not None:
    from .center_focal_loss import CenterFocalLoss
    from .detector import CSP
    from .head import CSPHead
    from .neck import CSPNeck

    __all__ = ["CSP", "CSPHead", "CSPNeck", "CenterFocalLoss"]

"""SwiftNet: a residual network, spatial pyramid pooling and a light ladder of upsampling modules.

"In Defense of Pre-trained ImageNet Architectures for Real-time Semantic Segmentation of
Road-driving Images", Orsic, Kreso, Bevandic and Segvic, CVPR 2019, single scale. Importing this
package registers its classes if MMSegmentation is installed.
``configs/_base_/models/swiftnet_r18.py`` and ``swiftnet_r50.py`` put them together in
MMSegmentation's ``EncoderDecoder``.
"""

from importlib.util import find_spec

# checkpoint.py is also read where MMSegmentation is not installed.
if find_spec("mmseg") is not None:
    from .head import SwiftNetHead
    from .neck import SwiftNetNeck
    from .resnet import SwiftNetResNet
    from .spatial_pyramid_pooling import SpatialPyramidPooling

    __all__ = ["SpatialPyramidPooling", "SwiftNetHead", "SwiftNetNeck", "SwiftNetResNet"]

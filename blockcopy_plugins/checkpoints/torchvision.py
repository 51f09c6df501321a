"""Weights of torchvision's classifiers and their places in a backbone.

Its ResNets have the keys of MMDetection's, MMSegmentation's and SwiftNet's, its VGGs those of
:class:`~blockcopy_plugins.models.mgan.vgg.VGG`.
"""

from __future__ import annotations

from .key_rules import KeyRules

_VALUES = r"(?:weight|bias|running_mean|running_var|num_batches_tracked)"
# Everything but the backbone. Files written before PyTorch 0.4.1 do not count batches.
_UNFILLED = (r"(?!backbone\.).*", r".*\.num_batches_tracked")


def _resnet(depth: int, convs: int) -> KeyRules:
    """Rules of a ResNet.

    Args:
        depth: Number of its layers.
        convs: Convolutions of one of its residual blocks.

    Returns:
        The rules; the classifier is left out.
    """
    return KeyRules(
        name=f"torchvision-resnet{depth}",
        description=f"ResNet-{depth} of torchvision, for a backbone",
        rules=(
            (
                rf"((?:layer[1-4]\.\d+\.)?(?:conv[1-{convs}]|bn[1-{convs}]|downsample\.[01])\."
                rf"{_VALUES})",
                r"backbone.\1",
            ),
            (r"fc\.(?:weight|bias)", None),
        ),
        unfilled=_UNFILLED,
        model=f"swiftnet_r{depth}",
    )


def _vgg16(name: str, layers: str) -> KeyRules:
    return KeyRules(
        name=f"torchvision-{name}",
        description=f"VGG16 {layers} of torchvision, for a backbone",
        rules=(
            (rf"(features\.\d+\.{_VALUES})", r"backbone.\1"),
            (r"classifier\.[036]\.(?:weight|bias)", None),
        ),
        unfilled=_UNFILLED,
        model="mgan_vgg16",
    )


TORCHVISION_RESNET18 = _resnet(18, 2)
TORCHVISION_RESNET50 = _resnet(50, 3)
TORCHVISION_VGG16 = _vgg16("vgg16", "without batch norm")
TORCHVISION_VGG16_BN = _vgg16("vgg16_bn", "with batch norm")

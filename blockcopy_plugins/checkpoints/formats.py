"""The checkpoints that can be converted, and where to get them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .key_rules import CheckpointError, KeyRules

_FRAMEWORKS = {"mmdet": "MMDetection", "mmseg": "MMSegmentation"}


@dataclass(frozen=True)
class Format:
    """Checkpoints of one network in one code base.

    Attributes:
        name: The name on a command line.
        weights: What they are and where to get them, for people.
        module: The module with its rules, below this package; imported when the rules are asked
            for, because the networks import their framework.
        constant: The rules' name there.
        framework: ``'mmdet'`` or ``'mmseg'``: the framework of the model in the rules' own config.
        options: Values that differ from that config, by dotted name.
    """

    name: str
    weights: str
    module: str
    constant: str
    framework: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def available(self) -> bool:
        """Whether the framework is installed."""
        return find_spec(self.framework) is not None

    def rules(self) -> KeyRules:
        """The rules.

        Returns:
            The rules, under the format's name.

        Raises:
            CheckpointError: If the framework is not installed.
        """
        if not self.available:
            raise CheckpointError(
                f"{self.name} is converted for {_FRAMEWORKS[self.framework]}, which is not "
                f"installed; install onedl-{_FRAMEWORKS[self.framework].lower()}."
            )
        module = import_module(self.module, __package__.rpartition(".")[0])
        return replace(getattr(module, self.constant), name=self.name)


_DRIVE = "https://drive.google.com"
_TORCHVISION = "https://download.pytorch.org/models"

FORMATS: tuple[Format, ...] = (
    Format(
        "pedestron-csp",
        "CSP with ResNet-50 on CityPersons, epoch_72.pth.stu in the table of "
        "https://github.com/hasanirtiza/Pedestron:\n"
        f"{_DRIVE}/file/d/14qpoyQWIirzUyLZHTxjZe-09AxiUtIxK",
        ".models.csp.checkpoint",
        "PEDESTRON_CSP",
        "mmdet",
    ),
    Format(
        "pedestron-mgan",
        "MGAN with VGG16 on CityPersons, in the table of "
        "https://github.com/hasanirtiza/Pedestron:\n"
        f"{_DRIVE}/file/d/1vcB4PrS0Vpo48f27QpGtJPWo9iwGs5Vl",
        ".models.mgan.checkpoint",
        "PEDESTRON_MGAN",
        "mmdet",
    ),
    Format(
        "swiftnet-orsic-rn18",
        "SwiftNet-RN18, single scale, on Cityscapes, of its authors "
        "(https://github.com/orsic/swiftnet, rn18_single_scale/model_best.pt):\n"
        f"{_DRIVE}/drive/folders/1DqX-N-nMtGG9QfMY_cKtULCKTfEuV4WT",
        ".models.swiftnet.checkpoint",
        "SWIFTNET_ORSIC_RN18",
        "mmseg",
    ),
    Format(
        "swiftnet-blockcopy-rn18",
        "SwiftNet-RN18 on Cityscapes, of the BlockCopy paper "
        "(https://github.com/thomasverelst/blockcopy-video-processing-pytorch):\n"
        f"{_DRIVE}/file/d/1-06FdQTegy76A0dv4JDvwPNOsJu6QCZw",
        ".models.swiftnet.checkpoint",
        "SWIFTNET_BLOCKCOPY_RN18",
        "mmseg",
    ),
    Format(
        "swiftnet-blockcopy-rn50",
        "SwiftNet-RN50 on Cityscapes, of the BlockCopy paper "
        "(https://github.com/thomasverelst/blockcopy-video-processing-pytorch):\n"
        f"{_DRIVE}/file/d/1FtiIEhD9tVMPcJwx41itGCEKU3cyyd0e",
        ".models.swiftnet.checkpoint",
        "SWIFTNET_BLOCKCOPY_RN50",
        "mmseg",
    ),
    Format(
        "torchvision-resnet18",
        "ResNet-18 on ImageNet, for a ResNet backbone of MMDetection, MMSegmentation or SwiftNet:\n"
        f"{_TORCHVISION}/resnet18-f37072fd.pth",
        ".checkpoints.torchvision",
        "TORCHVISION_RESNET18",
        "mmseg",
    ),
    Format(
        "torchvision-resnet50",
        "ResNet-50 on ImageNet, for a ResNet backbone of MMDetection, MMSegmentation or SwiftNet:\n"
        f"{_TORCHVISION}/resnet50-0676ba61.pth",
        ".checkpoints.torchvision",
        "TORCHVISION_RESNET50",
        "mmseg",
    ),
    Format(
        "torchvision-vgg16",
        f"VGG16 on ImageNet, for MGAN's backbone:\n{_TORCHVISION}/vgg16-397923af.pth",
        ".checkpoints.torchvision",
        "TORCHVISION_VGG16",
        "mmdet",
    ),
    Format(
        "torchvision-vgg16_bn",
        "VGG16 with batch norm on ImageNet, for a VGG backbone with_bn=True:\n"
        f"{_TORCHVISION}/vgg16_bn-6c64b313.pth",
        ".checkpoints.torchvision",
        "TORCHVISION_VGG16_BN",
        "mmdet",
        options={"model.backbone.with_bn": True},
    ),
)


def find_format(name: str) -> Format:
    """A format by its name.

    Args:
        name: The name on a command line.

    Returns:
        The format.

    Raises:
        CheckpointError: If there is no format of that name.
    """
    for found in FORMATS:
        if found.name == name:
            return found
    raise CheckpointError(
        f"there is no source format {name!r}, expected auto or one of "
        f"{', '.join(known.name for known in FORMATS)}."
    )

"""Whole networks in plain PyTorch, with random weights: what to run where there is torch alone.

Nothing of OpenMMLab or torchvision is needed, and nothing of ``blockcopy_plugins``.

* ``mask_rcnn_fpn``        Mask R-CNN R50-FPN, up to the maps of its region proposals
* ``csp``                  CSP R50, up to its three maps
* ``swiftnet``             SwiftNet with ResNet-18 or -50
* ``deeplabv3plus``        DeepLabV3+ R50, output stride 8
* ``light_segmentor``      bottlenecks in the manner of ENet, 1.3 GMACs at 360x480
* ``shufflenet_detector``  ShuffleNetV2 1.0x and a head in the manner of FastestDet
* ``enet``, ``erfnet``, ``cgnet``  light segmentors, as their papers have them

Those that other benchmarks know from a config have its name here, and the same layers.

Examples:
    >>> net = build("swiftnet_r18", seed=1)
    >>> logits = net(torch.randn(1, 3, 1024, 2048))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import nn

from .cgnet import CGNet
from .csp import Csp
from .deeplabv3plus import DeepLabV3Plus
from .enet import ENet
from .erfnet import ERFNet
from .light_segmentor import LightSegmentor
from .mask_rcnn_fpn import MaskRcnnFpn
from .shufflenet_detector import ShuffleNetDetector
from .swiftnet import SwiftNet
from .weights import draw_statistics_, draw_weights_

NETWORKS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "csp_r50": Csp,
        "mask-rcnn_r50_fpn": MaskRcnnFpn,
        "swiftnet_r18": partial(SwiftNet, 18),
        "swiftnet_r50": partial(SwiftNet, 50),
        "deeplabv3plus_r50": DeepLabV3Plus,
        "light_segmentor": LightSegmentor,
        "shufflenet_detector": ShuffleNetDetector,
        "enet": ENet,
        "erfnet": ERFNet,
        "cgnet": CGNet,
    }
)
"""What makes a network from a factor of its channels, ``width``; weights are not drawn yet."""

LIGHT = ("light_segmentor", "enet", "erfnet", "cgnet")
"""Those of 1 to 4 GMACs at 360x480, for CPUs; they take sizes that are multiples of 8."""


def build(name: str, width: float = 1.0, seed: int = 0) -> nn.Module:
    """A network with random weights that keep activations of order one, in float16 too.

    Args:
        name: A key of :data:`NETWORKS`.
        width: Factor of the channels.
        seed: Of the weights. torch's own random numbers stay where they are.

    Returns:
        The network in eval mode, float32 on the CPU. It takes frames ``(N, 3, H, W)`` of any size
        and scale as of ``torch.randn``.

    Raises:
        ValueError: If there is no network of that name, or the factor is no finite number above 0.
    """
    if name not in NETWORKS:
        raise ValueError(f"there is no network {name!r}, expected one of {', '.join(NETWORKS)}")
    # On no device at first: there the layers' own initial weights cost neither time nor torch's
    # random numbers.
    with torch.device("meta"):
        net = NETWORKS[name](width=width)
    net.to_empty(device="cpu")
    draw = torch.Generator().manual_seed(seed)
    draw_weights_(net, draw)
    frame = torch.randn(1, 3, 256, 256, generator=draw, device="cpu")
    draw_statistics_(net, frame, draw)
    return net

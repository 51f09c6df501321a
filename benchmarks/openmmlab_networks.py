"""Light networks of MMDetection and MMSegmentation: backbones, and necks of detectors.

Of an SSD the head too: its neck ends with few pixels, on which heads cost as much as necks do.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

_BN = dict(type="BN")
_SILU = dict(type="SiLU", inplace=True)
_YOLOX_NANO = (
    dict(type="CSPDarknet", deepen_factor=0.33, widen_factor=0.25, use_depthwise=True),
    dict(
        type="YOLOXPAFPN",
        in_channels=[64, 128, 256],
        out_channels=64,
        num_csp_blocks=1,
        use_depthwise=True,
    ),
)
_RTMDET_TINY = (
    dict(
        type="CSPNeXt",
        arch="P5",
        expand_ratio=0.5,
        deepen_factor=0.167,
        widen_factor=0.375,
        channel_attention=True,
        norm_cfg=_BN,
        act_cfg=_SILU,
    ),
    dict(
        type="CSPNeXtPAFPN",
        in_channels=[96, 192, 384],
        out_channels=96,
        num_csp_blocks=1,
        norm_cfg=_BN,
        act_cfg=_SILU,
    ),
)
_SSD_NORM = dict(type="BN", eps=0.001, momentum=0.03)
_SSD_CHANNELS = (96, 1280, 512, 256, 256, 128)
_SSD_RATIOS = [[2, 3]] * 6
_SSDLITE = (
    dict(type="MobileNetV2", out_indices=(4, 7), norm_cfg=_SSD_NORM),
    dict(
        type="SSDNeck",
        in_channels=_SSD_CHANNELS[:2],
        out_channels=_SSD_CHANNELS,
        level_strides=(2,) * 4,
        level_paddings=(1,) * 4,
        l2_norm_scale=None,
        use_depthwise=True,
        norm_cfg=_SSD_NORM,
        act_cfg=dict(type="ReLU6"),
    ),
    dict(
        type="SSDHead",
        in_channels=_SSD_CHANNELS,
        num_classes=80,
        use_depthwise=True,
        norm_cfg=_SSD_NORM,
        act_cfg=dict(type="ReLU6"),
        anchor_generator=dict(
            type="SSDAnchorGenerator",
            scale_major=False,
            strides=[16, 32, 64, 107, 160, 320],
            ratios=_SSD_RATIOS,
            min_sizes=[48, 100, 150, 202, 253, 304],
            max_sizes=[100, 150, 202, 253, 304, 320],
        ),
    ),
)
_STDC1 = dict(
    type="STDCNet",
    stdc_type="STDCNet1",
    in_channels=3,
    channels=(32, 64, 256, 512, 1024),
    bottleneck_type="cat",
    num_convs=4,
    norm_cfg=_BN,
    act_cfg=dict(type="ReLU"),
    with_final_conv=False,
)

OPENMMLAB: Mapping[str, tuple[str, tuple[dict[str, Any], ...]]] = MappingProxyType(
    {
        "mobilenetv2": ("mmseg", (dict(type="MobileNetV2"),)),
        "efficientnet_b0": (
            "mmdet",
            (dict(type="EfficientNet", arch="b0", out_indices=(3, 4, 5)),),
        ),
        "fast_scnn": ("mmseg", (dict(type="FastSCNN"),)),
        "stdc1": ("mmseg", (_STDC1,)),
        "bisenetv2": ("mmseg", (dict(type="BiSeNetV2"),)),
        "yolox_nano": ("mmdet", _YOLOX_NANO),
        "rtmdet_tiny": ("mmdet", _RTMDET_TINY),
        "ssdlite_mobilenetv2": ("mmdet", _SSDLITE),
    }
)
"""The library of a network, and the configs of its parts, each of which reads the one before."""


def build_openmmlab(name: str, seed: int = 0) -> nn.Module:
    """A network with random weights.

    Args:
        name: A key of :data:`OPENMMLAB`.
        seed: Of the weights. torch's own random numbers stay where they are.

    Returns:
        The network in eval mode, float32 on the CPU. It takes frames ``(N, 3, H, W)``.
    """
    from mmengine.registry import DefaultScope

    library, parts = OPENMMLAB[name]
    importlib.import_module(f"{library}.models")
    models = importlib.import_module(f"{library}.registry").MODELS
    with DefaultScope.overwrite_default_scope(library), torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        net = nn.Sequential(*(models.build(part) for part in parts))
    net.eval()
    return net

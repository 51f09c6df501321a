"""Layers and networks that configs name and that MMDetection and MMSegmentation lack.

CSP and MGAN are MMDetection detectors, and SwiftNet is made of MMSegmentation's parts: each is
registered if its framework is installed.
"""

from importlib import import_module
from importlib.util import find_spec

from ..ops.block_sparse_conv import BlockSparseConv2d
from ..registry import MODELS

MODELS.register_module(module=BlockSparseConv2d)

_NETWORKS = {"csp": "mmdet", "mgan": "mmdet", "swiftnet": "mmseg"}
for _network, _framework in _NETWORKS.items():
    if find_spec(_framework) is not None:
        import_module(f"{__name__}.{_network}")

__all__ = ["BlockSparseConv2d"]

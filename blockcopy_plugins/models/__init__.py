"""Layers and networks that configs name and MMDetection and MMSegmentation lack."""

from ..ops.block_sparse_conv import BlockSparseConv2d
from ..registry import MODELS

MODELS.register_module(module=BlockSparseConv2d)

__all__ = ["BlockSparseConv2d"]

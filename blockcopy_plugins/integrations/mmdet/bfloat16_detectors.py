"""Detectors with bfloat16 weights: what enters them, and what leaves their heads.

MMDetection's decoding and suppression refuse bfloat16 or, where they accept it, round boxes to 8
px in an image of 2000. Its preprocessor gives float32, which bfloat16 weights refuse.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.hooks import RemovableHandle

_MAP_TO_MAP = ("backbone", "neck")


def run_in_bfloat16(model: nn.Module) -> Iterator[RemovableHandle]:
    """Let a detector take float32 pictures and decode float32 results if its weights are bfloat16.

    A dense detector needs it as well.

    Args:
        model: A detector of MMDetection, converted or not.

    Yields:
        Objects whose ``remove()`` undoes it.
    """
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, nn.Module):
        yield backbone.register_forward_pre_hook(_narrow)
    for module in _heads(model):
        yield module.register_forward_hook(_widen)


def _heads(model: nn.Module) -> Iterator[nn.Module]:
    """The dense heads, and the RoI heads whose results are decoded."""
    for name, child in nn.Module.named_children(model):
        if name not in _MAP_TO_MAP and not hasattr(child, "bbox_roi_extractor"):
            yield child
    yield from region_heads(model)


def region_heads(model: nn.Module) -> Iterator[nn.Module]:
    """The heads of a detector's RoI head whose results are decoded, those of all stages."""
    for child in nn.Module.children(model):
        if hasattr(child, "bbox_roi_extractor"):
            for part in nn.Module.children(child):
                for head in part if isinstance(part, nn.ModuleList) else (part,):
                    if hasattr(head, "predict_by_feat"):
                        yield head


def _narrow(module: nn.Module, args: tuple) -> tuple | None:
    weight = next(nn.Module.parameters(module), None)
    picture = args[0] if args else None
    if weight is None or weight.dtype != torch.bfloat16 or not isinstance(picture, Tensor):
        return None
    return (picture.to(torch.bfloat16), *args[1:]) if picture.dtype == torch.float32 else None


def _widen(module: nn.Module, args: Any, results: Any) -> Any:
    def widened(value: Any) -> Any:
        return value.float() if type(value) is Tensor and value.dtype == torch.bfloat16 else value

    return tree_map(widened, results)

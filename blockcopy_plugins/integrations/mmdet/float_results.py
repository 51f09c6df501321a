"""The results of a bfloat16 detector's heads as float32, for what comes after them.

MMDetection's decoding and suppression refuse bfloat16 or, where they accept it, round boxes to 8
px in an image of 2000.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.hooks import RemovableHandle

_MAP_TO_MAP = ("backbone", "neck")


def widen_head_results(model: nn.Module) -> Iterator[RemovableHandle]:
    """Convert a detector head's bfloat16 results to float32; a dense detector needs it as well.

    Args:
        model: A detector of MMDetection, converted or not.

    Yields:
        Objects whose ``remove()`` undoes it.
    """
    for module in _heads(model):
        yield module.register_forward_hook(_widen)


def _heads(model: nn.Module) -> Iterator[nn.Module]:
    """The dense heads, and the RoI heads that predict boxes and masks."""
    for name, child in nn.Module.named_children(model):
        if name in _MAP_TO_MAP:
            continue
        if not hasattr(child, "bbox_roi_extractor"):
            yield child
            continue
        for part, inner in nn.Module.named_children(child):
            if part.endswith("_head"):
                yield from inner if isinstance(inner, nn.ModuleList) else (inner,)


def _widen(module: nn.Module, args: Any, results: Any) -> Any:
    def widened(value: Any) -> Any:
        return value.float() if type(value) is Tensor and value.dtype == torch.bfloat16 else value

    return tree_map(widened, results)

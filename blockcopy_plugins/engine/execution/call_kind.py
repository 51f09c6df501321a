"""What a replay cannot read of a call, or compute of its results."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..adapter import Call
from ..torch_internals import TreeSpec, tree_builder, tree_flatten
from .capture_guard import CaptureError

_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)


def kind_of_call(call: Call) -> Hashable:
    """The part of a call that is not data.

    Raises:
        CaptureError: If it has data besides the frame.
    """
    device = call.frame.device.type
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    inference = torch.is_inference_mode_enabled()
    if call.is_bare:
        return inference, autocast
    frame = object()
    leaves, spec = tree_flatten(call.replace(frame))
    rest = []
    for leaf in leaves:
        if leaf is frame:
            rest.append("the frame")
        elif isinstance(leaf, _PLAIN):
            rest.append((type(leaf), leaf))
        else:
            raise CaptureError(
                f"the model is called with a {type(leaf).__name__} besides the frame, which a "
                "replay would not read"
            )
    return tuple(rest), str(spec), inference, autocast


@dataclass(frozen=True)
class ResultForm:
    """What the results of a call are apart from their tensors.

    Attributes:
        spec: Of the results and of what the call left, as torch describes it.
    """

    spec: TreeSpec

    @cached_property
    def build(self) -> Callable[[list[Tensor | None]], Any]:
        """Makes the results and what the call left of their tensors."""
        return tree_builder(self.spec)


def results_of_call(result: Any, call: Call) -> tuple[list[Tensor | None], ResultForm]:
    """The tensors among the results of a call.

    Raises:
        CaptureError: If anything else among them could differ from frame to frame.
    """
    leaves, spec = tree_flatten((result, dict(call.left)))
    for leaf in leaves:
        if leaf is not None and not isinstance(leaf, Tensor):
            raise CaptureError(
                f"its results hold a {type(leaf).__name__}, which a replay could not compute"
            )
    return leaves, ResultForm(spec)

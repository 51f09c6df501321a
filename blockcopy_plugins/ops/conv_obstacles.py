"""Why the package's own kernels cannot run a convolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_NONE = ()
NO_KERNELS = (
    "there are no kernels for this processor (python -m blockcopy_plugins.info says why)",
)


def conv_obstacles(x: Tensor, weight: Tensor, groups: int) -> Sequence[str]:
    """Why :func:`.conv_blocks.conv_blocks` cannot run a convolution, or should not.

    Args:
        x: ``(N, C, H, W)``.
        weight: ``(C_out, C / groups, kh, kw)``.
        groups: Groups of channels.

    Returns:
        The reasons in words; empty if it can, given kernels for this processor
        (:func:`.conv_blocks.conv_kernels`).
    """
    dtype = weight.dtype
    depthwise = groups > 1 and weight.shape[1] == 1
    # Asked for each convolution of each frame: text is made only if there is a reason.
    if (
        (groups == 1 or depthwise)
        and dtype == x.dtype
        and (dtype == torch.float32 or not _of_dtype(weight, depthwise))
        and weight.device.type == "cpu"
        and x.device.type == "cpu"
        and not weight.is_inference()
        and not torch.is_autocast_enabled("cpu")
    ):
        return _NONE
    reasons = [] if groups == 1 or depthwise else [f"it has {groups} groups"]
    if dtype != x.dtype:
        reasons.append(f"its map is {x.dtype}, its weight {dtype}")
    if not x.device.type == weight.device.type == "cpu":
        reasons.append(f"it is on {x.device.type}")
    if weight.is_inference():
        reasons.append("its weight was made in inference mode")
    if torch.is_autocast_enabled("cpu"):
        reasons.append("autocast is on")
    return reasons + _of_dtype(weight, depthwise)


def _of_dtype(weight: Tensor, depthwise: bool) -> list[str]:
    if weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and depthwise):
        return []
    if weight.dtype != torch.bfloat16:
        return [f"it is {weight.dtype}"]
    # Tiles of AMX, which oneDNN uses, are faster than vectors.
    return ["this processor has AMX, with which torch is faster"] if _has_amx() else []


def _has_amx() -> bool:
    # Not a public name; a version of torch that lacks it counts as having no tiles.
    return getattr(torch.cpu, "_is_amx_tile_supported", bool)()

"""Batched products and attention in the masked reference: which are per pixel, which are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

aten = torch.ops.aten

_PIXELS = ("NCLC", "BCLC", "NLC", "BLC")
ATTENTIONS = (
    aten.scaled_dot_product_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
)


def axes_by_itself(func, args: Sequence, kwargs: Mapping, maps: Sequence) -> str | None:
    """Axes of a result in which each pixel, or window, depends only on itself; else ``None``.

    ``func`` is ``bmm`` or one of :data:`ATTENTIONS`, and ``maps`` are the masked tensors among its
    arguments.
    """
    alike = len({x.axes for x in maps}) == 1
    if func in ATTENTIONS:
        windows = maps[0].axes in ("RCC", "PCC", "RCCC", "PCCC")
        masked_apart = windows and _masks_each(args, kwargs)
        fits = len(maps) == 3 and windows and alike and (masked_apart or _attends(args, kwargs))
        return maps[0].axes if fits else None
    if len(maps) == 2:
        return maps[0].axes if alike and maps[0].axes in ("RCC", "PCC") else None
    (x,) = maps
    if args[1] is x:
        return x.axes if x.axes in ("NCL", "BCL") else None
    # One matrix for all, as in a linear layer, or one for each image (and head).
    one = args[1].stride(0) == 0 or len(args[1]) == 1
    return x.axes if x.axes in ("NLC", "BLC") or (x.axes == "GWC" and one) else None


def queries_of(func, args: Sequence, kwargs: Mapping):
    """The masked tensor with the queries of a result, if each of its pixels reads a whole map."""
    if func is aten.bmm.default:
        first, second = (getattr(x, "axes", "") for x in args)
        if first in ("NLC", "BLC") and second in (first, first[0] + "CL"):
            return args[0]
        return args[1] if first == second and first in ("NCL", "BCL") else None
    if func not in ATTENTIONS or getattr(args[0], "axes", None) not in _PIXELS:
        return None
    return args[0] if _attends(args, kwargs) else None


def _attends(args: Sequence, kwargs: Mapping) -> bool:
    """Whether a fused attention has no mask, or the same one for all images and windows."""
    if any(isinstance(value, (bool, float)) and value for value in args[3:]):
        return False
    if kwargs.get("is_causal") or kwargs.get("enable_gqa"):
        return False
    mask = _mask(args, kwargs)
    if hasattr(mask, "axes"):
        return False
    return mask is None or mask.dim() < args[0].dim() or len(mask) == 1


def _masks_each(args: Sequence, kwargs: Mapping) -> bool:
    """Whether a fused attention has a mask for each window, and nothing else."""
    mask = _mask(args, kwargs)
    alone = not any(isinstance(value, (bool, float)) and value for value in args[4:])
    plain = mask is not None and not hasattr(mask, "axes")
    return plain and alone and mask.dim() == args[0].dim() and len(mask) == len(args[0])


def _mask(args: Sequence, kwargs: Mapping) -> Tensor | None:
    mask = kwargs.get("attn_mask", (*args, None)[3])
    return mask if isinstance(mask, Tensor) else None

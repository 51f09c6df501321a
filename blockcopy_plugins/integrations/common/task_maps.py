"""Maps in the forms in which networks return them, as logits that policies compare."""

from __future__ import annotations

import torch
from torch import Tensor

# Step of log(1 + depth) that counts as one class: about a third nearer or farther.
_STEP = 0.4
_STEPS = 16
_LEAST = 1e-6


def mask_logits(classes: Tensor, masks: Tensor) -> Tensor:
    """Logits of a segmentation by masks, each with a distribution of classes (MaskFormer).

    Args:
        classes: ``(N, K, classes + 1)``, logits of each mask's class, the last one for no class.
        masks: ``(N, K, h, w)``, logits of each mask.

    Returns:
        float32 ``(N, classes, h, w)``: the logarithm of each class's share of a pixel.
    """
    shares = classes.detach().float().softmax(-1)[..., :-1]
    seen = torch.einsum("nkc,nkhw->nchw", shares, masks.detach().float().sigmoid())
    return (seen + _LEAST).log()


def depth_logits(depth: Tensor) -> Tensor:
    """Depth as a distribution over steps of its logarithm.

    The divergence of two such distributions is half the squared change of ``log(1 + depth)`` in
    steps, as for two normal distributions.

    Args:
        depth: ``(N, h, w)`` or ``(N, 1, h, w)``, not negative.

    Returns:
        float32 ``(N, 16, h, w)``.
    """
    depth = depth.detach().float().clamp(min=0)
    depth = depth if depth.dim() == 4 else depth.unsqueeze(1)
    middles = _STEP * torch.arange(_STEPS, device=depth.device).view(1, -1, 1, 1)
    return -0.5 * ((depth.log1p() - middles) / _STEP).square()

"""The loss of CSP's centre map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from blockcopy_plugins.registry import MODELS


@MODELS.register_module()
class CenterFocalLoss(nn.Module):
    """Focal loss in which cells near a centre count little as negatives (Liu et al., CVPR 2019).

    MMDetection's ``GaussianFocalLoss`` takes the cells where its Gaussian is 1 as centres. CSP's
    centres are given separately: they are rounded differently from their Gaussians, and may be one
    cell away.

    Args:
        gamma: Exponent of the distance of a score from the right one.
        beta: Exponent of one minus the Gaussian, the weight of a negative.
        loss_weight: Factor of the loss.
    """

    def __init__(self, gamma: float = 2.0, beta: float = 4.0, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.beta = beta
        self.loss_weight = loss_weight

    def forward(self, logits: Tensor, centers: Tensor, gaussian: Tensor, valid: Tensor) -> Tensor:
        """Sum over the maps, divided by the number of centres.

        Args:
            logits: float ``(N, 1, h, w)``.
            centers: float ``(N, 1, h, w)``, 1 in the cell of each centre, else 0.
            gaussian: float ``(N, 1, h, w)``, 0 to 1, nearness to a centre.
            valid: float ``(N, 1, h, w)``, 0 in ignored cells, else 1; 1 at centres.

        Returns:
            The loss, a scalar.
        """
        score = logits.sigmoid()
        positive = centers * (1 - score) ** self.gamma
        negative = (valid - centers) * (1 - gaussian) ** self.beta * score**self.gamma
        loss = F.binary_cross_entropy_with_logits(logits, centers, reduction="none")
        return self.loss_weight * ((positive + negative) * loss).sum() / centers.sum().clamp(min=1)

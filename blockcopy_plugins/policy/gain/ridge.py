"""Linear regression that learns while it is used."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blockcopy_plugins.host_transfer import upload
from blockcopy_plugins.ops.ridge import ridge_sums, ridge_weights


class OnlineRidge:
    """Ridge regression around a prior, with forgetting, solved exactly.

    ``w = argmin sum_i decay_i (y_i - w . x_i)^2 + strength |w - prior|^2``. There is no learning
    rate and nothing to warm up: before the first sample ``w`` is the prior, and a few tens of
    samples move it as far as they can be trusted. Memory and time do not grow with the number of
    samples: only sums over them are kept, in float64.

    Args:
        prior: The weights to begin with, float ``(n,)``.
        strength: How many unit samples the prior is worth.
        memory: Samples after which the weight of one has decayed to 1/e.
    """

    def __init__(self, prior: Tensor, strength: float, memory: float) -> None:
        self.prior = prior.to(torch.float64)
        self.strength = strength
        self.memory = memory
        self.weights = self.prior.clone()
        self.products = torch.zeros(len(prior), len(prior), dtype=torch.float64)
        self.targets = torch.zeros(len(prior), dtype=torch.float64)

    def learn(self, features: Tensor, values: Tensor, seen: Tensor, count: int) -> None:
        """Take samples in; :meth:`solve` then finds the weights.

        Args:
            features: float32 ``(m, n)``.
            values: float32 ``(m,)``, the values to predict; finite in all rows.
            seen: bool ``(m,)``: the rows that are samples.
            count: Number of rows that are samples.
        """
        if count:
            decay = math.exp(-count / self.memory)
            self.products, self.targets = ridge_sums(
                self.products, self.targets, features, values, seen, decay
            )

    def solve(self) -> None:
        """Find the weights from the sums."""
        self.weights = ridge_weights(self.products, self.targets, self.prior, self.strength)

    def to(self, device: torch.device) -> None:
        """Move to the frames' device."""
        if self.weights.device == device:
            return
        for name in ("prior", "weights", "products", "targets"):
            setattr(self, name, upload(getattr(self, name), device))

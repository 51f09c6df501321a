"""The features from which a block's information gain is predicted."""

from __future__ import annotations

import torch
from torch import Tensor

from blockcopy_plugins.ops.block_gain import FEATURES as NAMES

# Added to differences, in standard deviations of the picture, before their logarithm is taken: for
# 8-bit video about half a grey level, below which there is only noise.
DIFFERENCE_FLOOR = 0.01


def prior() -> Tensor:
    """Return the weights before any learning: a block's picture difference is its gain."""
    weights = torch.zeros(len(NAMES))
    weights[NAMES.index("difference_peak")] = 1.0
    weights[NAMES.index("surprise")] = 1.0
    return weights

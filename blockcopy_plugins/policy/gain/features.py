"""What a block's information gain is predicted from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blockcopy_plugins.policy.picture import cells_per_block, cells_to_grid

from .memory import BlockMaps

NAMES = (
    "difference_peak",
    "difference",
    "difference_around",
    "difference_of_frame",
    "stale",
    "log_gain",
    "log_gain_around",
    "surprise",
    "age",
    "output",
    "output_peak",
    "one",
)

# Added to differences, in standard deviations of the picture, before their logarithm is taken: of
# 8-bit video about half a grey level, below which there is only noise.
_DIFFERENCE_FLOOR = 0.01


def prior() -> Tensor:
    """Return the weights before anything was learned: a block's picture difference is its gain."""
    weights = torch.zeros(len(NAMES))
    weights[NAMES.index("difference_peak")] = 1.0
    weights[NAMES.index("surprise")] = 1.0
    return weights


class PictureChange:
    """How much the picture of each block changed since it was executed, float32 ``(N, GH, GW)``.

    Differences are absolute, averaged over channels and over each sixteenth of a block (over each
    cell where it has fewer than 4 x 4), in standard deviations of the picture.

    Args:
        picture: float32 ``(N, 3, h, w)`` on cells.
        executed: The picture that each block was last executed on, alike.
        block_size: Side of a block in pixels.

    Attributes:
        peak: The largest difference in the block.
        mean: The mean difference.
    """

    def __init__(self, picture: Tensor, executed: Tensor, block_size: int) -> None:
        cells = cells_per_block(block_size)
        part = max(cells // 4, 1)
        difference = (picture - executed).abs_().mean(1)
        parts = F.avg_pool2d(difference, part).div_(_deviation(picture))
        self.peak = cells_to_grid(parts, cells // part, "max")
        self.mean = F.avg_pool2d(parts, cells // part)


def block_features(change: PictureChange, maps: BlockMaps) -> Tensor:
    """Return float32 ``(N, GH, GW, len(NAMES))``."""
    mean = change.mean
    of_frame = mean.mean((1, 2), keepdim=True).expand_as(mean)
    mean_around, log_gain_around = around(torch.stack((mean, maps.log_gain), 1)).unbind(1)
    differences = torch.stack((change.peak, mean, mean_around, of_frame, maps.stale), -1)
    others = (
        maps.log_gain,
        log_gain_around,
        maps.surprise,
        maps.age.log(),
        maps.output,
        maps.output_peak,
        torch.ones_like(mean),
    )
    logs = differences.add_(_DIFFERENCE_FLOOR).log_()
    return torch.cat((logs, torch.stack(others, -1)), -1)


def around(values: Tensor, own: bool = False) -> Tensor:
    """Return the mean over the eight neighbours; those outside the grid are the nearest inside.

    Args:
        values: float32 ``(N, GH, GW)`` or ``(N, C, GH, GW)``.
        own: Take the block itself into the mean.
    """
    # Padding wants a batch or channels in front of the two sides.
    nine = F.avg_pool2d(F.pad(values, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return nine if own else nine.mul_(9 / 8).sub_(values, alpha=1 / 8)


def _deviation(picture: Tensor) -> Tensor:
    """Return the standard deviation of each picture ``(N, 1, 1)``, of every fourth cell each way.

    No less than a twentieth of the mean brightness: the noise of a flat picture is no motion.
    """
    variance, mean = torch.var_mean(picture[:, :, 1::4, 1::4], (2, 3))
    floor = mean.abs_().mean(1).mul_(0.05)
    return torch.maximum(variance.mean(1).sqrt_(), floor).clamp_min_(1e-6)[:, None, None]

"""What a block's information gain is predicted from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blockcopy_plugins.policy.picture import cells_per_block, cells_to_grid

from .memory import BlockMaps

NAMES = (
    "one",
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
        parts = cells_to_grid(difference, part, "mean").div_(_deviation(picture))
        self.peak = cells_to_grid(parts, cells // part, "max")
        self.mean = cells_to_grid(parts, cells // part, "mean")


def block_features(change: PictureChange, maps: BlockMaps) -> Tensor:
    """Return float32 ``(N, GH, GW, len(NAMES))``."""
    mean = change.mean
    of_frame = mean.mean((1, 2), keepdim=True).expand_as(mean)
    differences = torch.stack((change.peak, mean, around(mean), of_frame, maps.stale), -1)
    others = (
        maps.log_gain,
        around(maps.log_gain),
        maps.surprise,
        maps.age.log(),
        maps.output,
        maps.output_peak,
    )
    return torch.cat(
        (
            torch.ones_like(mean).unsqueeze(-1),
            differences.add_(_DIFFERENCE_FLOOR).log_(),
            torch.stack(others, -1),
        ),
        -1,
    )


def around(values: Tensor, own: bool = False) -> Tensor:
    """Return the mean over the eight neighbours; those outside the grid are the nearest inside.

    Args:
        values: float32 ``(N, GH, GW)``.
        own: Take the block itself into the mean.
    """
    padded = F.pad(values.unsqueeze(1), (1, 1, 1, 1), mode="replicate")
    nine = F.avg_pool2d(padded, 3, 1).squeeze(1)
    return nine if own else nine.mul_(9 / 8).sub_(values, alpha=1 / 8)


def _deviation(picture: Tensor) -> Tensor:
    """Return the standard deviation of each picture ``(N, 1, 1)``, of every fourth cell each way.

    As in :func:`~blockcopy_plugins.policy.picture.picture_statistics` no less than a twentieth of
    the mean absolute value: the noise of a flat picture is no motion.
    """
    some = picture[:, :, 1::4, 1::4]
    deviation = (some - some.mean((2, 3), keepdim=True)).square_().mean((1, 2, 3)).sqrt_()
    floor = some.abs().mean((1, 2, 3)).mul_(0.05)
    return torch.maximum(deviation, floor).clamp_min_(1e-6)[:, None, None]

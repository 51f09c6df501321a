"""The predicted gain of each block of a frame, and the memory of the gain that was seen."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad, check_tensor
from blockcopy_plugins.ops.library import operator, register_operator

FEATURES = (
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
"""The features that predict a block's gain; the first five are logs of picture differences."""

MAPS = ("log_gain", "surprise", "age", "stale", "output", "output_peak")
"""What is known of each block; see :mod:`blockcopy_plugins.policy.gain.memory`."""

# Sixteenths of a block, whose mean difference counts.
_PARTS = 4
# Bounds of a predicted logarithm, and of a surprise.
_LOWEST, _HIGHEST = -6.0, 2.0
_SURPRISE = 4.0


class Prediction(NamedTuple):
    """What :func:`predict_gain` returns.

    Attributes:
        features: float32 ``(N, GH, GW, 12)``, see :data:`FEATURES`.
        expected: float32 ``(N, GH, GW)``, the predicted ``log(gain + gain_floor)``.
        worth: float32 ``(N, GH, GW)``, the predicted gain.
        scores: float32 ``(N, GH, GW)``, half the worth, half the mean worth of the block and those
            around it, and an addition for waiting.
        change: float32 ``(N, GH, GW)``, the mean picture difference.
        measures: float32 ``(4, N)``, for each image ``(sum w)^2 / (blocks * sum w^2)`` of the
            worths, their mean, 1, and the mean of the picture, which is finite if all of it is.
    """

    features: Tensor
    expected: Tensor
    worth: Tensor
    scores: Tensor
    change: Tensor
    measures: Tensor


def predict_gain_reference(
    picture: Tensor,
    executed: Tensor,
    maps: Tensor,
    weights: Tensor,
    forbidden: Tensor | None,
    cells: int,
    difference_floor: float,
    gain_floor: float,
    least_worth: float,
    waiting: float,
) -> tuple[Tensor, ...]:
    """Pure-PyTorch twin of :func:`predict_gain`: same arguments, results and errors; any device."""
    check_no_grad("predict_gain", picture, executed, maps, weights)
    _check_prediction(picture, executed, maps, weights, forbidden, cells)
    part = cells // _PARTS
    difference = (picture - executed).abs_().mean(1)
    parts = F.avg_pool2d(difference, part).div_(_deviation(picture))
    blocks = parts.unflatten(-1, (-1, _PARTS)).unflatten(-3, (-1, _PARTS))
    # Rows first: their values lie side by side.
    peak = blocks.amax(-3).amax(-1)
    change = F.avg_pool2d(parts, _PARTS)

    log_gain, surprise, age, stale, output, output_peak = maps.unbind(1)
    of_frame = change.mean((1, 2), keepdim=True).expand_as(change)
    change_around, gain_around = around(torch.stack((change, log_gain), 1)).unbind(1)
    logs = torch.stack((peak, change, change_around, of_frame, stale), -1)
    logs = logs.add_(difference_floor).log_()
    one = torch.ones_like(change)
    others = (log_gain, gain_around, surprise, age.log(), output, output_peak, one)
    features = torch.cat((logs, torch.stack(others, -1)), -1)

    # In float64 throughout: autocast would turn a float32 product into bfloat16.
    expected = (features.to(torch.float64) @ weights).float().clamp_(_LOWEST, _HIGHEST)
    worth = expected.exp().sub_(gain_floor).clamp_min_(least_worth)
    if forbidden is not None:
        worth = worth.masked_fill_(forbidden, least_worth)
    scores = torch.lerp(around(worth, own=True), worth, 0.5).add_(age, alpha=waiting)
    mean = worth.mean((1, 2))
    spread = mean.square() / worth.square().mean((1, 2)).clamp_min(1e-20)
    measures = torch.stack((spread, mean, torch.ones_like(mean), picture.mean((1, 2, 3))))
    return features, expected, worth, scores, change, measures


def around(values: Tensor, own: bool = False) -> Tensor:
    """Return the mean over the eight neighbours; those outside the grid are the nearest inside.

    Args:
        values: float32 ``(N, GH, GW)`` or ``(N, C, GH, GW)``.
        own: Take the block itself into the mean.
    """
    # Padding needs a batch or channel dimension before the two sides.
    nine = F.avg_pool2d(F.pad(values, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return nine if own else nine.mul_(9 / 8).sub_(values, alpha=1 / 8)


def _deviation(picture: Tensor) -> Tensor:
    """Return the standard deviation of each picture ``(N, 1, 1)``, over every fourth cell each way.

    It is no less than a twentieth of the mean brightness: the noise of a flat picture is not
    motion.
    """
    variance, mean = torch.var_mean(picture[:, :, 1::4, 1::4], (2, 3))
    floor = mean.abs_().mean(1).mul_(0.05)
    return torch.maximum(variance.mean(1).sqrt_(), floor).clamp_min_(1e-6)[:, None, None]


def _check_prediction(
    picture: Tensor,
    executed: Tensor,
    maps: Tensor,
    weights: Tensor,
    forbidden: Tensor | None,
    cells: int,
) -> tuple[int, int, int]:
    """Check the arguments, and return the shape of the grid."""
    torch._check_value(
        maps.dim() == 4,
        lambda: f"blockcopy: maps must be (N, {len(MAPS)}, GH, GW), found {tuple(maps.shape)}",
    )
    torch._check_value(
        cells >= _PARTS and cells % _PARTS == 0,
        lambda: f"blockcopy: cells is {cells}, expected a multiple of {_PARTS}",
    )
    images, _, rows, columns = maps.shape
    check_tensor("picture", picture, torch.float32, (images, 3, rows * cells, columns * cells))
    check_tensor("executed", executed, torch.float32, tuple(picture.shape))
    check_tensor("maps", maps, torch.float32, (images, len(MAPS), rows, columns))
    check_tensor("weights", weights, torch.float64, (len(FEATURES),))
    check_tensor("forbidden", forbidden, torch.bool, (images, rows, columns))
    return images, rows, columns


def _predict_gain_fake(
    picture: Tensor,
    executed: Tensor,
    maps: Tensor,
    weights: Tensor,
    forbidden: Tensor | None,
    cells: int,
    difference_floor: float,
    gain_floor: float,
    least_worth: float,
    waiting: float,
) -> tuple[Tensor, ...]:
    grid = _check_prediction(picture, executed, maps, weights, forbidden, cells)
    blocks = [picture.new_empty(grid) for _ in range(4)]
    measures = picture.new_empty((4, grid[0]))
    return picture.new_empty((*grid, len(FEATURES))), *blocks, measures


def _remember_gain_fake(
    maps: Tensor,
    grid: Tensor,
    change: Tensor,
    expected: Tensor,
    weights: Tensor,
    gain: Tensor | None,
    output: Tensor | None,
) -> Tensor:
    torch._check_value(
        maps.dim() == 3,
        lambda: f"blockcopy: maps must be ({len(MAPS)}, GH, GW), found {tuple(maps.shape)}",
    )
    sides = tuple(maps.shape[1:])
    check_tensor("maps", maps, torch.float32, (len(MAPS), *sides))
    check_tensor("grid", grid, torch.bool, sides)
    check_tensor("change", change, torch.float32, sides)
    check_tensor("expected", expected, torch.float32, sides)
    check_tensor("weights", weights, torch.float64, (len(FEATURES),))
    check_tensor("gain", gain, torch.float32, sides)
    check_tensor("output", output, torch.float32, (2, *sides))
    return torch.empty_like(maps, memory_format=torch.contiguous_format)


_PREDICT_GAIN = register_operator(
    "predict_gain(Tensor picture, Tensor executed, Tensor maps, Tensor weights, "
    "Tensor? forbidden, int cells, float difference_floor, float gain_floor, float least_worth, "
    "float waiting) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=predict_gain_reference,
    fake=_predict_gain_fake,
)


def predict_gain(
    picture: Tensor,
    executed: Tensor,
    maps: Tensor,
    weights: Tensor,
    forbidden: Tensor | None,
    cells: int,
    difference_floor: float,
    gain_floor: float,
    least_worth: float,
    waiting: float,
) -> Prediction:
    """Predict the gain of executing each block, from a linear model of its logarithm.

    A picture's difference is absolute, averaged over channels and over each sixteenth of a block,
    in standard deviations of the picture (no less than a twentieth of its mean brightness).

    Args:
        picture: float32 ``(N, 3, GH * cells, GW * cells)``.
        executed: The picture with which each block was last executed, of the same shape.
        maps: float32 ``(N, 6, GH, GW)``, see :data:`MAPS`.
        weights: float64 ``(12,)``, of :data:`FEATURES`.
        forbidden: bool ``(N, GH, GW)``, blocks that are worth nothing; None for none.
        cells: Side of a block in cells, a multiple of 4.
        difference_floor: Added to a difference before its logarithm is taken.
        gain_floor: Added by the model to a gain in the same way.
        least_worth: The smallest worth of a block.
        waiting: Addition to a score for each frame of waiting.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If a dtype does not fit.
        RuntimeError: If gradients are recorded and a tensor requires grad.
    """
    return Prediction(
        *_PREDICT_GAIN(
            picture,
            executed,
            maps,
            weights,
            forbidden,
            cells,
            difference_floor,
            gain_floor,
            least_worth,
            waiting,
        )
    )


@operator(
    "remember_gain(Tensor maps, Tensor grid, Tensor change, Tensor expected, Tensor weights, "
    "Tensor? gain, Tensor? output, bool everywhere, float gain_floor, float step) -> Tensor",
    fake=_remember_gain_fake,
)
def remember_gain(
    maps: Tensor,
    grid: Tensor,
    change: Tensor,
    expected: Tensor,
    weights: Tensor,
    gain: Tensor | None,
    output: Tensor | None,
    everywhere: bool,
    gain_floor: float,
    step: float,
) -> Tensor:
    """Return what is known of an image's blocks after some have run; writes nothing in place.

    Args:
        maps: float32 ``(6, GH, GW)``, what was known; see :data:`MAPS`.
        grid: bool ``(GH, GW)``, the executed blocks.
        change: float32 ``(GH, GW)``, the picture difference; a block that is not executed makes
            executed blocks that read it stale.
        expected: float32 ``(GH, GW)``, the predicted ``log(gain + gain_floor)``.
        weights: float64 ``(12,)``, the weights of that prediction.
        gain: float32 ``(GH, GW)``, the gain of the executed blocks, read only there and at least 0;
            None if it is not known.
        output: float32 ``(2, GH, GW)``, mean and peak of the new output; None if there is none.
        everywhere: Whether ``output`` is known for all blocks, and not only for executed ones.
        gain_floor: See above.
        step: Step of the running mean of surprises.

    Returns:
        float32 ``(6, GH, GW)``.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If a dtype does not fit.
        RuntimeError: If gradients are recorded and a tensor requires grad.
    """
    check_no_grad("remember_gain", maps, change, expected, weights)
    _remember_gain_fake(maps, grid, change, expected, weights, gain, output)
    log_gain, surprise, age, stale, shown, shown_peak = maps.unbind(0)
    around_it = around(torch.where(grid, 0.0, change)[None])[0]
    stale = torch.where(grid, around_it, stale)
    age = torch.where(grid, 1.0, age + 1)
    if gain is not None:
        seen = gain.add(gain_floor).log_()
        habit = weights[FEATURES.index("surprise")].float()
        missed = seen - expected + (habit - 1) * surprise
        # That nothing came where nothing was expected says little.
        told = torch.maximum(gain, expected.exp() - gain_floor).clamp_min_(0)
        part = step * told / (told + gain_floor) * grid
        surprise = torch.addcmul(surprise, part, missed).clamp_(-_SURPRISE, _SURPRISE)
        log_gain = torch.where(grid, seen, log_gain)
    if output is not None:
        mean, peak = output
        shown = mean if everywhere else torch.where(grid, mean, shown)
        shown_peak = peak if everywhere else torch.where(grid, peak, shown_peak)
    return torch.stack((log_gain, surprise, age, stale, shown, shown_peak))

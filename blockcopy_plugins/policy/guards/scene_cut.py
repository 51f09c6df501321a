"""A guard: a full frame when the scene, or its light, changes at once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import torch
from torch import Tensor

from blockcopy_plugins.policy.base import PolicyContext

from .base import Guard, check_positive
from .stream_memory import StreamMemory

# The picture is looked at in TILES x TILES tiles, at TILE_SIDE x TILE_SIDE pixels of each.
TILES = 4
TILE_SIDE = 8
# Weight of the old value in the running mean of the changes; the rest is that of a new frame.
_MEMORY = 0.9


class SceneCut(Guard):
    """Promises a full frame at a cut and at a sudden change of light.

    Each frame is compared with the one before it. In each of 4 x 4 tiles of the picture the values
    of the same sparse pixels are sorted, and the mean difference between the two sorted lists (the
    Wasserstein distance of their distributions) is taken in units of the picture's standard
    deviation. Movement within a tile changes nothing, noise and motion across the tiles' borders
    change little, and a cut or another light changes much, in most tiles. The *change* of the frame
    is the median over the tiles; tiles that have one colour in both frames (padding) do not count.

    The whole frame runs if the change is above ``threshold`` and also ``ratio`` times as large as
    changes have lately been (their running mean; roughly the last ten frames). So a fast camera, or
    a light that flickers all the time, does not trigger it in every frame, and the frames after a
    cut do not trigger it again. A flash triggers it twice, because light changes twice. Fades and
    dissolves are not cuts: they are left to the policy.

    Args:
        threshold: In standard deviations of the picture, above 0. Default: 0.35.
        ratio: Above 0. Default: 3.

    Raises:
        ConfigError: If an option is not a number above 0.
    """

    def __init__(self, threshold: float = 0.35, ratio: float = 3.0) -> None:
        self.threshold = check_positive(self, "threshold", threshold)
        self.ratio = check_positive(self, "ratio", ratio)
        self._values = StreamMemory()
        self._usual = StreamMemory()
        # Sorted values and change of the last frame that was looked at, for commit().
        self._looked: tuple[Tensor, Tensor] | None = None

    @property
    def name(self) -> str:
        """See :attr:`Guard.name`."""
        return f"SceneCut(threshold={self.threshold:g}, ratio={self.ratio:g})"

    def demand(self, frame: Tensor, context: PolicyContext) -> tuple[Tensor, None]:
        """Demand all blocks of the images in which everything has changed."""
        values = tile_values(frame)
        nan = float("nan")
        before = self._values.read(
            context.streams, values.shape[1:], nan, values.dtype, values.device
        )
        change = picture_change(before, values)
        self._looked = (values, change)
        limit = (self._read_usual(context, frame.device) * self.ratio).clamp_min(self.threshold)
        # For an unknown stream the change is NaN, which is never above a threshold.
        return (change > limit)[:, None, None].expand(context.grid_shape), None

    def commit(self, grid: Tensor, context: PolicyContext) -> None:
        """Remember the frame, and how much it changed."""
        if self._looked is None:
            return
        (values, change), self._looked = self._looked, None
        usual = self._read_usual(context, values.device)
        self._usual.write(context.streams, usual.lerp(change.nan_to_num(nan=0.0), 1 - _MEMORY))
        self._values.write(context.streams, values)

    def reset(self, streams: Iterable[Hashable] | None = None) -> None:
        """See :meth:`Guard.reset`."""
        streams = None if streams is None else list(streams)
        self._values.forget(streams)
        self._usual.forget(streams)

    def _read_usual(self, context: PolicyContext, device: torch.device) -> Tensor:
        return self._usual.read(context.streams, (), 0.0, torch.float32, device)


def tile_values(frame: Tensor) -> Tensor:
    """Sort the values of sparse pixels of a frame, tile by tile.

    Args:
        frame: ``(N, C, H, W)``, any float dtype.

    Returns:
        float32 ``(N, tiles, C, pixels)``, ascending along the last axis.
    """
    rows, columns = (_sample(length) for length in frame.shape[2:])
    picked = frame[:, :, rows, columns].float()
    tiles = picked.unflatten(3, (_tiles(frame.shape[3]), -1))
    tiles = tiles.unflatten(2, (_tiles(frame.shape[2]), -1))
    # (N, C, tiles, h, tiles, w): pixels of a tile side by side.
    return tiles.permute(0, 2, 4, 1, 3, 5).flatten(4).flatten(1, 2).sort(-1).values


def picture_change(before: Tensor, now: Tensor) -> Tensor:
    """How much a picture changed.

    Args:
        before: The :func:`tile_values` of a frame; NaN where there was none.
        now: Those of the next frame.

    Returns:
        float32 ``(N,)``, in standard deviations of the picture, NaN where there was no frame.
    """
    distance = (now - before).abs().mean((2, 3))
    flat = (now[..., -1] == now[..., 0]) & (now == before).all(-1)
    distance = distance.masked_fill(flat.all(2), float("nan"))
    scale = _deviation(torch.stack((before, now))).amax(0)
    # The lower median of those that count; NaN is sorted to the end. (On a GPU, nanmedian is
    # refused if algorithms have to be deterministic.)
    middle = (distance.isfinite().sum(1, keepdim=True) - 1).clamp_min(0) // 2
    return distance.sort(1).values.gather(1, middle).squeeze(1) / scale


def _tiles(length: int) -> int:
    return min(TILES, length)


def _sample(length: int) -> slice:
    """Pixels along a side at equal distances: as many in each tile, as far from both ends."""
    step = max(length // (TILES * TILE_SIDE), 1)
    span = length // step // _tiles(length) * _tiles(length) * step
    return slice((length - span + step - 1) // 2, (length - span + step - 1) // 2 + span, step)


def _deviation(values: Tensor) -> Tensor:
    """Like :func:`~blockcopy_plugins.policy.picture.picture_statistics`, over the 3 last axes."""
    deviation = (values - values.mean((-3, -1), keepdim=True)).square().mean((-3, -2, -1)).sqrt()
    return torch.maximum(deviation, 0.05 * values.abs().mean((-3, -2, -1))).clamp_min(1e-6)

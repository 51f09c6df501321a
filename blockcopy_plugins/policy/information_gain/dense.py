"""Information gain of dense outputs: segmentation logits, and features of any kind."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blockcopy_plugins.errors import ConfigError, FrameError
from blockcopy_plugins.ops.all_finite import all_finite
from blockcopy_plugins.ops.block_divergence import block_divergence
from blockcopy_plugins.ops.reduce_picture import reduce_picture as mean_of_squares
from blockcopy_plugins.ops.softmax_change import keep_softmax_, softmax_change
from blockcopy_plugins.policy.picture import cells_to_grid
from blockcopy_plugins.policy.task_output import TaskOutput
from blockcopy_plugins.shared_copy import address_of

from .base import Geometry, InformationGain, OutputChange
from .samples import OutputSamples


class SemanticGain(InformationGain):
    """Gain of segmentation logits: the KL divergence of the new softmax from the previous one.

    ``KL(new || previous) = sum_c new_c (log new_c - log previous_c)``, in nats, on cells (logits
    of a finer resolution are averaged first). A block's value is the largest mean over the
    sixteenths of the block (or over its cells, if it has fewer than 4 x 4). A mean over the whole
    block would lose small objects, and the largest single cell would, in every block with a class
    border in it, be the flicker of that border. Values are clipped at ``clip``, so that a clear
    change of class counts as much as a box that came, and no single block dominates the update.

    A single channel is read as the logit of foreground against background.

    Args:
        clip: Highest gain of a block, in nats. Default: 1.0.

    Raises:
        ConfigError: If ``clip`` is not above 0.
    """

    def __init__(self, clip: float = 1.0) -> None:
        if not clip > 0:
            raise ConfigError(f"clip must be above 0 (nats), found {clip!r}")
        self.clip = float(clip)
        self._samples: OutputSamples | None = None

    def summarise(self, output: TaskOutput, geometry: Geometry) -> Tensor:
        """Return the log-softmax, float32 ``(C, h, w)``, nowhere finer than cells.

        Raises:
            FrameError: If the output is not a float tensor ``(C, h, w)``, or holds NaN or infinity
                in host memory; for an output on a device, :meth:`is_finite` checks that.
        """
        logits = pooled(output, geometry)
        if logits.shape[0] == 1:
            logits = torch.cat((logits, torch.zeros_like(logits)))
        return logits.log_softmax(0)

    def is_finite(self, output: Tensor) -> Tensor | None:
        """See :meth:`InformationGain.is_finite`."""
        return is_finite(output)

    def output_map(self, summary: Tensor, geometry: Geometry) -> Tensor:
        """Return how uncertain the output is: 1 - the highest probability."""
        return repeated(1 - summary.amax(0, keepdim=True).exp(), geometry)[0]

    def compare(self, previous: Tensor, current: Tensor, geometry: Geometry) -> Tensor:
        """Return the KL divergence of each block.

        Raises:
            FrameError: If the number of classes changed.
        """
        _check_classes(previous, current)
        return block_divergence(
            previous,
            current,
            geometry.size,
            geometry.grid,
            geometry.block_size,
            geometry.cells,
            self.clip,
        )

    def change(
        self, previous: Tensor | None, output: TaskOutput, grid: Tensor, geometry: Geometry
    ) -> OutputChange:
        """See :meth:`InformationGain.change`; in host memory only executed blocks are looked at.

        For logits finer than cells, two rows and columns of each cell are read: their mean is
        compared.

        Raises:
            FrameError: As :meth:`summarise`, for the values that are looked at.
        """
        check_dense(output)
        if output.device.type != "cpu":
            return super().change(previous, output, grid, geometry)
        samples = self._samples
        if samples is None or not samples.fits(output, geometry):
            self._samples = samples = OutputSamples(output, geometry)
        classes = max(output.shape[0], 2)
        shape = (classes, len(samples.rows), len(samples.columns))
        if previous is not None and previous.shape != shape:
            return super().change(previous, output, grid, geometry)
        looked_at = grid if previous is not None else torch.ones_like(grid)
        fresh, found = softmax_change(
            output.detach(),
            previous,
            looked_at,
            samples.rows,
            samples.columns,
            samples.cell_rows,
            samples.cell_columns,
            geometry.cells,
            self.clip,
        )
        if not math.isfinite(found[1].sum()):
            # An output that is not finite is refused. A sum of huge values may overflow.
            return super().change(previous, output, grid, geometry)
        gain = None if previous is None else found[0]
        return _SoftmaxChange(fresh, gain, found[1:], False, previous, grid, samples)


@dataclass(frozen=True, eq=False)
class _SoftmaxChange(OutputChange):
    """Log-probabilities of the executed blocks, and those of all blocks before."""

    previous: Tensor | None = None
    grid: Tensor | None = None
    samples: OutputSamples | None = None

    def keep(self) -> Tensor:
        if self.previous is None:
            return self.summary
        # In place: copying the blocks that were not executed would take longer than all the rest.
        keep_softmax_(
            self.previous,
            self.summary,
            self.grid,
            self.samples.cell_rows,
            self.samples.cell_columns,
            self.samples.geometry.cells,
        )
        return self.previous


class FeatureChange(InformationGain):
    """Gain of features of any kind: the relative L1 change.

    ``sum_c |new - previous| / sum_c (|new| + |previous|)``, from 0 to 1, both sums over the
    channels and over a sixteenth of the block; a block's value is the largest of these. A part that
    is 0 in both has the value 0.
    """

    def summarise(self, output: TaskOutput, geometry: Geometry) -> Tensor:
        """Return the features on cells, float32 ``(C, h, w)``.

        Raises:
            FrameError: If the output is not a float tensor ``(C, h, w)``, or holds NaN or infinity
                in host memory; for an output on a device, :meth:`is_finite` checks that.
        """
        cells = to_cells(output, geometry)
        return cells.clone() if address_of(cells) == address_of(output) else cells

    def is_finite(self, output: Tensor) -> Tensor | None:
        """See :meth:`InformationGain.is_finite`."""
        return is_finite(output)

    def output_map(self, summary: Tensor, geometry: Geometry) -> Tensor:
        """Return the features' mean magnitude, relative to its highest."""
        magnitude = summary.abs().mean(0)
        return magnitude / magnitude.amax().clamp_min(1e-12)

    def compare(self, previous: Tensor, current: Tensor, geometry: Geometry) -> Tensor:
        """Return the relative change of each block.

        Raises:
            FrameError: If the number of channels changed.
        """
        _check_classes(previous, current)
        part = max(geometry.cells // 4, 1)
        change = cells_to_grid((current - previous).abs().sum(0), part, "mean")
        size = cells_to_grid((current.abs() + previous.abs()).sum(0), part, "mean")
        return cells_to_grid(change / size.clamp_min(1e-12), geometry.cells // part, "max")


def check_dense(output: TaskOutput) -> None:
    """Refuse anything that is not a dense output.

    Raises:
        FrameError: If the output is not a float tensor ``(C, h, w)``.
    """
    if not isinstance(output, Tensor) or output.dim() != 3 or not output.is_floating_point():
        found = f"{output.dtype} {tuple(output.shape)}" if isinstance(output, Tensor) else output
        raise FrameError(f"a dense output must be a float tensor (C, h, w), found {found!r}")


def to_cells(output: TaskOutput, geometry: Geometry) -> Tensor:
    """Bring a dense output to cells.

    Args:
        output: float ``(C, h, w)`` of any resolution, covering the whole network input.
        geometry: The image's.

    Returns:
        float32 ``(C, GH * cells, GW * cells)``; ``output``'s own memory if it has this form
        already. Finer outputs are area-pooled, coarser ones repeated; cells outside the image
        repeat the nearest one inside.

    Raises:
        FrameError: If the output is not a float tensor ``(C, h, w)``, or holds NaN or infinity in
            host memory; for an output on a device, :func:`is_finite` checks that.
    """
    return repeated(pooled(output, geometry), geometry)


def pooled(output: TaskOutput, geometry: Geometry) -> Tensor:
    """Bring a dense output to a resolution that is nowhere finer than cells.

    Args:
        output: float ``(C, h, w)`` of any resolution, covering the whole network input.
        geometry: The image's.

    Returns:
        float32 ``(C, h, w)``, still covering exactly the network input; the output's own memory if
        nothing had to be done.

    Raises:
        FrameError: If the output is not a finite float tensor ``(C, h, w)``.
    """
    check_dense(output)
    values = output.detach()
    # The cells inside the image; its edge may cut the last row and column of them.
    inside = [-(-side * geometry.cells // geometry.block_size) for side in geometry.size]
    resolution = [min(side, most) for side, most in zip(values.shape[1:], inside, strict=True)]
    if resolution != list(values.shape[1:]):
        values = _area_pool(values, resolution)
    else:
        values = values.float()
    # A mean or sum with NaN or infinity in it is never finite; one of finite values may overflow.
    # On a device, the host would have to wait to check.
    if (
        values.device.type == "cpu"
        and not math.isfinite(values.sum())
        and not bool(torch.isfinite(output).all())
    ):
        raise FrameError(
            "the dense output holds NaN or infinity; the network that made it is broken, or its "
            "input was"
        )
    return values


def repeated(values: Tensor, geometry: Geometry) -> Tensor:
    """Repeat the result of :func:`pooled`, or a map of that resolution, to cells.

    Args:
        values: float ``(C, h, w)``.
        geometry: The image's.

    Returns:
        float ``(C, GH * cells, GW * cells)``; cells outside the image repeat the nearest inside.
    """
    for axis in (0, 1):
        pixels, cells = geometry.size[axis], geometry.map_size[axis]
        size = values.shape[1 + axis]
        if size != cells or cells * geometry.cell_size != pixels:
            nearest = _nearest(pixels, size, cells, geometry.cell_size, values.device)
            values = values.index_select(1 + axis, nearest)
    return values


def is_finite(output: Tensor) -> Tensor | None:
    """Return whether a dense output is finite, a bool scalar on its device; None in host memory."""
    return None if output.device.type == "cpu" else all_finite(output.detach())


def _area_pool(values: Tensor, size: list[int]) -> Tensor:
    """Average ``(C, h, w)`` to ``(C, *size)``, which is nowhere finer; float32."""
    side = values.shape[1] // size[0]
    if [side * cells for cells in size] == list(values.shape[1:]):
        return mean_of_squares(values[None], side)[0]
    return F.adaptive_avg_pool2d(values.float(), size)


def _nearest(pixels: int, source: int, cells: int, cell: float, device: torch.device) -> Tensor:
    """Return for each cell the index of the source value at its centre."""
    centres = (torch.arange(cells, dtype=torch.float64, device=device) + 0.5) * cell
    return (centres * (source / pixels)).long().clamp_max(source - 1)


def _check_classes(previous: Tensor, current: Tensor) -> None:
    if len(previous) != len(current):
        raise FrameError(
            f"the output had {len(previous)} channel(s) and now has {len(current)}; reset the "
            "stream when the network's task changes"
        )

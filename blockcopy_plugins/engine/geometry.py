"""How an image divides into blocks, and how blocks shrink and grow from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence


def ceil_div(a: int, b: int) -> int:
    """Integer division that rounds up."""
    return -(-a // b)


def grid_size(height: int, width: int, block_size: int) -> tuple[int, int]:
    """Blocks along each axis of an image.

    Args:
        height: Image height in pixels.
        width: Image width in pixels.
        block_size: Side of a block in pixels.

    Returns:
        ``(GH, GW)``; a block at the lower or right edge may reach beyond the image.
    """
    return ceil_div(height, block_size), ceil_div(width, block_size)


def fits_blocks(grid: tuple[int, int], size: Sequence[int], block: Sequence[int]) -> bool:
    """Whether blocks of this width suit a map: it is at most one block larger than the grid.

    Args:
        grid: Rows and columns of the grid.
        size: ``(H, W)`` of the map in pixels.
        block: Height and width of a block in pixels of the map.
    """
    return all(0 < s <= (g + 1) * b for g, s, b in zip(grid, size, block, strict=True))


def sliding_output(
    size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool = False
) -> int:
    """Output size of a convolution or pooling along one axis, as torch computes it.

    Args:
        size: Input size in pixels.
        kernel: Number of taps.
        stride: Step between outputs.
        padding: Padding on each side.
        dilation: Distance of the taps.
        ceil_mode: Round up; a last window that would start beyond the input and its left padding
            is dropped.

    Returns:
        Output size in pixels.
    """
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    out = (ceil_div(span, stride) if ceil_mode else span // stride) + 1
    if ceil_mode and (out - 1) * stride >= size + padding:
        out -= 1
    return out


def resized_block(
    blocks: int, block_in: int, size_in: int, size_out: int, block_size: int
) -> int | None:
    """Block width after a resize from ``size_in`` to ``size_out`` pixels.

    If the size is multiplied or divided by a whole number, so are the blocks. Otherwise, the blocks
    of the result must cover it tightly: all ``blocks`` of them are needed, and they suffice. Of the
    widths for which that holds, divisors of the block size come first, since only they fit the
    blocks of the network's other maps, and then the nearest to the ratio of the sizes.

    Args:
        blocks: Blocks along the axis.
        block_in: Block width before the resize, in pixels.
        size_in: Map width before.
        size_out: Map width after.
        block_size: Block width at the input of the network.

    Returns:
        Block width in pixels, or ``None`` if no width fits.
    """
    ratio = block_in * size_out / size_in
    scaled = size_out % size_in == 0 or size_in % size_out == 0
    if scaled and ratio == int(ratio) and size_out <= (blocks + 1) * ratio:
        return int(ratio)
    low = ceil_div(size_out, blocks)
    high = ceil_div(size_out, blocks - 1) - 1 if blocks > 1 else max(low, round(ratio), block_size)
    best = None
    for width in range(low, high + 1):
        rank = (block_size % width != 0, abs(width - ratio))
        if best is None or rank < best[0]:
            best = (rank, width)
    return None if best is None else best[1]


def is_half_a_window(block: Sequence[int], shifts: Sequence[int]) -> bool:
    """Whether windows that are twice as wide as a shift divide the blocks.

    Args:
        block: Height and width of a block in pixels of the map.
        shifts: By how many rows and columns the map is rolled, 0 for none.
    """
    return all(
        shift == 0 or width % (2 * shift) == 0 for width, shift in zip(block, shifts, strict=True)
    )


def fills_last_blocks(
    grid: Sequence[int], size: Sequence[int], padded: Sequence[int], block: Sequence[int]
) -> bool:
    """Whether padding at the lower and right edge stays within the existing blocks.

    Args:
        grid: Rows and columns of the grid.
        size: ``(H, W)`` of the map in pixels.
        padded: The same after padding.
        block: Height and width of a block in pixels of the map.
    """
    return all(
        s <= p and max(g, ceil_div(s, b)) == max(g, ceil_div(p, b))
        for g, s, p, b in zip(grid, size, padded, block, strict=True)
    )


def blocks_met(
    places: Sequence[int], window: int, block: int, blocks: int
) -> tuple[tuple[int, ...], ...]:
    """The blocks, along one axis, from which each window of a map reads pixels.

    Args:
        places: For each row (or column) that is cut into windows, the row of the map that it shows,
            negative where it shows none.
        window: Rows of a window.
        block: Rows of a block of the map.
        blocks: Blocks of the grid. Rows beyond the last one belong to it.

    Returns:
        Ascending numbers of blocks for each window, the last one repeated so that all have as many.
        A window that shows nothing of the map counts as reading all of them.
    """
    met = []
    for start in range(0, len(places), window):
        inside = [place for place in places[start : start + window] if place >= 0]
        found = sorted({min(place // block, blocks - 1) for place in inside})
        met.append(found or list(range(blocks)))
    most = max(map(len, met), default=0)
    return tuple((*found, *found[-1:] * (most - len(found))) for found in met)

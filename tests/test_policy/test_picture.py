from __future__ import annotations

import pytest
import torch

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy.picture import (
    cells_per_block,
    cells_to_grid,
    grid_to_cells,
    picture_statistics,
    reduce_picture,
)


@pytest.mark.parametrize("block_size", [16, 32, 64, 100, 128, 256, 20])
@pytest.mark.parametrize("size", [(256, 512), (300, 413)])
def test_a_block_of_cells_is_the_mean_of_its_pixels(block_size, size):
    frame = torch.randn(2, 3, *size, dtype=torch.float64)
    grid = (2, -(-size[0] // block_size), -(-size[1] // block_size))
    picture = reduce_picture(frame, block_size, grid)
    cells = cells_per_block(block_size)
    assert picture.dtype == torch.float32
    assert picture.shape == (2, 3, grid[1] * cells, grid[2] * cells)
    if block_size % cells == 0:
        # Only blocks wholly inside the image: at its edge, cut cells weigh as much as others.
        for row in range(size[0] // block_size):
            for column in range(size[1] // block_size):
                mine = picture[
                    ...,
                    row * cells : (row + 1) * cells,
                    column * cells : (column + 1) * cells,
                ].mean((2, 3))
                pixels = frame[
                    ...,
                    row * block_size : (row + 1) * block_size,
                    column * block_size : (column + 1) * block_size,
                ].mean((2, 3))
                torch.testing.assert_close(mine.double(), pixels, atol=1e-5, rtol=0)


@pytest.mark.parametrize("block_size", [64, 40, 20])
def test_what_changes_in_a_block_changes_no_other_blocks_cells(block_size):
    frame = torch.zeros(1, 3, 5 * block_size, 4 * block_size)
    frame[..., 2 * block_size : 3 * block_size, block_size : 2 * block_size] = 1
    cells = cells_per_block(block_size)
    touched = cells_to_grid(reduce_picture(frame, block_size, (1, 5, 4))[:, 0], cells)
    assert touched.nonzero().tolist() == [[0, 2, 1]]


def test_cells_outside_the_image_repeat_its_edge():
    frame = torch.arange(70.0).expand(1, 3, 10, 70)  # 1 x 2 blocks of 64 px, cells of 4 px
    picture = reduce_picture(frame, 64, (1, 1, 2))
    row = picture[0, 0, 0]
    assert row[:17].tolist() == [1.5 + 4 * k for k in range(17)]
    assert row[17] == 68.5  # the mean of the two pixels inside
    assert (row[18:] == 68.5).all()
    assert (picture[0, 0] == row).all()


def test_bfloat16_is_averaged_in_float32():
    frame = (torch.rand(1, 3, 128, 128) + 1).bfloat16()
    exact = reduce_picture(frame.double(), 128, (1, 1, 1))
    torch.testing.assert_close(reduce_picture(frame, 128, (1, 1, 1)), exact, atol=1e-6, rtol=0)


def test_statistics_normalise_any_unit_and_do_not_blow_up_the_dark():
    picture = torch.rand(2, 3, 16, 16)
    mean, scale = picture_statistics(picture)
    other_mean, other_scale = picture_statistics(picture * 255)
    torch.testing.assert_close(other_mean, mean * 255)
    torch.testing.assert_close(other_scale, scale * 255)
    torch.testing.assert_close(mean[:, :, 0, 0], picture.mean((2, 3)))
    dark = torch.full((1, 3, 16, 16), -2.0) + 1e-4 * torch.randn(1, 3, 16, 16)
    assert picture_statistics(dark)[1] >= 0.09
    assert picture_statistics(torch.zeros(1, 3, 4, 4))[1] > 0


def test_grid_and_cells_are_inverse():
    grid = torch.rand(2, 3, 5) > 0.5
    assert torch.equal(cells_to_grid(grid_to_cells(grid, 4).float(), 4) > 0, grid)
    values = torch.rand(8, 12)
    blocks = values.reshape(2, 4, 3, 4)
    torch.testing.assert_close(cells_to_grid(values, 4, "mean"), blocks.mean((1, 3)))
    with pytest.raises(ConfigError, match="median"):
        cells_to_grid(values, 4, "median")


def test_tiny_blocks_raise():
    with pytest.raises(ConfigError, match="block_size=2"):
        cells_per_block(2)

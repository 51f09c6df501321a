"""resize_blocks: what torch's own resize gives, block by block."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from blockcopy_plugins.engine.strategies.resize import _bilinear_source
from blockcopy_plugins.ops import conv_kernels, resize_blocks
from blockcopy_plugins.ops.window import index_table

RUNS = [
    pytest.param(
        resize_blocks,
        id="native",
        marks=pytest.mark.skipif(not conv_kernels(), reason="no kernels for this processor"),
    ),
    pytest.param(resize_blocks.reference, id="twin"),
]


def tables(size_in, size_out, block, corners):
    found = []
    for i in (0, 1):
        count = -(-size_out[i] // block)
        first, second, weight = _bilinear_source(size_in[i], size_out[i], None, corners)
        index = torch.stack((first, second), 1).flatten()
        table = index_table(blocks=count, block_out=2 * block, index=index)
        weights = torch.zeros(count * block)
        weights[: size_out[i]] = weight.float()
        found.append((table, weights.view(count, block)))
    (rows, down), (cols, across) = found
    return rows, cols, down, across


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 19, 32, 37, 70])
@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size_out", [(24, 40), (9, 11), (12, 20), (12, 75)])
def test_it_is_torchs_resize(run, dtype, channels, corners, size_out):
    torch.manual_seed(0)
    block, size_in = 8, (12, 20)
    map_ = torch.randn(2, channels, *size_in).to(dtype)
    wanted = F.interpolate(map_.double(), size_out, mode="bilinear", align_corners=corners)
    grid = torch.rand(2, -(-size_out[0] // block), -(-size_out[1] // block)) < 0.6
    blocks = grid.nonzero().int().contiguous()
    found = run(map_, blocks, *tables(size_in, size_out, block, corners))
    assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for out, (image, y, x) in zip(found, blocks.tolist(), strict=True):
        place = wanted[image, :, y * block : (y + 1) * block, x * block : (x + 1) * block]
        out = out[:, : place.shape[1], : place.shape[2]].double()
        torch.testing.assert_close(out, place, atol=tolerance, rtol=tolerance)


@pytest.mark.skipif(not conv_kernels(), reason="no kernels for this processor")
def test_bad_arguments():
    rows, cols, down, across = tables((12, 20), (24, 40), 8, False)
    map_, blocks = torch.randn(1, 3, 12, 20), torch.tensor([[0, 0, 0]], dtype=torch.int32)
    with pytest.raises(ValueError, match="row_weights is"):
        resize_blocks(map_, blocks, rows, cols, down[:, 1:], across)
    with pytest.raises(TypeError, match="dtype"):
        resize_blocks(map_.double(), blocks, rows, cols, down, across)
    with pytest.raises(IndexError):
        resize_blocks(map_, blocks + 7, rows, cols, down, across)


@pytest.mark.skipif(not conv_kernels(), reason="no kernels for this processor")
def test_opcheck():
    map_ = torch.randn(1, 3, 12, 20).contiguous(memory_format=torch.channels_last)
    blocks = torch.tensor([[0, 0, 0], [0, 2, 4]], dtype=torch.int32)
    args = (map_, blocks, *tables((12, 20), (24, 40), 8, False))
    torch.library.opcheck(torch.ops.blockcopy.resize_blocks.default, args)

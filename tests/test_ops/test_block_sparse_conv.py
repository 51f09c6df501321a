"""The registered layer: nn.Conv2d on dense tensors, sparse on blocks, the same parameters."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.errors import ConfigError, GridError
from blockcopy_plugins.ops import BlockSparseConv2d


def test_it_is_a_convolution_with_the_same_keys():
    torch.manual_seed(0)
    layer, plain = BlockSparseConv2d(3, 5, 3, padding=1), nn.Conv2d(3, 5, 3, padding=1)
    assert list(layer.state_dict()) == list(plain.state_dict())
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 9, 11)
    assert torch.equal(layer(x), plain(x))


@pytest.mark.parametrize("padding", [1, "same", "valid"])
def test_blocks_by_hand_are_those_of_the_merged_map(padding):
    torch.manual_seed(1)
    layer = BlockSparseConv2d(4, 6, 3, padding=padding)
    state, new = torch.randn(2, 1, 4, 20, 28).unbind(0)
    grid = torch.tensor([[[True, False, True, False], [False, False, True, True], [True] * 4]])
    mask = grid.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :20, :28]
    merged = torch.where(mask[:, None], new, state)
    padded = F.pad(new, (0, 4, 0, 4))
    packed = torch.stack(
        [padded[i, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] for i, y, x in grid.nonzero().tolist()]
    )
    kept = state.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        out = layer.forward_blocks(kept, packed, grid)
        whole = F.pad(F.conv2d(merged, layer.weight, layer.bias, padding=padding), (0, 8, 0, 8))
        height, width = F.conv2d(merged, layer.weight, padding=padding).shape[2:]
    assert torch.equal(kept, merged)
    for row, (i, y, x) in zip(out, grid.nonzero().tolist(), strict=True):
        inside = (slice(None), slice(0, max(height - 8 * y, 0)), slice(0, max(width - 8 * x, 0)))
        expected = whole[i, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
        torch.testing.assert_close(row[inside], expected[inside], rtol=1e-5, atol=1e-5)


def test_a_converted_model_runs_it_on_blocks():
    torch.manual_seed(2)
    net = nn.Sequential(BlockSparseConv2d(3, 8, 3, 2, 1), BlockSparseConv2d(8, 4, 3, padding=1))
    net.eval()
    frame = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        expected = net(frame)
    bc.blockcopy_(net, bc.BlockCopyConfig(16, "all", strict=True, pack_whole_frames=True))
    torch.testing.assert_close(net(frame), expected, rtol=1e-5, atol=1e-5)


def test_what_it_cannot_do_by_hand():
    grid = torch.ones(1, 2, 2, dtype=torch.bool)
    state, packed = torch.zeros(1, 3, 16, 16), torch.ones(4, 3, 8, 8)
    state = state.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        with pytest.raises(ConfigError, match="reflect"):
            BlockSparseConv2d(3, 3, 3, padding=1, padding_mode="reflect").forward_blocks(
                state, packed, grid
            )
        with pytest.raises(ConfigError, match="asymmetric"):
            BlockSparseConv2d(3, 3, 4, padding="same").forward_blocks(state, packed, grid)
        with pytest.raises(GridError):
            BlockSparseConv2d(3, 3, 3, padding=1).forward_blocks(state, packed[:3], grid)
    assert not state.any()


def test_a_config_names_it():
    pytest.importorskip("mmcv")
    from mmcv.cnn import build_conv_layer

    layer = build_conv_layer(dict(type="blockcopy_plugins.BlockSparseConv2d"), 3, 4, 3, padding=1)
    assert type(layer) is BlockSparseConv2d
    assert layer.padding == (1, 1)

"""block_sums against sums over slices in float64."""

from __future__ import annotations

import pytest
import torch

from blockcopy_plugins.ops.block_sums import block_sums

SUMS = [pytest.param(block_sums, id="op"), pytest.param(block_sums.reference, id="twin")]
CASES = {  # channels, block, blocks, size
    "whole blocks": (16, (8, 8), (2, 3), (16, 24)),
    "cut off": (5, (8, 6), (3, 3), (17, 13)),
    "more than are added at once": (33, (24, 40), (1, 2), (24, 77)),
    "single pixels": (3, (1, 1), (2, 2), (2, 2)),
    "a block beyond the map": (4, (4, 4), (3, 2), (8, 8)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sums", SUMS)
def test_sums_of_slices(sums, case, dtype):
    channels, block, blocks, size = CASES[case]
    torch.manual_seed(0)
    whole = (torch.randn(2, channels, *size) + 3).to(dtype, memory_format=torch.channels_last)
    wanted = torch.zeros(2, channels, *blocks, dtype=torch.float64)
    places, packed = [], []
    for image in range(2):
        for y in range(blocks[0]):
            for x in range(blocks[1]):
                rows = slice(y * block[0], (y + 1) * block[0])
                part = whole[image, :, rows, x * block[1] : (x + 1) * block[1]]
                wanted[image, :, y, x] = 0.25 * part.double().sum((1, 2))
                places.append((image, y, x))
                # What lies off the map is not read.
                packed.append(torch.full((channels, *block), float("nan"), dtype=dtype))
                packed[-1][:, : part.shape[1], : part.shape[2]] = part
    error = 1e-6 * wanted.abs().amax()
    found = sums(whole, None, block, blocks, size, 0.25)
    assert found.dtype == torch.float32 and found.shape == wanted.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found.double() - wanted).abs().max() <= error
    chosen = torch.randperm(len(places))[: len(places) // 2]
    packed = torch.stack(packed)[chosen].contiguous(memory_format=torch.channels_last)
    where = torch.tensor(places, dtype=torch.int32)[chosen]
    found = sums(packed, where, block, blocks, size, 0.25)
    wanted = wanted.permute(0, 2, 3, 1).reshape(len(places), channels)[chosen]
    assert found.shape == (*wanted.shape, 1, 1)
    assert (found[:, :, 0, 0].double() - wanted).abs().max() <= error


MAP, PLACES = torch.zeros(2, 4, 2, 2), torch.zeros(2, 3, dtype=torch.int32)
ERRORS = {
    "integers": (TypeError, (MAP.int(), None, (2, 2), (1, 1), (2, 2), 1.0)),
    "float64": (TypeError, (MAP.double(), None, (2, 2), (1, 1), (2, 2), 1.0)),
    "three dimensions": (ValueError, (MAP[0], None, (2, 2), (1, 1), (2, 2), 1.0)),
    "no channels": (ValueError, (MAP[:, :0], None, (2, 2), (1, 1), (2, 2), 1.0)),
    "another block": (ValueError, (MAP, PLACES, (2, 3), (1, 1), (2, 2), 1.0)),
    "another size": (ValueError, (MAP, None, (2, 2), (1, 1), (2, 3), 1.0)),
    "places of another number": (ValueError, (MAP, PLACES[:1], (2, 2), (1, 1), (2, 2), 1.0)),
    "places of 64 bits": (TypeError, (MAP, PLACES.long(), (2, 2), (1, 1), (2, 2), 1.0)),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    error, arguments = ERRORS[name]
    with pytest.raises(error, match="blockcopy::block_"):
        block_sums(*arguments)


def test_opcheck():
    arguments = (torch.randn(2, 4, 4, 6), None, (2, 2), (2, 3), (4, 6), 0.5)
    torch.library.opcheck(torch.ops.blockcopy.block_sums.default, arguments)
    packed = torch.randn(2, 4, 2, 2)
    torch.library.opcheck(
        torch.ops.blockcopy.block_sums.default, (packed, PLACES, (2, 2), (2, 3), (4, 6), 0.5)
    )

"""move_map, pixel by pixel in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.ops.move_map import move_map

IMPLEMENTATIONS = [
    pytest.param(move_map, id="op"),
    pytest.param(move_map.reference, id="twin"),
]


def tables(cells, height=9, width=11):
    """Pixels spread evenly over the cells."""
    found = []
    for count, side in zip(cells.shape[:2], (height, width), strict=True):
        place = torch.linspace(0, count - 1, side)
        first = place.floor().clamp_max(max(count - 2, 0))
        found.append((first.int(), place - first))
    (rows, down), (columns, right) = found
    return rows, columns, down, right


def by_hand(value, copied, cells, rows, columns, down, right, nearest, everywhere):
    """The documented rule, a pixel at a time and in double precision."""
    out = copied.clone()
    height, width = value.shape[1:]
    for y in range(height):
        for x in range(width):
            found = torch.zeros(3, dtype=torch.float64)
            for i, a in ((0, 1 - float(down[y])), (1, float(down[y]))):
                for j, b in ((0, 1 - float(right[x])), (1, float(right[x]))):
                    row = min(int(rows[y]) + i, cells.shape[0] - 1)
                    column = min(int(columns[x]) + j, cells.shape[1] - 1)
                    found += a * b * cells[row, column].double()
            dx, dy = (round(float(v) * 32) / 32 for v in found[:2])
            from_x, from_y = x - dx, y - dy
            inside = -0.5 <= from_x <= width - 0.5 and -0.5 <= from_y <= height - 0.5
            if float(found[2]) < 0.5 or not inside or (not everywhere and dx == dy == 0):
                continue
            from_x, from_y = min(max(from_x, 0), width - 1), min(max(from_y, 0), height - 1)
            if nearest or not value.is_floating_point():
                row, column = (math.floor(v + 0.5) for v in (from_y, from_x))
                row, column = min(row, height - 1), min(column, width - 1)
                out[:, y, x] = value[:, row, column]
                continue
            top, left = math.floor(from_y), math.floor(from_x)
            total = 0
            for i, a in ((0, 1 - (from_y - top)), (1, from_y - top)):
                for j, b in ((0, 1 - (from_x - left)), (1, from_x - left)):
                    if a * b:
                        total = total + a * b * value[:, top + i, left + j].double()
            out[:, y, x] = total.to(value.dtype)
    return out


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16,
                                   torch.int64, torch.int32, torch.uint8, torch.bool])  # fmt: skip
@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("everywhere", [False, True])
def test_each_pixel_is_looked_up_where_it_was(implementation, dtype, nearest, everywhere):
    value, copied = (torch.randn(2, 9, 11) * 20 for _ in range(2))
    if dtype == torch.bool:
        value, copied = value > 0, copied > 0
    value, copied = value.to(dtype), copied.to(dtype)
    # In eighths, which meet no rounding half-way, and confidences away from 0.5.
    cells = (torch.randn(3, 4, 3) * 16).round() / 8
    cells[..., 2] = torch.rand(3, 4).round() * 0.98
    cells[0, 0, :2] = 0
    given = tables(cells)
    rounded = [table if table.dtype == torch.int32 else (table * 4).round() / 4 for table in given]
    got = implementation(value, copied, cells, *rounded, nearest, everywhere)
    wanted = by_hand(value, copied, cells, *rounded, nearest, everywhere)
    exact = nearest or not dtype.is_floating_point
    tolerance = {torch.bfloat16: 0.3, torch.float16: 0.05}.get(dtype, 1e-4)
    torch.testing.assert_close(got, wanted, atol=0 if exact else tolerance, rtol=0)
    assert got.is_contiguous() and got.data_ptr() not in (value.data_ptr(), copied.data_ptr())
    assert not torch.equal(got, copied)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=30)
@given(x=st.integers(-3, 3), y=st.integers(-3, 3))
def test_whole_pixels_are_met_to_the_bit(implementation, x, y):
    value, copied = torch.randn(2, 9, 11), torch.randn(2, 9, 11)
    value[0, ::2] = float("inf")
    value[1, 1::2] = -0.0
    cells = torch.tensor([float(x), float(y), 1.0]).expand(3, 4, 3).contiguous()
    got = implementation(value, copied, cells, *tables(cells), False, True)
    wanted = copied.clone()
    to = wanted[:, max(y, 0) : 9 + min(y, 0), max(x, 0) : 11 + min(x, 0)]
    to.copy_(value[:, max(-y, 0) : 9 - max(y, 0), max(-x, 0) : 11 - max(x, 0)])
    assert torch.equal(got.view(torch.int32), wanted.view(torch.int32))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_displacements_that_are_not_finite_are_not_used(implementation):
    value, copied = torch.randn(1, 9, 11), torch.randn(1, 9, 11)
    for bad in (float("nan"), float("inf"), float("-inf"), 1e30):
        cells = torch.tensor([bad, 0.0, 1.0]).expand(3, 4, 3).contiguous()
        assert torch.equal(
            implementation(value, copied, cells, *tables(cells), False, True), copied
        )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_maps_of_any_layout_and_empty_ones(implementation):
    cells = torch.tensor([1.0, 0.5, 1.0]).expand(2, 2, 3)
    wide, copied = torch.randn(9, 11, 4), torch.randn(4, 9, 11)
    got = implementation(wide.permute(2, 0, 1), copied, cells, *tables(cells), False, False)
    same = wide.permute(2, 0, 1).contiguous()
    assert torch.equal(got, implementation(same, copied, cells, *tables(cells), False, False))
    none = torch.zeros(0, 9, 11)
    assert implementation(none, none, cells, *tables(cells), False, False).shape == (0, 9, 11)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_wrong_arguments_raise(implementation):
    value, cells = torch.randn(2, 9, 11), torch.zeros(3, 4, 3)
    good = (value, value, cells, *tables(cells), False, False)

    def refused(error, match, **changed):
        given = list(good)
        for place, argument in changed.items():
            given[int(place[1:])] = argument
        with pytest.raises(error, match=match):
            implementation(*given)

    refused(ValueError, "copied .*expected", _1=value[:1])
    refused(ValueError, "cells has shape", _2=torch.zeros(3, 4, 2))
    refused(ValueError, "rows, columns and their weights", _3=torch.zeros(8, dtype=torch.int32))
    refused(TypeError, "value has dtype", _1=value.double())
    refused(TypeError, "expected torch.float32 and torch.int32", _3=torch.zeros(9).long())
    refused(IndexError, "", _3=torch.full((9,), 3, dtype=torch.int32))
    with pytest.raises(RuntimeError, match="no backward"):
        implementation(value.clone().requires_grad_(), *good[1:])


def test_the_operator_is_well_registered():
    value, cells = torch.randn(2, 9, 11), torch.rand(3, 4, 3)
    torch.library.opcheck(
        torch.ops.blockcopy.move_map.default,
        (value, value + 1, cells, *tables(cells), False, False),
    )

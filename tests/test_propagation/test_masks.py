"""Shifted masks, against rolled ones."""

from __future__ import annotations

import pytest
import torch

from blockcopy_plugins.propagation import shift_masks

BOXES = torch.tensor([[10.0, 8, 20, 16], [0.0, 0, 0, 0], [40.0, 20, 64, 48]])


def masks():
    made = torch.zeros(3, 48, 64, dtype=torch.bool)
    made[0, 8:16, 10:20] = torch.rand(8, 10) < 0.5
    made[1] = torch.rand(48, 64) < 0.5  # with an empty box
    made[2, 20:, 40:] = torch.rand(28, 24) < 0.5
    return made


@pytest.mark.parametrize("shift", [(0, 0), (3, -5), (-12, 2), (63, 47), (200, 0)])
@pytest.mark.parametrize("boxes", [None, BOXES])
def test_masks_move_and_what_leaves_is_gone(shift, boxes):
    given, (x, y) = masks(), shift
    got = shift_masks(given, torch.tensor([shift] * 3), boxes)
    wide = torch.zeros(3, 48 * 11, 64 * 11, dtype=torch.bool)
    wide[:, 240 + y : 288 + y, 320 + x : 384 + x] = given
    assert torch.equal(got, wide[:, 240:288, 320:384])


def test_some_of_the_masks():
    given = masks()
    got = shift_masks(given, torch.tensor([[2.4, 0.0], [0.0, 1.0]]), BOXES[[2, 0]],
                      torch.tensor([2, 0]))  # fmt: skip
    assert torch.equal(got[0, :, 2:], given[2, :, :-2]) and torch.equal(got[1, 1:], given[0, :-1])

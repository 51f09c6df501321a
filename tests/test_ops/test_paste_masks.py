"""paste_masks beside torch's grid_sample over the whole image, and beside mmdet's function."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from blockcopy_plugins.ops.paste_masks import paste_masks

IMPLEMENTATIONS = [
    pytest.param(paste_masks, id="op"),
    pytest.param(paste_masks.reference, id="twin"),
]


def sampled(mask, box, height, width):
    """Values of a mask at all pixels of an image, ``(height, width)``; zeros far outside."""
    ys = (torch.arange(height) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    xs = (torch.arange(width) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    grid = torch.stack((xs.expand(height, width), ys[:, None].expand(height, width)), 2)
    return F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]


def some(count, seed, size, side):
    draw = torch.Generator().manual_seed(seed)
    masks = torch.rand(count, *side, generator=draw)
    limits = torch.tensor([size[1], size[0]])
    one = torch.rand(count, 2, generator=draw) * limits
    other = torch.rand(count, 2, generator=draw) * limits
    return masks, torch.cat((torch.minimum(one, other), torch.maximum(one, other) + 0.01), 1)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("side", [(28, 28), (1, 1), (5, 9)])
def test_each_pixel_is_sampled(implementation, side):
    size = (61, 83)
    masks, boxes = some(30, 1, size, side)
    got = implementation(masks, boxes, *size, 0.5)
    assert got.dtype == torch.bool and got.shape == (30, *size)
    for mask, box, found in zip(masks, boxes, got, strict=True):
        values = sampled(mask, box, *size)
        assert torch.equal(found, values >= 0.5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_boxes_over_the_edge_outside_and_without_an_area(implementation):
    size = (40, 50)
    boxes = torch.tensor(
        [
            [-20.0, -10.0, 30.0, 20.0],
            [30.0, 25.0, 90.0, 70.0],
            [-5.0, -5.0, 100.0, 100.0],
            [60.0, 60.0, 80.0, 90.0],
            [12.25, 10.0, 12.25, 30.0],
            [12.5, 10.0, 12.5, 30.0],
            [3.0, 4.0, 3.001, 4.001],
        ]
    )
    masks = torch.ones(7, 28, 28)
    got = implementation(masks, boxes, *size, 0.5)
    for mask, box, found in zip(masks[:4], boxes, got, strict=False):
        assert torch.equal(found, sampled(mask, box, *size) >= 0.5)
    # Without a width all pixels beside it count as its middle; they are at most one away.
    assert got[4, 9:31, 11:14].any() and not got[4, :, :11].any() and not got[4, :, 14:].any()
    assert torch.equal(got, paste_masks.reference(masks, boxes, *size, 0.5))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_what_is_no_number_is_in_no_mask(implementation):
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor([[nan, 0, 5, 5], [0, 0, inf, 5], [-inf, 0, 5, 5], [0, 0, 5, 5.0]])
    masks = torch.ones(4, 3, 3)
    masks[3, 1, 1] = nan
    got = implementation(masks, boxes, 8, 8, 0.5)
    assert not got[:3].any()
    assert got[3].any() and not got[3, 2, 2]


@pytest.mark.parametrize("seed", range(4))
def test_it_is_mmdets(seed):
    heads = pytest.importorskip(
        "mmdet.models.roi_heads.mask_heads.fcn_mask_head", reason="compared with mmdet's function"
    )
    size = (300, 400)
    masks, boxes = some(60, seed, size, (28, 28))
    boxes[::9] = boxes[::9].round()
    got = paste_masks(masks, boxes, *size, 0.5)
    for i in range(len(masks)):
        values, (rows, columns) = heads._do_paste_mask(
            masks[i : i + 1, None], boxes[i : i + 1], *size, skip_empty=True
        )
        wanted = torch.zeros(size, dtype=torch.bool)
        wanted[rows, columns] = values[0] >= 0.5
        assert torch.equal(got[i], wanted)


def test_masks_of_a_large_image_are_zeros_outside_of_their_boxes():
    masks = torch.ones(3, 28, 28)
    boxes = torch.tensor([[10.0, 20.0, 60.0, 80.0]] * 3)
    got = paste_masks(masks, boxes, 700, 900, 0.5)
    assert got[:, 20:80, 10:60].all() and int(got.sum()) == 3 * 60 * 50
    got[0, 500, 500] = True
    assert int(got.clone().sum()) == 3 * 60 * 50 + 1


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "arguments, error, what",
    [
        ((torch.zeros(2, 3), torch.zeros(2, 4), 5, 5, 0.5), ValueError, r"\(n, h, w\)"),
        ((torch.zeros(2, 3, 3), torch.zeros(1, 4), 5, 5, 0.5), ValueError, r"\(n, 4\)"),
        ((torch.zeros(2, 0, 3), torch.zeros(2, 4), 5, 5, 0.5), ValueError, r"with pixels"),
        ((torch.zeros(2, 3, 3), torch.zeros(2, 4), -5, 5, 0.5), ValueError, r"-5 rows"),
        ((torch.zeros(2, 3, 3).half(), torch.zeros(2, 4), 5, 5, 0.5), TypeError, r"float32"),
    ],
)
def test_bad_input(implementation, arguments, error, what):
    with pytest.raises(error, match=what):
        implementation(*arguments)


def test_opcheck():
    utils = ["test_schema", "test_autograd_registration", "test_faketensor"]
    given = (*some(4, 0, (30, 40), (7, 7)), 30, 40, 0.5)
    torch.library.opcheck(torch.ops.blockcopy.paste_masks.default, given, test_utils=utils)

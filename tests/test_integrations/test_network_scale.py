"""Detections on their way to the policy: on a device as on the host, in one transfer."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu.device_reads import DeviceReads
from blockcopy_plugins.integrations.common.network_scale import (
    MASK_STEP,
    FoundObjects,
    at_network_scale,
)

IMAGE, SIZE = (60, 81), (96, 128)  # the input is the image times 1.5, padded to multiples of 32
SCALE = (1.5, 1.5)


def found(objects, seed, masks=True):
    """Boxes over the edge, empty and tiny ones among them, and masks that go beyond them."""
    draw = torch.Generator().manual_seed(seed)
    start = torch.rand(objects, 2, generator=draw) * 90 - 10
    boxes = torch.cat((start, start + torch.rand(objects, 2, generator=draw) * 40), 1)
    boxes[1::4] = 0
    boxes[2::4, 2:] = boxes[2::4, :2] + 0.3
    return FoundObjects(
        boxes=boxes,
        scores=torch.rand(objects, generator=draw),
        labels=torch.randint(0, 80, (objects,), generator=draw),
        masks=torch.rand(objects, *IMAGE, generator=draw) < 0.4 if masks else None,
        scale=SCALE,
    )


def by_pixel(one):
    """Masks at the network's input, each sample by itself."""
    out = torch.zeros(len(one.boxes), SIZE[0] // MASK_STEP, SIZE[1] // MASK_STEP, dtype=torch.bool)
    for k, box in enumerate((one.boxes * 1.5).tolist()):
        empty = box[2] <= box[0] or box[3] <= box[1]
        for row in range(out.shape[1]):
            for column in range(out.shape[2]):
                y, x = row * MASK_STEP + MASK_STEP / 2, column * MASK_STEP + MASK_STEP / 2
                if int(y / 1.5) >= IMAGE[0] or int(x / 1.5) >= IMAGE[1]:
                    continue
                near = (
                    int(box[0] / MASK_STEP) - 1 <= column < -(-box[2] // MASK_STEP) + 1
                    and int(box[1] / MASK_STEP) - 1 <= row < -(-box[3] // MASK_STEP) + 1
                )
                if near or empty:
                    out[k, row, column] = one.masks[k, int(y / 1.5), int(x / 1.5)]
    return out


@pytest.mark.parametrize("objects", [0, 1, 9])
@pytest.mark.parametrize("masks", ["none", "on the host", "on the device"])
@pytest.mark.parametrize("on_device", [False, True])
def test_boxes_and_masks_at_the_networks_input(objects, masks, on_device):
    images = [found(objects, seed, masks != "none") for seed in (0, 1)]
    with DeviceReads() as device:
        given = []
        for one in images:
            parts = {name: getattr(one, name) for name in ("boxes", "scores", "labels", "masks")}
            for name, value in parts.items():
                there = masks == "on the device" if name == "masks" else on_device
                if there and value is not None:
                    parts[name] = device.put(value.clone())
            given.append(FoundObjects(**parts, scale=SCALE))
        detections = at_network_scale(given, SIZE)
        there = on_device or masks == "on the device"
        assert sum(device.waits.values()) == int(there)
        assert not any(
            value is not None and value.is_cuda
            for one in detections
            for value in (one.boxes, one.scores, one.labels, one.masks)
        )
    for one, wanted in zip(detections, images, strict=True):
        assert torch.equal(one.boxes, wanted.boxes * 1.5) and one.size == SIZE
        assert torch.equal(one.scores, wanted.scores) and torch.equal(one.labels, wanted.labels)
        if masks == "none":
            assert one.masks is None
        else:
            assert torch.equal(one.masks, by_pixel(wanted))
            assert objects == 0 or one.masks.any()


@pytest.mark.parametrize("offset", [(0.0, 0.0), (16.0, 0.0), (9.0, 15.0)])
def test_what_the_pipeline_pads_above_and_to_the_left(offset):
    """Against the image laid into the input by hand, at the same scale."""
    one = found(5, 3)
    top, left = (int(side) for side in offset)
    laid = torch.zeros(5, IMAGE[0] + top, IMAGE[1] + left, dtype=torch.bool)
    laid[:, top:, left:] = one.masks
    shift = torch.tensor([left, top, left, top])
    unscaled = {**vars(one), "scale": (1.0, 1.0)}
    by_hand = FoundObjects(**{**unscaled, "boxes": one.boxes + shift, "masks": laid})
    given = FoundObjects(**{**unscaled, "offset": offset})
    (expected,), (got,) = (at_network_scale([each], SIZE) for each in (by_hand, given))
    assert torch.equal(got.boxes, expected.boxes)
    assert torch.equal(got.masks, expected.masks)


def test_names_of_paddings_of_mmdetection_and_mmyolo():
    adapter = pytest.importorskip("blockcopy_plugins.integrations.mmdet.adapter")
    for name in ("border", "pad_param"):
        assert adapter._padded_before({name: [16, 15, 8, 7]}) == (16.0, 8.0)
    assert adapter._padded_before({"scale_factor": (1.0, 1.0)}) == (0.0, 0.0)

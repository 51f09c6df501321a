"""RoI layers of MMDetection on channels-last maps, and what follows heads in float32."""

from __future__ import annotations

import copy
import functools

import pytest
import torch

import blockcopy_plugins as bc
from blockcopy_plugins.integrations.common.roi_layers import (
    ChannelsLastRoIAlign,
    replace_roi_layers,
)
from blockcopy_plugins.ops import library

BLOCK = 32

pytestmark = pytest.mark.skipif(
    not library.has_kernel("roi_align", "cpu"), reason="there are no compiled kernels"
)


@pytest.fixture(scope="module")
def pristine(tiny):
    return tiny.build(tiny.mask_rcnn())


@pytest.fixture()
def model(pristine):
    return copy.deepcopy(pristine)


def extractors(model):
    head = model.roi_head
    return [head.bbox_roi_extractor, head.mask_roi_extractor]


def test_layers_run_by_the_kernel_as_long_as_the_model_is_converted(model):
    layers = [layer for extractor in extractors(model) for layer in extractor.roi_layers]
    replaced = [*layers, *extractors(model)]
    assert not any("forward" in module.__dict__ for module in replaced)
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=BLOCK, policy="all"))
    assert all(isinstance(layer.forward, ChannelsLastRoIAlign) for layer in layers)
    bc.restore_(model)
    assert not any("forward" in module.__dict__ for module in replaced)


def test_maps_reach_the_layers_as_they_lie(model, tiny):
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=BLOCK, policy="all"))
    seen = []
    for layer in extractors(model)[0].roi_layers:
        forward = layer.__dict__["forward"]

        @functools.wraps(forward)
        def looked_at(map_, rois, forward=forward):
            seen.append(map_.is_contiguous(memory_format=torch.channels_last))
            return forward(map_, rois)

        layer.__dict__["forward"] = looked_at
    with torch.no_grad():
        model.test_step(tiny.batch([tiny.picture((96, 128), 1)]))
    assert seen and all(seen)


def test_extracted_features_are_those_of_the_model_as_it_was(model):
    draw = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(2, extractors(model)[0].out_channels, 64 // side, 96 // side, generator=draw)
        for side in (1, 2, 4, 8)
    ]
    corner = torch.rand(200, 2, generator=draw) * torch.tensor([380.0, 250.0])
    side = 300 * torch.rand(200, 2, generator=draw) ** 2
    image = torch.randint(0, 2, (200, 1), generator=draw).float()
    rois = torch.cat([image, corner, corner + side], 1)
    with torch.no_grad():
        wanted = [each(maps, rois, scale) for each in extractors(model) for scale in (None, 1.5)]
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=BLOCK, policy="all"))
    lying = [map_.contiguous(memory_format=torch.channels_last) for map_ in maps]
    with torch.no_grad():
        found = [each(lying, rois, scale) for each in extractors(model) for scale in (None, 1.5)]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_gradients_and_other_types_go_to_the_layer_as_it_was(model):
    layer = extractors(model)[0].roi_layers[0]
    rois = torch.tensor([[0, 1.0, 2.0, 30.0, 40.0]])
    map_ = torch.randn(1, 8, 16, 16).contiguous(memory_format=torch.channels_last)
    wanted = layer(map_.double().contiguous(), rois.double())
    (stand_in,) = replace_roi_layers(layer, (type(layer),))
    assert torch.equal(layer(map_.double().contiguous(), rois.double()), wanted)
    grown = map_.contiguous().requires_grad_()
    layer(grown, rois).sum().backward()
    assert grown.grad.abs().sum() > 0
    stand_in.remove()
    assert "forward" not in layer.__dict__


def test_whole_detectors_run_in_bfloat16(model, tiny):
    """MMDetection's suppression refuses bfloat16; boxes are as good as float32 can place them."""
    batch = model.data_preprocessor(tiny.batch([tiny.picture((96, 128), 1)]))
    with torch.no_grad():
        (wanted,) = model(**copy.deepcopy(batch), mode="predict")
    model.bfloat16()
    batch["inputs"] = batch["inputs"].bfloat16()
    with pytest.raises(RuntimeError, match="BFloat16"), torch.no_grad():
        model(**copy.deepcopy(batch), mode="predict")
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=BLOCK, policy="all"))
    with torch.no_grad():
        (found,) = model(**copy.deepcopy(batch), mode="predict")
    found, wanted = found.pred_instances, wanted.pred_instances
    assert found.bboxes.dtype == found.scores.dtype == torch.float32
    # Of the surest ones most are found within what eight bits leave of them; suppression may keep
    # another one of two that are as sure.
    best = wanted.bboxes[wanted.scores > 0.5 * wanted.scores.max()]
    assert len(best) >= 3
    nearest = (best[:, None] - found.bboxes[None]).abs().amax(2).amin(1)
    assert (nearest < 4).float().mean() > 0.8

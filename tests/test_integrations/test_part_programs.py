"""Whole detectors and segmentors, whose parts are programs: the same as without."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._pytree import tree_leaves

import blockcopy_plugins as bc

BLOCK, SIZE, SHAPE = 32, (96, 128), (3, 4)


class Dictated:
    """A policy that gives the grid it was told."""

    grid = None

    def __call__(self, frame, context):
        return self.grid


def pair(model):
    found = []
    for programs in (True, False):
        config = bc.BlockCopyConfig(block_size=BLOCK, policy=Dictated(), programs=programs)
        found.append(bc.blockcopy_(copy.deepcopy(model).eval(), config))
    return found


def grid_of(executed, draw, images=1):
    blocks = images * SHAPE[0] * SHAPE[1]
    grid = torch.zeros(blocks, dtype=torch.bool)
    grid[torch.randperm(blocks, generator=draw)[:executed]] = True
    return grid.view(images, *SHAPE)


def tensors(results):
    found = []
    for result in results:
        for name in ("pred_instances", "seg_logits", "pred_sem_seg"):
            data = getattr(result, name, None)
            if data is not None:
                found += [v for v in data.values() if isinstance(v, torch.Tensor)]
        if isinstance(result, dict):
            found += [v for v in tree_leaves(result) if isinstance(v, torch.Tensor)]
    assert found
    return found


def run(nets, step, counts, draw, images=1):
    """The same frames through all, and the same results wanted."""
    most = 0
    for i, executed in enumerate(counts):
        grid = grid_of(executed, draw, images)
        found = []
        for net in nets:
            bc.handle(net).policy.function.grid = grid
            with torch.no_grad():
                found.append(tensors(step(net, i)))
        for a, b in zip(*found, strict=True):
            assert a.shape == b.shape
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
            most = max(most, a.numel())
    assert most > 8, "with nothing found this would say nothing"


COUNTS = (12, 5, 9, 3, 7, 1, 12, 12, 12, 2, 0, 8, 4)


def parts(net):
    return bc.report(net).programs.parts


@pytest.mark.parametrize("kind", ["mask_rcnn", "RetinaHead", "FCOSHead"])
def test_detectors(tiny, kind):
    model = tiny.build(tiny.mask_rcnn() if kind == "mask_rcnn" else tiny.one_stage(kind))
    nets = pair(model)

    def step(net, i):
        return net.test_step(tiny.batch([tiny.picture(SIZE, i)]))

    run(nets, step, COUNTS, torch.Generator().manual_seed(1))
    found = parts(nets[0])
    assert found.made >= 6 and found.replayed >= 19 and not found.eager_calls, str(
        bc.report(nets[0])
    )

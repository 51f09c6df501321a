"""Frames that run on their grid and then whole, to compare, against the dense model."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.errors import GridError
from blockcopy_plugins.policy import Policy
from blockcopy_plugins.policy.guards import Ignore


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, 2, 1)
        self.b = nn.Conv2d(6, 6, 3, 1, 2, 2)
        self.c = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        x = F.relu(self.a(x))
        return F.interpolate(self.c(F.relu(self.b(x))), scale_factor=2, mode="bilinear")


class Comparing(Policy):
    """Executes given grids, and compares given images."""

    needs_outputs = True

    def __init__(self, grids, images):
        self.grids, self.images = list(grids), list(images)
        self.seen, self.executed = [], []

    def select(self, frame, context):
        return self.grids[0]

    def compares(self, grid, context):
        assert torch.equal(grid, self.grids[0] | context.first[:, None, None])
        return self.images[0]

    def feedback(self, frame, grid, outputs, context):
        self.seen.append((context.comparison, outputs))
        assert torch.equal(context.host_grid(grid), grid)
        self.executed.append(grid)
        self.grids.pop(0), self.images.pop(0)
        return {}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


def draw_video(frames, images=1):
    return [torch.randn(images, 3, 20, 30) for _ in range(frames)]


def draw_grids(frames, images=1, rate=0.4):
    return [torch.rand(images, 3, 4) < rate for _ in range(frames)]


def run(net, video, policy, **options):
    model = bc.blockcopy_(copy.deepcopy(net), bc.BlockCopyConfig(8, policy, **options))
    with torch.inference_mode():
        return model, [model(frame) for frame in video]


def close(got, wanted):
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_the_dense_output_is_delivered_and_that_of_the_grid_is_told(net):
    video, grids = draw_video(6), draw_grids(6)
    images = [None, None, (True,), None, (True,), (False,)]
    policy = Comparing(grids, images)
    model, got = run(net, video, policy)

    whole = torch.ones(1, 3, 4, dtype=torch.bool)
    reference = MaskedReference(net, 8)
    for index, (frame, grid, compared) in enumerate(zip(video, grids, images, strict=True)):
        comparison, outputs = policy.seen[index]
        wanted = reference(whole if index == 0 else grid, frame)
        if compared == (True,):
            assert comparison.images == (True,) and torch.equal(comparison.chosen, grid)
            close(comparison.outputs[0], wanted[0])
            # Law 1, and law 3 from there on.
            with torch.inference_mode():
                wanted = net(frame)
            assert not torch.allclose(comparison.outputs[0], wanted[0], atol=1e-3)
            close(reference(whole, frame), wanted)
            assert policy.executed[index].all()
        else:
            assert comparison is None
        close(got[index], wanted)
        close(outputs[0], wanted[0])

    ran = [12] + [int(grid.sum()) for grid in grids[1:]]
    ran[2] += 12
    ran[4] += 12
    assert bc.report(model).executed_rate == pytest.approx(sum(ran) / 72)
    assert bc.handle(model).last.executed_rate == pytest.approx(ran[5] / 12)


def test_both_runs_are_counted(net):
    video, grids = draw_video(2), draw_grids(2)
    macs = {}
    for images in (None, (True,)):
        model, _ = run(net, video, Comparing(grids, [None, images]))
        macs[images] = bc.report(model), bc.handle(model).last
    (plain, _), (twice, last) = macs.values()
    assert twice.macs_dense == plain.macs_dense
    # Of two frames: the first one, the grid of the second, and the whole second.
    assert twice.macs_executed == pytest.approx(plain.macs_executed + plain.macs_dense / 2)
    assert last.executed_rate == pytest.approx((int(grids[1].sum()) + 12) / 12)
    assert last.rates == [last.executed_rate]


def test_images_that_are_not_asked_for_stay_as_they_are(net):
    video, grids = draw_video(4, images=3), draw_grids(4, images=3)
    asked = [None, (False, True, False), None, (True, False, True)]
    policy = Comparing(grids, asked)
    _, got = run(net, video, policy)
    for image in range(3):
        reference = MaskedReference(net, 8)
        for index, frame in enumerate(video):
            own = frame[image : image + 1]
            grid = grids[index][image : image + 1] if index else torch.ones(1, 3, 4).bool()
            wanted = reference(grid, own)
            comparison = policy.seen[index][0]
            if comparison is not None:
                close(comparison.outputs[image], wanted[0])
            if asked[index] is not None and asked[index][image]:
                wanted = reference(torch.ones(1, 3, 4).bool(), own)
                assert comparison.blocks[image].equal(grids[index][image])
            elif comparison is not None:
                assert not comparison.blocks[image].any()
            close(got[index][image], wanted[0])


def test_what_guards_forbid_runs_in_neither(net):
    mask = torch.zeros(20, 30)
    mask[:8, :8] = 1
    video, grids = draw_video(2), [torch.ones(1, 3, 4).bool(), torch.zeros(1, 3, 4).bool()]
    grids[1][0, 1, 1] = True
    policy = Comparing(grids, [None, (True,)])
    policy.compares = lambda grid, context: policy.images[0]
    model, got = run(net, video, policy, guards=[Ignore(mask=mask.bool().numpy())])
    reference = MaskedReference(net, 8)
    allowed = torch.ones(1, 3, 4).bool()
    reference(allowed, video[0])
    reference(grids[1], video[1])
    allowed[0, 0, 0] = False
    close(got[1], reference(allowed, video[1]))
    assert torch.equal(policy.executed[1], allowed)


def test_a_second_run_that_fails_leaves_the_stream_to_be_executed_fully(net):
    video, grids = draw_video(3), draw_grids(3)
    policy = Comparing(grids, [None, (True,), None])
    model = bc.blockcopy_(copy.deepcopy(net), bc.BlockCopyConfig(8, policy))
    calls = []

    def fail(module, args):
        calls.append(None)
        if len(calls) == 3:
            raise RuntimeError("out of memory")

    handle = model.c.register_forward_pre_hook(fail)
    with torch.inference_mode():
        model(video[0])
        with pytest.raises(RuntimeError, match="out of memory"):
            model(video[1])
        handle.remove()
        assert len(policy.seen) == 1  # The policy has not heard of it.
        policy.images[0] = None
        close(model(video[2]), net(video[2]))


def test_a_wrong_number_of_images(net):
    policy = Comparing(draw_grids(2), [None, (True, False)])
    with pytest.raises(GridError, match=r"named 2 image\(s\) to compare, but the batch has 1"):
        run(net, draw_video(2), policy)

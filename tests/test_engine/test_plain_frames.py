"""Whole frames that run as the plain model does, because nobody will read their state."""

from __future__ import annotations

import copy
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.engine.tensor.block_tensor import BlockTensor
from blockcopy_plugins.policy import EveryNthFramePolicy, Policy

BLOCK = 32
WHOLE = torch.ones(1, 2, 3, dtype=torch.bool)
NOTHING = torch.zeros(1, 2, 3, dtype=torch.bool)
# The first frame runs on blocks, then the plain model three times and blocks six times.
TRIED = 10


def take_time(seconds):
    """Of this thread's CPU time, which is what counts."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class Net(nn.Module):
    """Convolutions; one way to run it is made a hundred times slower than the other."""

    def __init__(self, slow: str = "blocks") -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, 2, 1)
        self.b = nn.Conv2d(6, 4, 3, 1, 2, 2)
        self.slow, self.plain, self.fails = slow, 0, False

    def forward(self, x):
        is_plain = not isinstance(x, BlockTensor)
        self.plain += is_plain
        if is_plain == (self.slow == "plain"):
            take_time(0.05)
        if self.fails:
            raise RuntimeError("no memory")
        return F.interpolate(self.b(F.relu(self.a(x))), scale_factor=2, mode="bilinear")


class Dictated(Policy):
    """Executes given grids, and says that they are whole or empty."""

    whole_frames_only = True

    def __init__(self, grids):
        self.grids = list(grids)

    def select(self, frame, context):
        return self.grids[0]

    def feedback(self, frame, grid, outputs, context):
        self.grids.pop(0)
        return super().feedback(frame, grid, outputs, context)


def frames(count, images=1, seed=0):
    return list(
        torch.randn(count, images, 3, 64, 96, generator=torch.Generator().manual_seed(seed))
    )


def converted(net, policy, programs=False, **options):
    options["programs"] = programs
    return bc.blockcopy_(copy.deepcopy(net), bc.BlockCopyConfig(BLOCK, policy, **options))


def test_the_plain_model_runs_where_it_is_faster_and_leaves_no_state():
    net = Net("blocks").eval()
    model = converted(net, EveryNthFramePolicy(1))
    for index, frame in enumerate(frames(TRIED + 4)):
        got, wanted = model(frame), net(frame)
        if index < TRIED:
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
        else:
            assert torch.equal(got, wanted)
    report = bc.report(model)
    assert bc.handle(model).model.plain == report.plain_frames == 3 + 4
    assert report.state_bytes == 0
    assert "7 ran as the plain model does" in str(report)
    # They count as what they are.
    assert report.executed_rate == 1 and report.macs_executed == report.macs_dense > 0
    whole = converted(net, "all")
    whole(frame)
    assert report.macs_dense == bc.report(whole).macs_dense


def test_blocks_run_where_they_are_faster():
    net = Net("plain").eval()
    model = converted(net, EveryNthFramePolicy(1))
    for frame in frames(TRIED + 3):
        torch.testing.assert_close(model(frame), net(frame), atol=1e-5, rtol=1e-5)
    assert bc.handle(model).model.plain == bc.report(model).plain_frames == 3
    assert bc.report(model).state_bytes > 0


class SlowPython(nn.Module):
    """Python takes time on blocks, which a program of the frame does not spend."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, 2, 1)

    def forward(self, x):
        take_time(0.05 if isinstance(x, BlockTensor) else 0.02)
        return self.a(x)


def test_blocks_are_judged_by_their_programs():
    net = SlowPython().eval()
    model = converted(net, EveryNthFramePolicy(1), programs=True)
    for frame in frames(TRIED + 3):
        torch.testing.assert_close(model(frame), net(frame), atol=1e-5, rtol=1e-5)
    report = bc.report(model)
    assert report.plain_frames == 3 and report.programs.replayed >= 3


@pytest.mark.parametrize("propagate", ["copy", "move"])
def test_frames_of_nothing_give_the_last_whole_frame_again(propagate):
    motion = dict(motion=lambda frame, context: [(0, 0)]) if propagate == "move" else {}
    net = Net("blocks").eval()
    model = converted(net, EveryNthFramePolicy(2), propagate=propagate, **motion)
    for index, frame in enumerate(frames(2 * TRIED + 4)):
        got = model(frame)
        if index % 2 == 0:
            last = net(frame)
        torch.testing.assert_close(got, last, atol=1e-5, rtol=1e-5)
    report = bc.report(model)
    assert report.plain_frames == 3 + 2 and report.propagation.repeated == TRIED + 2
    assert report.executed_rate == 0.5


def test_blocks_that_are_asked_for_all_the_same_cost_a_whole_frame_and_then_run_as_blocks():
    net = Net("blocks").eval()
    some = NOTHING.clone()
    some[0, 0, 1] = some[0, 1, 2] = True
    grids = [WHOLE] * (TRIED + 1) + [some, some, ~some, WHOLE, some, NOTHING]
    model = converted(net, Dictated(grids))
    reference = MaskedReference(net, BLOCK)
    for index, frame in enumerate(frames(len(grids))):
        executed = WHOLE if index == TRIED + 1 else grids[index]
        got, wanted = model(frame), reference(executed, frame)
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
        assert torch.equal(bc.handle(model).last.host_grid, executed)
    # From then on its state is kept.
    assert bc.report(model).plain_frames == 3 + 1


def test_a_guards_demand_makes_the_frame_whole():
    net = Net("blocks").eval()
    guard = dict(type="Always", mask=[[40, 5], [60, 5], [60, 20], [40, 20]])
    model = converted(net, EveryNthFramePolicy(1), guards=[guard])
    for frame in frames(TRIED + 1):
        model(frame)
    assert bc.report(model).plain_frames == 4
    bc.handle(model).policy.n = 2
    got, rates = [], []
    shown = frames(4, seed=1)
    for frame in shown:
        got.append(model(frame))
        rates.append(bc.handle(model).last.executed_rate)
    asked = rates.index(min(rates))
    # The first one in which the guard alone asks is whole; those behind it are not.
    assert sorted(rates)[0] < 1 and rates[:asked].count(1.0) == asked >= 1
    torch.testing.assert_close(got[0], net(shown[0]), atol=1e-5, rtol=1e-5)


def test_streams_of_a_batch_with_other_frames_run_whole_once():
    net = Net("blocks").eval()
    both, first = WHOLE.expand(2, 2, 3), torch.cat((WHOLE, NOTHING))
    model = converted(net, Dictated([both] * (TRIED + 1) + [first, first]))
    shown = frames(TRIED + 3, images=2)
    for frame in shown[:-1]:
        got = model(frame)
    torch.testing.assert_close(got, net(shown[-2]), atol=1e-5, rtol=1e-5)
    assert bool(bc.handle(model).last.host_grid.all())
    got = model(shown[-1])
    torch.testing.assert_close(got[0], net(shown[-1])[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[1], net(shown[-2])[1], atol=1e-5, rtol=1e-5)


def test_outputs_that_cannot_be_given_again_need_a_state():
    class Odd(Net):
        def forward(self, x):
            return super().forward(x), object()

    net = Odd("blocks").eval()
    model = converted(net, Dictated([WHOLE] * (TRIED + 1) + [NOTHING, NOTHING]))
    shown = frames(TRIED + 3)
    got = [model(frame)[0] for frame in shown]
    torch.testing.assert_close(got[-2], net(shown[-2])[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(got[-1], got[-2])


def test_a_frame_that_fails_leaves_the_next_one_right():
    net = Net("blocks").eval()
    model = converted(net, Dictated([WHOLE] * (TRIED + 1) + [NOTHING, WHOLE]))
    shown = frames(TRIED + 3)
    for frame in shown[: TRIED + 1]:
        last = model(frame)
    assert torch.equal(model(shown[TRIED + 1]), last)
    inner = bc.handle(model).model
    inner.fails = True
    with pytest.raises(RuntimeError, match="no memory"):
        model(shown[TRIED + 2])
    inner.fails = False
    assert torch.equal(model(shown[TRIED + 2]), net(shown[TRIED + 2]))


def test_without_the_promise_whole_frames_keep_their_state():
    class Free(Dictated):
        whole_frames_only = False

    net = Net("blocks").eval()
    some = NOTHING.clone()
    some[0, 1, 1] = True
    grids = [WHOLE] * (TRIED + 1) + [some]
    model, reference = converted(net, Free(grids)), MaskedReference(net, BLOCK)
    for grid, frame in zip(grids, frames(len(grids)), strict=True):
        torch.testing.assert_close(model(frame), reference(grid, frame), atol=1e-5, rtol=1e-5)
    assert bc.handle(model).model.plain == bc.report(model).plain_frames == 0

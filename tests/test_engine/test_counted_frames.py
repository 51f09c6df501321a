"""MACs of frames that a counter looks at, where the other frames are replays of graphs."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from benchmarks.gpu import recording_backend as recording
from blockcopy_plugins.engine.macs import MacCounter
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.integrations.common.policy_meter import policy_macs
from blockcopy_plugins.policy import GainPolicy, Policy

SIZE, BLOCK = (32, 48), 16  # 2 x 3 blocks
IN_A_BLOCK = 16 * 16 * (4 * 3 * 9 + 4 * 4 * 9)
OUTSIDE = 4 * 7


class Net(nn.Module):
    """Two convolutions on blocks, and a layer on what is no map."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.tail = nn.Linear(4, 7)

    def forward(self, x):
        x = self.b(self.a(x).relu())
        return x, self.tail(x.mean((2, 3)))


class Scored(Policy):
    """Picks one block; its next-best ones are not those around it."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.ranks = torch.empty(0)

    def select(self, frame, context):
        self.ranks = torch.rand(context.grid_shape, generator=self.generator)
        return self.ranks == self.ranks.amax()

    def scores(self, frame, context):
        return self.ranks

    def learn(self):
        torch.ones(5, 5) @ torch.ones(5, 5)

    def feedback(self, frame, grid, outputs, context):
        self.learn()
        return super().feedback(frame, grid, outputs, context)


def converted(seed=1):
    torch.manual_seed(seed)
    config = bc.BlockCopyConfig(block_size=BLOCK, policy=Scored(seed), buckets=(0.5,))
    net = bc.blockcopy_(Net().eval(), config)
    return net, recording.with_graphs(net)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_counter_sees_what_runs_and_changes_nothing(mode):
    counted, backend = converted()
    other, others = converted()
    reference = MaskedReference(counted, BLOCK)
    for i in range(9):
        frame = torch.randn(1, 3, *SIZE)
        with mode():
            wanted = other(frame)
            handle = bc.handle(counted)
            if i % 2:
                with bc.MacCounter() as counter, policy_macs(handle.policy, counter) as meter:
                    found = counted(frame)
                counts = handle.last.counts
                assert counts.blocks == 3 * IN_A_BLOCK and meter.counted == 125
                assert counter.macs - meter.counted - counts.blocks - counts.densified == OUTSIDE
            else:
                found = counted(frame)
            assert torch.equal(handle.last.grid, bc.handle(other).last.grid)
            with bc.dense(counted):
                expected = reference(handle.last.grid, frame)
        for a, b, c in zip(found, wanted, expected, strict=True):
            torch.testing.assert_close(a, b)
            torch.testing.assert_close(a, c)
    assert (others.captures, others.replays) == (1, 7)
    # Of frames 2, 4, 6 and 8 the first warms up, and the three others are replays.
    assert (backend.captures, backend.replays) == (1, 3)
    graphs = bc.report(counted).graphs
    assert not graphs.eager_calls and graphs.captured + graphs.replayed == 3


def test_a_counter_of_another_thread_is_no_matter():
    net, backend = converted()
    for _ in range(3):
        net(torch.randn(1, 3, *SIZE))
    entered, over = threading.Event(), threading.Event()

    def count():
        with bc.MacCounter():
            entered.set()
            over.wait(60)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        assert entered.wait(60)
        net(torch.randn(1, 3, *SIZE))
    finally:
        over.set()
        thread.join()
    assert backend.replays == 2


def test_a_metered_policy_is_the_policy_itself_again():
    """Also after an error, and with methods of its own on the object."""
    policy = GainPolicy()
    policy.select = own = lambda frame, context: frame
    with pytest.raises(ValueError), policy_macs(policy, MacCounter()):
        assert policy.select(1, None) == 1 and policy.select is not own
        raise ValueError
    assert policy.select is own and "feedback" not in vars(policy)

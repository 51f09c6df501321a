"""Policies on a GPU that tests on the CPU can have: as on the CPU, with what comes a frame late."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from benchmarks.gpu.device_reads import DeviceReads
from benchmarks.gpu.recording_backend import with_graphs
from blockcopy_plugins.engine.adapter import ModelAdapter
from blockcopy_plugins.engine.convert import convert_
from blockcopy_plugins.errors import FrameError, StateError
from blockcopy_plugins.host_transfer import HostReads
from blockcopy_plugins.policy import FeatureChange, Geometry, PolicyContext, SemanticGain
from blockcopy_plugins.policy.build import build_policy

BLOCK, GRID, SIZE = 32, (3, 4), (90, 128)
POLICIES = {
    "GainPolicy": dict(type="GainPolicy", target=0.4),
    "GainPolicy, features": dict(type="GainPolicy", target=0.4, information_gain="features"),
    "GainPolicy, per frame": dict(type="GainPolicy", target=0.4, per_frame=True),
    "RLPolicy": dict(type="RLPolicy", seed=3, target=0.4, lr=1e-3),
    "RLPolicy, features": dict(type="RLPolicy", seed=3, lr=1e-3, information_gain="features"),
    "RLPolicy, frozen": dict(type="RLPolicy", seed=3, target=0.4, online=False),
    "FrameDifferencePolicy": dict(type="FrameDifferencePolicy", threshold=0.3),
    "FrameDifferencePolicy, target": dict(type="FrameDifferencePolicy", target=0.3),
    "BackgroundSubtractionPolicy": dict(type="BackgroundSubtractionPolicy", threshold=0.3),
    "BackgroundSubtractionPolicy, target": dict(type="BackgroundSubtractionPolicy", target=0.3),
    "MotionDetectionPolicy": dict(
        type="MotionDetectionPolicy", threshold=0.3, confirm=1, persist=0
    ),
    "MotionDetectionPolicy, target": dict(type="MotionDetectionPolicy", target=0.3, persist=1),
    "EveryNthFramePolicy": dict(type="EveryNthFramePolicy", n=3),
    "RandomPolicy": dict(type="RandomPolicy", rate=0.4, seed=3),
    "StaticPolicy": dict(type="StaticPolicy", grid=[[1, 0, 1, 0]] * 3),
    "AllPolicy": "all",
    "NonePolicy": "none",
}


def video(streams, frames, seed=0):
    """Batches in which a few blocks change, outputs that go with them, and their streams."""
    draw = torch.Generator().manual_seed(seed)
    scenes = {name: torch.randn(1, 3, *SIZE, generator=draw) for name in streams}
    for index in range(frames):
        ids = list(streams) if index > 1 else list(streams)[:1]
        if index % 2:
            ids.reverse()
        batch = []
        for name in ids:
            changed = (torch.rand(1, 1, *GRID, generator=draw) < 0.3).float()
            changed = F.interpolate(changed, scale_factor=float(BLOCK))[..., : SIZE[0], : SIZE[1]]
            batch.append(scenes[name] + changed * torch.randn(1, 3, *SIZE, generator=draw))
        frame = torch.cat(batch)
        yield frame, list(F.avg_pool2d(frame, 4, ceil_mode=True)), ids


def drive(policy, batches, put, reads, guarded=False):
    """Run a policy as the engine does; grids and scalars, the latter read when all is over.

    With guards the context of each policy is where the frame is.
    """
    grids, scalars, last, shown = [], [], {}, {}
    there = (lambda x: x) if policy.on_host and not guarded else put
    for index, (frame, outputs, ids) in enumerate(batches):
        frame = put(frame)
        first = tuple(name not in last for name in ids)
        blank = there(torch.zeros(GRID, dtype=torch.bool))
        context = PolicyContext(
            streams=tuple(ids),
            grid_shape=(len(ids), *GRID),
            block_size=BLOCK,
            first=there(torch.tensor(first)),
            frame_index=(index,) * len(ids),
            last_grid=torch.stack([last.get(name, blank) for name in ids]),
            host_first=first,
            reads=reads,
        )
        with reads, torch.no_grad():
            grid = policy.select(frame, context)
            if grid.device != context.device:
                grid = put(grid)
            grid = grid | context.first[:, None, None]
            host = reads.bring(grid)
            executed = put(grid.clone())
            context.take_executed(executed, host)
            # What was not executed is as it was.
            for name, its, output in zip(ids, host, outputs, strict=True):
                pixels = its.repeat_interleave(BLOCK // 4, 0).repeat_interleave(BLOCK // 4, 1)
                pixels = pixels[: output.shape[1], : output.shape[2]]
                shown[name] = torch.where(pixels, output, shown.get(name, output))
            outputs = [put(shown[name].clone()) for name in ids]
            scalars.append(policy.feedback(frame, executed, outputs, context))
        last.update(zip(ids, grid, strict=True))
        grids.append(host)
    return grids, [{k: float(v) for k, v in found.items()} for found in scalars]


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("name", POLICIES)
def test_as_on_the_cpu(name, guarded):
    policy = build_policy(POLICIES[name])
    wanted, figures = drive(policy, video("ab", 20), lambda x: x, HostReads())
    with DeviceReads() as device:
        moved = build_policy(POLICIES[name])
        grids, late = drive(moved, video("ab", 20), device.put, HostReads(), guarded)
    for found, grid in zip(grids, wanted, strict=True):
        assert torch.equal(found, grid)
    # Sums of the same numbers; the optimizer takes all parameters at once on a GPU.
    for found, figure in zip(late, figures, strict=True):
        assert found == pytest.approx(figure, rel=1e-5, abs=1e-7)
    if name.startswith("RLPolicy"):
        assert moved.updates == policy.updates == (0 if "frozen" in name else 4)
        for a, b in zip(moved.net.parameters(), policy.net.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    if "target" in name:
        assert type(moved.threshold) is float and moved.threshold == pytest.approx(policy.threshold)


class Scaled(ModelAdapter):
    """The policy is told of ``gain`` times the outputs; the state is as it would be."""

    gain = 1.0

    def task_outputs(self, outputs, call):
        return list(outputs * self.gain)


def converted(device=None, graphs=False, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, 2, 1)).eval()
    if device is not None:
        device.put(net)
    policy = dict(type="RLPolicy", seed=3, target=0.4, lr=1e-3) | options
    policy = {name: value for name, value in policy.items() if value is not None}
    config = bc.BlockCopyConfig(block_size=BLOCK, policy=policy, cuda_graphs=graphs)
    convert_(net, config, Scaled())
    if graphs:
        with_graphs(net)
    return net


def memory_of(policy):
    return dict(policy._memories), policy.running_rate, policy._committed.clone()


def same(a, b):
    assert a[0].keys() == b[0].keys() and all(a[0][name] is b[0][name] for name in a[0])
    assert a[1] == b[1] and torch.equal(a[2], b[2])


# 0 and 2 are first frames of streams, 5 is the first after an update; 8 comes with an update.
@pytest.mark.parametrize("bad", [0, 2, 5, 7, 8])
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_found_with_the_next_frame(bad, graphs, value):
    """Then all that the policy knows is what it would know if it had been told at once."""
    batches = [(frame, ids) for frame, _, ids in video("ab", 14)]
    plain = converted()
    wanted, errors = [], []
    for index, (frame, ids) in enumerate(batches):
        bc.handle(plain).adapter.gain = value if index == bad else 1.0
        with bc.streams(plain, ids):
            try:
                plain(frame)
                wanted.append((ids, bc.handle(plain).last.grid.tolist()))
            except FrameError as error:
                errors.append((index, str(error)))
    assert [index for index, _ in errors] == [bad] and "NaN or infinity" in errors[0][1]

    with DeviceReads() as device:
        net = converted(device, graphs)
        policy, grids = bc.handle(net).policy, []
        for index, (frame, ids) in enumerate(batches):
            frame = device.put(frame.clone())
            bc.handle(net).adapter.gain = value if index == bad else 1.0
            if index == bad:
                known = memory_of(policy)
            with bc.streams(net, ids):
                if index == bad + 1:
                    frames = bc.report(net).frames
                    with pytest.raises(FrameError, match=rf"of stream .*'{batches[bad][1][0]}'"):
                        net(frame)
                    same(memory_of(policy), known)
                    assert bc.report(net).frames == frames  # nothing of it has run
                net(frame)
            if index != bad:
                grids.append((ids, bc.handle(net).last.host_grid.tolist()))
        assert all(parameter.isfinite().all() for parameter in policy.net.parameters())
    # With graphs more blocks are executed. An update that is due is made of the good frames; on the
    # CPU it waits for one more.
    if not graphs:
        same_until = bad if bad == 8 else len(wanted)
        assert grids[:same_until] == wanted[:same_until] and len(grids) == len(wanted)


def test_nothing_is_learned_from_outputs_that_are_not_finite():
    """Not even where the update is due before the host knows."""
    with DeviceReads() as device:
        net = converted(device, update_every=1, weight_decay=0.0)
        batches = [device.put(frame) for frame, _, _ in video("a", 5)]
        for frame in batches[:3]:
            net(frame)
        policy = bc.handle(net).policy
        before = [parameter.detach().clone() for parameter in policy.net.parameters()]
        bc.handle(net).adapter.gain = float("nan")
        net(batches[3])
        assert policy.updates == 3
        # An update on nothing: what RMSprop had for a mean of squares shrinks, no weight moves.
        for old, new in zip(before, policy.net.parameters(), strict=True):
            assert torch.equal(old, new)
        with pytest.raises(FrameError, match="NaN or infinity"):
            net(batches[4])


@pytest.mark.parametrize("bad", [0, 2, 5])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_regression_takes_outputs_back_that_are_not_finite(bad, value):
    with DeviceReads() as device:
        net = converted(device, type="GainPolicy", seed=None, lr=None)
        policy = bc.handle(net).policy
        for index, (frame, _, ids) in enumerate(video("ab", 9)):
            frame = device.put(frame.clone())
            bc.handle(net).adapter.gain = value if index == bad else 1.0
            if index == bad:
                memories = dict(policy._memories)
            with bc.streams(net, ids):
                if index == bad + 1:
                    # With the bad frame it learned of the one before it.
                    sums = policy._ridge.products.clone()
                    with pytest.raises(FrameError, match="held NaN or infinity"):
                        net(frame)
                    assert policy._memories.keys() == memories.keys()
                    assert all(policy._memories[name] is memories[name] for name in memories)
                    assert torch.equal(policy._ridge.products, sums)
                net(frame)
        assert policy._ridge.weights.isfinite().all()
        assert (policy._ridge.weights != policy._ridge.prior).any(), "it has learned"


def test_a_stream_that_was_reset_is_not_brought_back():
    with DeviceReads() as device:
        net = converted(device)
        batches = [device.put(frame) for frame, _, _ in video("a", 4)]
        for frame in batches[:2]:
            net(frame)
        bc.handle(net).adapter.gain = float("nan")
        net(batches[2])
        bc.handle(net).adapter.gain = 1.0
        bc.reset_(net)
        with pytest.raises(FrameError, match="held NaN"):
            net(batches[3])
        assert not bc.handle(net).policy._memories
        net(batches[3])
        assert bc.handle(net).last.executed_rate == 1


def test_weights_that_are_not_finite_are_found_before_anything_runs():
    with DeviceReads() as device:
        net = converted(device)
        frame = device.put(next(video("a", 1))[0])
        net(frame)
        policy = bc.handle(net).policy
        known = memory_of(policy)
        with torch.no_grad():
            policy.net.head.bias.fill_(float("nan"))
        with pytest.raises(StateError, match="learning rate"):
            net(frame)
        same(memory_of(policy), known)
        assert bc.report(net).frames == 1
        with torch.no_grad():
            policy.net.head.bias.zero_()
        net(frame)
        bad = device.put(frame.clone())
        bad[0, 1, 7, 9] = float("nan")
        with pytest.raises(FrameError, match="frame has values from nan"):
            net(bad)
        net(frame)
        assert bc.report(net).frames == 3


@pytest.mark.parametrize("gain", [SemanticGain(), FeatureChange()])
def test_a_gain_by_itself_tells_at_once(gain):
    geometry = Geometry(SIZE, GRID, BLOCK)
    a, b = torch.randn(2, 5, 45, 64)
    wanted = gain(a, b, geometry)
    assert gain.is_finite(a) is None
    with DeviceReads() as device:
        one, other = device.put(a), device.put(b)
        assert torch.equal(gain(one, other, geometry).cpu(), wanted)
        other[2, 3, 4] = float("nan")
        with pytest.raises(FrameError, match="NaN or infinity"):
            gain(one, other, geometry)
        device.waits.clear()
        finite = gain.is_finite(other)
        gain.summarise(other, geometry)
        assert not device.waits and not finite

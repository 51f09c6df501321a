"""A frame waits for the device once, with every policy: where the host reads the grid."""

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
from blockcopy_plugins.integrations.common.network_scale import FoundObjects, at_network_scale
from blockcopy_plugins.policy import MotionField, Policy

BLOCK, GRID, SIZE = 32, (4, 5), (100, 130)
ONCE = {"host_transfer.py:to_host to the host": 1}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.down = nn.Conv2d(8, 8, 3, 2, 1)
        self.norm = nn.GroupNorm(2, 8)
        self.head = nn.ConvTranspose2d(8, 4, 4, 2, 1)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1, ceil_mode=True)
        x = self.norm(self.down(x))
        x = self.head(x * x.mean((2, 3), keepdim=True).sigmoid())
        return F.interpolate(x, scale_factor=2.0, mode="bilinear")


class Levels(Net):
    def forward(self, x):
        low = self.down(F.relu(self.stem(x)))
        return {"names": None, "levels": [super().forward(x), low]}


class Unpadded(nn.Module):
    """Its last maps have fewer blocks than the grid."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 9), nn.Conv2d(4, 4, 9), nn.Conv2d(4, 4, 3)])

    def forward(self, x):
        for layer in self.layers:
            x = F.avg_pool2d(F.relu(layer(x)), 3, 1, 1, count_include_pad=False)
        return x


def brightness(frame, grid_shape):
    return F.adaptive_avg_pool2d(frame.mean(1, keepdim=True), grid_shape[1:])[:, 0]


class OnDevice(Policy):
    """A user's: all of its work is the device's."""

    def select(self, frame, context):
        return self.scores(frame, context) > 0

    def scores(self, frame, context):
        return brightness(frame, context.grid_shape)

    def feedback(self, frame, grid, outputs, context):
        return {"brightness": frame.mean()}


POLICIES = {
    "GainPolicy": dict(type="GainPolicy", target=0.3),
    "GainPolicy, per frame": dict(type="GainPolicy", target=0.3, per_frame=True),
    "GainPolicy, features": dict(type="GainPolicy", target=0.3, information_gain="features"),
    "GainPolicy, frozen": dict(type="GainPolicy", target=0.3, online=False),
    "RLPolicy": dict(type="RLPolicy", seed=3, target=0.4, update_every=4),
    "RLPolicy, features": dict(type="RLPolicy", seed=3, information_gain="features"),
    "RLPolicy, frozen": dict(type="RLPolicy", seed=3, target=0.4, online=False),
    "RLPolicy, threshold": dict(type="RLPolicy", seed=3, online=False, sampling="threshold"),
    "FrameDifferencePolicy": dict(type="FrameDifferencePolicy", threshold=0.5),
    "FrameDifferencePolicy, target": dict(type="FrameDifferencePolicy", target=0.3),
    "MotionDetectionPolicy": dict(
        type="MotionDetectionPolicy", threshold=0.3, confirm=1, persist=0
    ),
    "MotionDetectionPolicy, target": dict(type="MotionDetectionPolicy", target=0.3, persist=1),
    "EveryNthFramePolicy": dict(type="EveryNthFramePolicy", n=3),
    "RandomPolicy": dict(type="RandomPolicy", rate=0.4, seed=3),
    "StaticPolicy": dict(type="StaticPolicy", grid=[[1, 0, 1, 0, 0]] * 4),
    "AllPolicy": "all",
    "NonePolicy": "none",
    "a grid on the host": lambda frame, context: torch.rand(context.grid_shape) < 0.3,
    "a grid on the device": lambda frame, context: brightness(frame, context.grid_shape) > 0,
    "a policy of a user's": OnDevice(),
}


def video(streams, frames, seed=0):
    """Batches of a few blocks that change, of two streams that change places; and their streams.

    The second joins late: its first frame is one of a batch whose other stream is known.
    """
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
            noise = torch.randn(1, 3, *SIZE, generator=draw)
            batch.append(scenes[name] + changed * noise)
        yield torch.cat(batch), ids


def eager(policy, **options):
    return bc.BlockCopyConfig(block_size=BLOCK, policy=policy, cuda_graphs=False, **options)


def count(net, batches, device):
    """Waits and record of each frame."""
    waits, records = [], []
    for frame, ids in batches:
        device.put(frame)
        device.waits.clear()
        with bc.streams(net, ids):
            net(frame)
        records.append(bc.handle(net).last)
        # What logs would ask for in each frame.
        assert 0 <= records[-1].executed_rate <= 1
        waits.append(dict(device.waits))
    return waits, records


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("kind", [Net, Levels])
@pytest.mark.parametrize("policy", POLICIES)
def test_one_wait_a_frame(policy, kind, graphs):
    torch.manual_seed(1)
    net = kind().eval()
    config = bc.BlockCopyConfig(
        block_size=BLOCK,
        policy=POLICIES[policy],
        buckets=3 if graphs else None,
        cuda_graphs=graphs,
    )
    with DeviceReads() as device:
        # The policy's own network is brought to the device by the first frame.
        device.put(net)
        bc.blockcopy_(net, config)
        backend = with_graphs(net) if graphs else None
        waits, records = count(net, video("ab", 14), device)
        assert waits == [ONCE] * 14
        handle = bc.handle(net)
        assert handle.last.grid.is_cuda and not handle.last.host_grid.is_cuda
        assert torch.equal(handle.last.grid.cpu(), handle.last.host_grid)
        if policy.startswith("RLPolicy"):
            assert handle.policy.net.offset.is_cuda
            assert handle.policy.updates == (3 if "," not in policy or "features" in policy else 0)
            assert all(memory.picture.is_cuda for memory in handle.policy._memories.values())
    rates = [record.executed_rate for record in records]
    assert rates[0] == 1
    if policy not in ("AllPolicy", "NonePolicy", "EveryNthFramePolicy"):
        assert any(0 < rate < 1 for rate in rates)
    if graphs and policy != "AllPolicy":  # whole frames run as ever
        assert backend.replays > 0


@pytest.mark.parametrize("check_finite", [False, True])
@pytest.mark.parametrize("policy", ["RLPolicy", "a grid on the device"])
def test_one_wait_whether_or_not_frames_are_checked(policy, check_finite):
    with DeviceReads() as device:
        net = device.put(Net().eval())
        bc.blockcopy_(net, eager(POLICIES[policy], check_finite=check_finite))
        assert count(net, video("a", 6), device)[0] == [ONCE] * 6


def test_background_subtraction_waits_once_more_for_the_picture():
    pytest.importorskip("cv2")
    with DeviceReads() as device:
        net = device.put(Net().eval())
        bc.blockcopy_(net, eager(dict(type="BackgroundSubtractionPolicy", target=0.3)))
        waits, records = count(net, video("ab", 10), device)
        assert waits == [{"host_transfer.py:to_host to the host": 2}] * 10
        assert any(0 < record.executed_rate < 1 for record in records)


def test_motion_vectors_wait_for_nothing():
    draw = torch.Generator().manual_seed(0)
    total, counts = torch.zeros(7, 9, 2, dtype=torch.float64), torch.zeros(7, 9, dtype=torch.int64)
    with DeviceReads() as device:
        net = device.put(Net().eval())
        bc.blockcopy_(net, eager(dict(type="MotionVectorPolicy", target=0.3)))
        rates = []
        for frame, ids in video("ab", 10):
            total = total + torch.rand(7, 9, 2, generator=draw, dtype=torch.float64)
            fields = [MotionField(total, counts, SIZE)] * len(ids)
            with bc.motion(net, fields):
                waits, records = count(net, [(frame, ids)], device)
            assert waits == [ONCE]
            rates.append(records[0].executed_rate)
        assert any(0 < rate < 1 for rate in rates)


GUARDS = [
    dict(type="MaxAge", frames=3),
    dict(type="Refresh", period=5),
    "SceneCut",
    "Hold",
    "Dilate",
    dict(type="Ignore", mask=[[0, 0], [64, 0], [64, 64], [0, 64]]),
    dict(type="Always", mask=[[100, 0], [130, 0], [130, 20]]),
]


@pytest.mark.parametrize("graphs", [False, True])
def test_one_wait_with_guards(graphs):
    with DeviceReads() as device:
        net = device.put(Net().eval())
        config = bc.BlockCopyConfig(
            block_size=BLOCK,
            policy=OnDevice(),
            buckets=3 if graphs else None,
            cuda_graphs=graphs,
            guards=GUARDS,
        )
        bc.blockcopy_(net, config)
        if graphs:
            with_graphs(net)
        assert count(net, video("ab", 14), device)[0] == [ONCE] * 14


@pytest.mark.parametrize("guards", [[dict(type="Refresh", period=9)], ["Hold", "Dilate"]])
def test_one_wait_where_guards_run_blocks_while_the_policy_saves_up(guards):
    with DeviceReads() as device:
        net = device.put(Net().eval())
        policy = dict(type="GainPolicy", target=0.3)
        bc.blockcopy_(net, eager(policy, guards=guards))
        noise = [(torch.randn(1, 3, *SIZE), ["a"]) for _ in range(16)]
        waits, records = count(net, noise, device)
        assert waits == [ONCE] * 16
        rates = [record.executed_rate for record in records[1:]]
        assert max(rates) == 1 and min(rates) < 0.3, "whole frames, and next to nothing between"


def test_one_wait_where_maps_have_fewer_blocks_than_the_grid():
    with DeviceReads() as device:
        net = device.put(Unpadded().eval())
        bc.blockcopy_(net, eager(POLICIES["RandomPolicy"]))
        assert count(net, video("ab", 6), device)[0] == [ONCE] * 6


class Boxes(ModelAdapter):
    """A detector's: its results are on the device, their number is known."""

    def __init__(self, masks: bool) -> None:
        self.masks = masks

    def task_outputs(self, outputs, call):
        found = []
        for logits in outputs:
            scores, place = logits[0].sigmoid().flatten().topk(6)
            x, y = place % logits.shape[2], place // logits.shape[2]
            boxes = torch.stack((x - 3, y - 5, x + 20, y + 12), 1).float()
            masks = (logits[:1] > logits[1:2]).expand(6, -1, -1) if self.masks else None
            found.append(FoundObjects(boxes, scores, place % 2, masks, (1.0, 1.0)))
        return at_network_scale(found, tuple(call.frame.shape[2:]))


@pytest.mark.parametrize("masks", [False, True])
def test_detections_are_one_wait_more(masks):
    """What a detector finds is compared on the host: all of a batch comes there at once."""
    with DeviceReads() as device:
        net = device.put(Net().eval())
        convert_(net, eager(POLICIES["RLPolicy"]), Boxes(masks))
        waits, records = count(net, video("ab", 10), device)
        assert waits == [{"host_transfer.py:to_host to the host": 2}] * 10
        assert bc.handle(net).policy.updates == 2
        assert any(record.scalars.get("information_gain", 0) > 0 for record in records)


def test_figures_come_with_the_next_frame():
    with DeviceReads() as device:
        net = device.put(Net().eval())
        bc.blockcopy_(net, eager(POLICIES["RLPolicy"]))
        batches = list(video("a", 7))
        assert count(net, batches[:5], device)[0] == [ONCE] * 5
        record = bc.handle(net).last
        assert not record.scalars_known and device.waits == ONCE
        assert record.executed_rate == pytest.approx(record.scalars["executed_rate"])
        assert set(record.scalars) == {
            *("executed_rate", "running_rate", "information_gain", "reward", "cost", "loss")
        }
        # To read them before the next frame is one wait, whatever their number.
        assert sum(device.waits.values()) == 2 and record.scalars_known
        assert all(type(value) is float for value in record.scalars.values())
        count(net, batches[5:6], device)
        late = bc.handle(net).last
        assert not late.scalars_known
        # Those that nobody has asked for come with the next frame.
        assert count(net, batches[6:], device)[0] == [ONCE]
        assert late.scalars_known and late.scalars["reward"] != record.scalars["reward"]
        assert device.waits == ONCE


def _copy(b):
    torch.zeros(6).copy_(b)


def _write(b):
    b[1:] = torch.zeros(5)


WAITS = {
    "float": float,
    "int": int,
    "bool": bool,
    "item": lambda b: b.item(),
    "if": lambda b: 1 if b > 0 else 0,
    "tolist": lambda b: b.tolist(),
    "numpy": lambda b: b.numpy(),
    "cpu": lambda b: b.cpu(),
    "to": lambda b: b.to("cpu"),
    "to a dtype": lambda b: b.to("cpu", torch.float64),
    "copy_": _copy,
    "nonzero": lambda b: b.nonzero(),
    "mask": lambda b: b[b > 0],
    "write by mask": lambda b: b.index_put_((b > 0,), torch.zeros((), device=b.device)),
    "masked_select": lambda b: b.masked_select(b > 0),
    "unique": lambda b: b.unique(),
    "equal": lambda b: torch.equal(b, b + 1),
    "index of the host": lambda b: b[torch.tensor([1, 2])],
    "values of the host": lambda b: torch.tensor([1.0, 2.0], device=b.device),
    "write of the host": _write,
    "to the device": lambda b: torch.zeros(6).to(b.device),
}
ONE_VALUE = ("float", "int", "bool", "item", "if")


@pytest.mark.parametrize("name", WAITS)
def test_the_counter_counts(name):
    pytest.importorskip("numpy")
    host = torch.randn(6)
    with DeviceReads() as device:
        a = device.put(torch.randn(6))
        scale = device.put(nn.Parameter(torch.ones(())))
        b = (a * 2 * scale).detach()
        b[0] = 3.0
        b.add_(1.0).clamp_(max=9.0)
        b = b.view(2, 3).t().reshape(6)
        assert b.is_cuda and b.device.type == "cuda" and not device.waits
        WAITS[name](b.sum() if name in ONE_VALUE else b)
        assert sum(device.waits.values()) == 1
        # The copy is the host's, and what comes from there by way of pinned memory waits for none.
        copy = b.to("cpu")
        assert not copy.is_cuda and sum(device.waits.values()) == 2
        copy[copy > 0].nonzero(), copy.max().item(), host.tolist(), host.cpu(), (host > 0).nonzero()
        up = host.pin_memory().to(b.device, non_blocking=True)
        (b + up)[torch.arange(3, device=b.device)]
        assert up.is_cuda and sum(device.waits.values()) == 2
        with pytest.raises(AssertionError, match="one on the host"):
            b + host


def test_gradients_and_averages_are_the_devices():
    with DeviceReads() as device:
        layer = device.put(nn.Linear(3, 2))
        optimizer = torch.optim.RMSprop(layer.parameters(), lr=0.1, weight_decay=0.1)
        before = layer.weight.detach().clone()
        for _ in range(2):
            layer(torch.ones(4, 3, device=before.device)).square().mean().backward()
            optimizer.step()
        assert layer.weight.grad.is_cuda
        assert optimizer.state[layer.weight]["square_avg"].is_cuda
        assert (layer.weight - before).is_cuda and not device.waits
        assert (layer.weight - before).abs().min() > 0
        assert sum(device.waits.values()) == 1


@pytest.mark.parametrize("name", WAITS)
@pytest.mark.parametrize("where", ["select", "feedback"])
def test_a_policy_that_reads_is_seen(name, where):
    """The test above can fail: with a policy that waits once more, in whichever way."""
    pytest.importorskip("numpy")

    class Reads(OnDevice):
        def select(self, frame, context):
            if where == "select":
                self.wait(frame, context)
            return super().select(frame, context)

        def feedback(self, frame, grid, outputs, context):
            if where == "feedback":
                self.wait(frame, context)
            return super().feedback(frame, grid, outputs, context)

        def wait(self, frame, context):
            values = brightness(frame, context.grid_shape).flatten()[:6]
            WAITS[name](values.sum() if name in ONE_VALUE else values)

    with DeviceReads() as device:
        net = device.put(Net().eval())
        bc.blockcopy_(net, eager(Reads()))
        for waits in count(net, video("a", 3), device)[0]:
            (other,) = set(waits) - set(ONCE)
            assert waits == {**ONCE, other: 1}
            # The line of the package that led there.
            place = "grid_choice.py:select_grid" if where == "select" else "session.py:_feed_back"
            assert other.startswith(f"engine/{place} ")

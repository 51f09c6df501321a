"""The four laws on a GPU, with and without graphs, against the masked reference on the CPU."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.adapter import ModelAdapter
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.errors import FrameError
from blockcopy_plugins.policy import Policy

SIZE, BLOCK = (100, 140), 32  # 4 x 5 blocks
# Against the oracle in double precision; the same shares of the range as on the CPU.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}


class Net(nn.Module):
    """What a detector has: strides, residual, dilation, a top-down path, group norm, a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16))
        self.stage = nn.Conv2d(16, 16, 3, 1, 1)
        self.down = nn.Conv2d(16, 32, 3, 2, 1)
        self.wide = nn.Conv2d(32, 32, 3, 1, 12, 12, groups=4)
        self.norm = nn.GroupNorm(4, 32)
        self.lateral = nn.ModuleList([nn.Conv2d(16, 24, 1), nn.Conv2d(32, 24, 1)])
        self.up = nn.ConvTranspose2d(24, 8, 4, 2, 1)
        nn.init.uniform_(self.stem[1].running_mean, -0.5, 0.5)
        nn.init.uniform_(self.stem[1].running_var, 0.5, 2)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem(x), inplace=True), 3, 2, 1)
        x = F.relu_(x + self.stage(x))
        low = F.relu(self.norm(self.wide(self.down(x))))
        low = low * low.mean((2, 3), keepdim=True).sigmoid()
        top = self.lateral[1](low)
        merged = self.lateral[0](x) + F.interpolate(top, size=x.shape[2:], mode="nearest")
        logits = F.interpolate(merged, scale_factor=2.0, mode="bilinear")
        return {"levels": (merged, top), "up": self.up(merged), "logits": logits}


def flat(outputs):
    return [*outputs["levels"], outputs["up"], outputs["logits"]]


def close(found, wanted, tolerance):
    for a, b in zip(found, wanted, strict=True):
        scale = max(b.abs().max().item(), 1e-3)
        error = (a.cpu().double() - b.double()).abs().max().item()
        assert error <= tolerance * scale, f"error {error} of {scale}"


def check(net, reference, frame, ids=None, tolerance=1e-4):
    found = net(frame)
    grid = bc.handle(net).last.grid.cpu()
    close(flat(found), flat(reference(grid, frame.cpu().double(), streams=ids)), tolerance)
    return found


def pair(convert, device, dtype=torch.float32, net=None, **options):
    """A converted model on the device, and its oracle in double precision on the CPU."""
    net = (net or Net()).eval().to(dtype)
    oracle = MaskedReference(copy.deepcopy(net).double(), BLOCK)
    options = {"policy": lambda f, c: torch.rand(c.grid_shape) < 0.3, "buckets": 4, **options}
    return convert(net, block_size=BLOCK, **options), oracle


def frames(count, device, images=1, dtype=torch.float32):
    return [torch.randn(images, 3, *SIZE).to(device, dtype) for _ in range(count)]


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_any_grids_are_the_masked_reference(convert, device, graphs, dtype, mode):
    net, oracle = pair(convert, device, dtype, cuda_graphs=graphs)
    for frame in frames(16, device, 2, dtype):
        with mode():
            check(net, oracle, frame, tolerance=TOLERANCE[dtype])
    report = bc.report(net).graphs
    if graphs:
        assert report.replayed >= 6 and not report.eager_calls
    else:
        assert report is None


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("pack", [False, True])
def test_all_executed_is_dense(convert, device, dtype, layout, pack):
    net = Net().eval().to(dtype)
    oracle = copy.deepcopy(net).double()
    net = convert(net, block_size=BLOCK, policy="all", pack_whole_frames=pack)
    for frame in frames(3, device, 2, dtype):
        frame = frame.contiguous(memory_format=layout)
        found = flat(net(frame))
        with torch.no_grad():
            close(found, flat(oracle(frame.cpu().double())), TOLERANCE[dtype])
        assert all(output.is_contiguous(memory_format=layout) for output in found)


@pytest.mark.parametrize("graphs", [False, True])
def test_still_pictures_and_empty_grids(convert, device, graphs):
    rates = [2, 0.4, 0.4, 0.4, 0, 0, 0, 0.4, 0]
    left = list(rates)
    net, _ = pair(
        convert,
        device,
        policy=lambda f, c: torch.rand(c.grid_shape) < left.pop(0),
        cuda_graphs=graphs,
    )
    still = frames(1, device)[0]
    before = first = flat(net(still))
    for rate in rates[1:]:
        found = flat(net(frames(1, device)[0] if rate == 0 else still))
        close(found, [output.cpu() for output in first], 1e-4)
        if rate == 0:
            assert all(torch.equal(a, b) for a, b in zip(found, before, strict=True))
        before = found


def test_autocast(convert, device):
    net, oracle = pair(convert, device)
    for frame in frames(10, device):
        with torch.autocast(device.type, torch.bfloat16):
            check(net, oracle, frame, tolerance=6e-2)
    assert bc.report(net).graphs.replayed > 0


def test_streams_share_graphs_and_come_and_go(convert, device):
    net, oracle = pair(convert, device, policy=lambda f, c: torch.rand(c.grid_shape) < 0.1)
    turns = [["a", "b", "c"], ["a"], ["b"], ["c"], ["b", "a"], ["a", "c"], ["c", "b"], ["b"], ["a"]]
    for _ in range(3):
        for ids in turns:
            with bc.streams(net, ids):
                check(net, oracle, frames(1, device, len(ids))[0], ids)
        bc.reset_(net, ["c"])
        oracle.kept = {key: map_ for key, map_ in oracle.kept.items() if key[0] != "c"}
    report = bc.report(net).graphs
    assert report.replayed > report.captured and not report.eager_calls


def test_the_next_video_finds_the_graphs_of_the_last(convert, device):
    net, _ = pair(convert, device, policy=lambda f, c: torch.rand(c.grid_shape) < 0.1, buckets=2)
    captured = set()
    for _ in range(3):
        oracle = MaskedReference(copy.deepcopy(net).cpu().double(), BLOCK)
        oracle.model = bc.restore_(oracle.model)
        for frame in frames(5, device):
            check(net, oracle, frame)
        captured.add(bc.report(net).graphs.captured)
        bc.reset_(net)
    assert len(captured) <= 2


def test_results_stay_as_they_are(convert, device):
    net, oracle = pair(convert, device)
    kept = []
    for frame in frames(8, device):
        found = check(net, oracle, frame)
        kept.append((flat(found), [output.clone() for output in flat(found)]))
    for outputs, copies in kept:
        assert all(torch.equal(a, b) for a, b in zip(outputs, copies, strict=True))


def test_a_side_stream(convert, device):
    if device.type != "cuda":
        pytest.skip("streams are CUDA's")
    net, oracle = pair(convert, device)
    for frame in frames(10, device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            check(net, oracle, frame)
        torch.cuda.current_stream().wait_stream(side)
    assert bc.report(net).graphs.replayed > 0


def test_a_device_that_is_not_the_current_one(convert):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    second = torch.device("cuda", 1)
    net, oracle = pair(convert, second)
    net.to(second)
    for frame in frames(10, second):
        check(net, oracle, frame)
        assert torch.cuda.current_device() == 0
    assert bc.report(net).graphs.replayed > 0


class Looks(Net):
    """Control flow that depends on the picture."""

    def forward(self, x):
        out = super().forward(x)
        if out["logits"].mean() > 1e9:
            out["logits"] = out["logits"] + 1.0
        return out


def test_what_cannot_be_captured_runs_as_ever(convert, device):
    net, oracle = pair(convert, device, net=Looks())
    for frame in frames(10, device):
        check(net, oracle, frame)
    report = bc.report(net).graphs
    assert report.replayed == 0 and any("waits for the" in reason for reason in report.eager_calls)
    # And the device is as good as before: another model is captured.
    net, oracle = pair(convert, device)
    for frame in frames(10, device):
        check(net, oracle, frame)
    assert bc.report(net).graphs.replayed > 0


class Synchronises(Net):
    """What no dispatch mode sees: CUDA itself ends the capture."""

    def forward(self, x):
        out = super().forward(x)
        if x.is_cuda:
            torch.cuda.current_stream().synchronize()
        return out


def test_a_capture_that_cuda_ends(convert, device):
    if device.type != "cuda":
        pytest.skip("CUDA ends it")
    net, oracle = pair(convert, device, net=Synchronises())
    for frame in frames(10, device):
        check(net, oracle, frame)
    report = bc.report(net).graphs
    assert report.replayed == 0 and any(
        "not be captured" in reason for reason in report.eager_calls
    )
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    net, oracle = pair(convert, device)
    for frame in frames(10, device):
        check(net, oracle, frame)
    assert bc.report(net).graphs.replayed > 0


def test_a_limit_on_memory(convert, device):
    net, oracle = pair(convert, device)
    bc.handle(net).graphs.limit = 1000
    for frame in frames(10, device):
        check(net, oracle, frame)
    report = bc.report(net).graphs
    assert report.graphs == 0 and any("memory" in reason for reason in report.eager_calls)


def test_a_bad_frame_changes_nothing(convert, device):
    net, oracle = pair(convert, device)
    for frame in frames(8, device):
        check(net, oracle, frame)
        bad = frame.clone()
        bad[0, 1, 7, 9] = float("nan")
        with pytest.raises(FrameError, match="nan"):
            net(bad)


def test_the_learned_policy(convert, device):
    net, oracle = pair(convert, device, policy=dict(type="RLPolicy", target=0.3, seed=1))
    for frame in frames(20, device):
        check(net, oracle, frame)
    policy = bc.handle(net).policy
    assert policy.updates >= 3 and policy.net.offset.device.type == device.type
    assert bc.report(net).graphs.replayed > 0


class OnDevice(Policy):
    """Brightness: all of its work is the device's."""

    def select(self, frame, context):
        return self.scores(frame, context) > 0

    def scores(self, frame, context):
        return F.adaptive_avg_pool2d(frame.mean(1, keepdim=True), context.grid_shape[1:])[:, 0]

    def feedback(self, frame, grid, outputs, context):
        return {"brightness": frame.mean()}


POLICIES = {
    "RLPolicy": dict(type="RLPolicy", seed=3, target=0.3, update_every=4),
    "RLPolicy, features": dict(type="RLPolicy", seed=3, information_gain="features"),
    "RLPolicy, frozen": dict(type="RLPolicy", seed=3, online=False),
    "RLPolicy, threshold": dict(type="RLPolicy", seed=3, online=False, sampling="threshold"),
    "FrameDifferencePolicy": dict(type="FrameDifferencePolicy", threshold=0.5),
    "FrameDifferencePolicy, target": dict(type="FrameDifferencePolicy", target=0.3),
    "EveryNthFramePolicy": dict(type="EveryNthFramePolicy", n=3),
    "RandomPolicy": dict(type="RandomPolicy", rate=0.3, seed=3),
    "StaticPolicy": dict(type="StaticPolicy", grid=[[1, 0, 1, 0, 0]] * 4),
    "AllPolicy": "all",
    "NonePolicy": "none",
    "a grid on the host": lambda frame, context: torch.rand(context.grid_shape) < 0.3,
    "a grid on the device": lambda frame, context: OnDevice().select(frame, context),
    "a policy of a user's": OnDevice(),
}


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_frame_waits_for_the_device_once(convert, device, policy, graphs):
    if device.type != "cuda":
        pytest.skip("CUDA counts; tests/test_engine/test_synchronisations.py does so for the CPU")
    net, _ = pair(convert, device, policy=POLICIES[policy], buckets=2, cuda_graphs=graphs)
    captured = 0
    for index, frame in enumerate(frames(14, device, 2)):
        # Two streams that change places; the second joins late.
        ids = ["a"] if index < 2 else ["b", "a"] if index % 2 else ["a", "b"]
        frame = frame[: len(ids)]
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught, bc.streams(net, ids):
                warnings.simplefilter("always")
                net(frame)
                assert 0 <= bc.handle(net).last.executed_rate <= 1
        finally:
            torch.cuda.set_sync_debug_mode("default")
        report = bc.report(net).graphs
        now = report.captured if report else 0
        if now == captured:  # A capture waits too.
            waits = [w for w in caught if "synchronizing" in str(w.message)]
            assert len(waits) == 1, (index, [f"{w.filename}:{w.lineno}" for w in waits])
        captured = now
    if policy == "RLPolicy":
        assert bc.handle(net).policy.updates == 3


class Overflows(ModelAdapter):
    """The policy is told of outputs that are not finite, of one frame."""

    bad = False

    def task_outputs(self, outputs, call):
        logits = outputs["logits"]
        return list(logits * float("inf") if self.bad else logits)


@pytest.mark.parametrize("graphs", [False, True])
def test_outputs_that_are_not_finite_are_found_with_the_next_frame(convert, device, graphs):
    net, oracle = pair(
        convert, device, policy=dict(type="RLPolicy", target=0.3, seed=1), cuda_graphs=graphs
    )
    handle = bc.handle(net)
    handle.adapter = Overflows()
    for index, frame in enumerate(frames(12, device)):
        handle.adapter.bad = index == 7
        known, rate = dict(handle.policy._memories), handle.policy.running_rate
        if index == 7 and device.type != "cuda":
            # The frame has run, and its grid is not told: the state is another than the oracle's.
            with pytest.raises(FrameError, match="NaN or infinity"):
                net(frame)
            return
        if index == 7:
            kept = known, rate
        if index == 8:
            with pytest.raises(FrameError, match="stream 0 held NaN or infinity"):
                net(frame)
            assert (handle.policy._memories, handle.policy.running_rate) == kept
        check(net, oracle, frame)
    assert handle.policy.updates >= 2
    assert all(parameter.isfinite().all() for parameter in handle.policy.net.parameters())


def test_memory_stays_the_same(convert, device):
    if device.type != "cuda":
        pytest.skip("CUDA's allocator counts")
    net, _ = pair(convert, device, buckets=2)
    for frame in frames(12, device):
        net(frame)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    frame = frames(1, device)[0]
    before = torch.cuda.memory_allocated()
    for _ in range(200):
        net(frame)
    torch.cuda.synchronize()
    # The last grid and the record of the last call are of each frame.
    assert torch.cuda.memory_allocated() - before < 2**20

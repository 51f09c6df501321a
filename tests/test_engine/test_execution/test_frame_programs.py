"""Frames as programs: the same as frames without, or not a program at all."""

from __future__ import annotations

import copy
import logging
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves

import blockcopy_plugins as bc
from blockcopy_plugins.policy.dictated import DictatedPolicy
from tests.test_engine.test_strategies.test_windows import Windowed

SIZE, BLOCK = (40, 56), 8
SHAPE = (5, 7)


class Dictated:
    """A policy that gives the grid it was told."""

    grid = None

    def __call__(self, frame, context):
        return self.grid


class Net(nn.Module):
    """Layers of most kinds: strided, dilated, grouped, transposed, pooled, resized, normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.PReLU(8)
        )
        self.deep = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.wise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.norm = nn.GroupNorm(2, 8)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.gate = nn.Sequential(nn.Linear(8, 8), nn.Sigmoid())

    def forward(self, x):
        x = self.stem(x)
        y = F.relu(self.deep(x) + self.wise(x))
        y = torch.cat([y, self.pool(x)], 1)[:, 4:12]
        y = self.norm(self.grouped(y))
        y = y * self.gate(y.mean((2, 3)))[:, :, None, None]
        y = F.interpolate(y, scale_factor=0.5, mode="bilinear")
        return self.up(F.interpolate(y, scale_factor=2.0)), y


def converted(net, **options):
    net = copy.deepcopy(net).eval()
    return bc.blockcopy_(net, bc.BlockCopyConfig(block_size=BLOCK, policy=Dictated(), **options))


def grid_of(executed, draw, images=1):
    blocks = images * SHAPE[0] * SHAPE[1]
    grid = torch.zeros(blocks, dtype=torch.bool)
    grid[torch.randperm(blocks, generator=draw)[:executed]] = True
    return grid.view(images, *SHAPE)


def call(net, frame, grid, **named):
    bc.handle(net).policy.function.grid = grid
    with torch.no_grad():
        return net(frame, **named)


def same(found, wanted):
    for a, b in zip(tree_leaves(found), tree_leaves(wanted), strict=True):
        assert torch.equal(a, b) if isinstance(b, torch.Tensor) else a == b


def programs(net):
    return bc.report(net).programs


def nearly_the_same(found, wanted):
    """The same op may sum in another order if its operands have moved in memory."""
    for a, b in zip(tree_leaves(found), tree_leaves(wanted), strict=True):
        scale = b.nan_to_num(0.0, 0.0, 0.0).abs().max().item()
        torch.testing.assert_close(a, b, atol=2e-6 * scale, rtol=0.0, equal_nan=True)


def run(nets, counts, draw, images=1, streams=None):
    """The same frames through all, and the same results wanted."""
    for executed in counts:
        frame = torch.randn(images, 3, *SIZE, generator=draw)
        grid = grid_of(executed, draw, images)
        out = []
        for net in nets:
            if streams is None:
                out.append(call(net, frame, grid))
            else:
                with bc.streams(net, streams):
                    out.append(call(net, frame, grid))
        nearly_the_same(out[0], out[1])


COUNTS = (35, 5, 9, 12, 3, 1, 20, 35, 35, 35, 7, 2)


def pair(net, **options):
    return converted(net, **options), converted(net, programs=False, **options)


def test_nothing_changed_changes_nothing_and_results_are_the_callers():
    torch.manual_seed(0)
    net = converted(Net())
    draw = torch.Generator().manual_seed(1)
    frame = torch.randn(1, 3, *SIZE, generator=draw)
    first = call(net, frame, grid_of(35, draw))
    held = [x.clone() for x in first]
    for executed in (4, 6, 8, 3, 11):
        again = call(net, frame, grid_of(executed, draw))
        for a, b in zip(again, held, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
        for x in again:
            x.fill_(7.0)
    same(first, held)
    assert programs(net).replayed >= 2


def test_one_number_of_blocks_makes_a_program_for_it():
    torch.manual_seed(0)
    nets = pair(Net())
    draw = torch.Generator().manual_seed(1)
    run(nets, [35, 6, 6, 6, 6], draw)
    assert programs(nets[0]).replayed == 2
    run(nets, [9, 4, 12, 6, 7], draw)  # Another number: then one for all.
    assert programs(nets[0]).replayed >= 5


@pytest.mark.parametrize("place", ["deep", ""])
def test_hooks_are_called(place):
    torch.manual_seed(0)
    nets = pair(Net())
    draw = torch.Generator().manual_seed(1)
    run(nets, [35, 5, 9, 4, 6], draw)
    replayed = programs(nets[0]).replayed
    seen = []
    hook = nets[0].get_submodule(place).register_forward_hook(lambda *a: seen.append(1))
    run(nets, [5, 9, 4], draw)
    assert len(seen) == 3
    if place:
        assert programs(nets[0]).replayed == replayed
        assert "forward hook" in next(iter(programs(nets[0]).eager_calls))
    hook.remove()
    run(nets, [5, 9, 4, 6], draw)
    assert len(seen) == 3 and programs(nets[0]).replayed > replayed


class Turns(Net):
    """Goes another way through its layers on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.negative = False
        self.count = 0

    def forward(self, x):
        y, z = super().forward(x)
        return (-y if self.negative else y), z


def test_an_attribute_that_changes_is_seen():
    torch.manual_seed(0)
    nets = pair(Turns())
    draw = torch.Generator().manual_seed(1)
    for negative in (False, True, False):
        for net in nets:
            net.negative = negative
        run(nets, [35, 5, 9, 4, 6], draw)
    assert programs(nets[0]).replayed >= 6


def test_modules_that_are_replaced_are_seen():
    torch.manual_seed(0)
    nets = pair(Net())
    draw = torch.Generator().manual_seed(1)
    counts = [35, 5, 9, 4, 6]
    run(nets, counts, draw)
    for net, module in zip(nets, same_modules(nn.Conv2d(8, 8, 1), nn.Tanh()), strict=True):
        net.wise = module
    run(nets, counts, draw)
    for net in nets:  # Of a module that came later.
        net.wise[1] = nn.Sigmoid().eval()
    run(nets, counts, draw)
    for net in nets:
        net.wise[0].weight = nn.Parameter(torch.ones(8, 8, 1, 1))
    run(nets, counts, draw)
    assert programs(nets[0]).replayed >= 8
    calls = []
    nets[0].wise[1].register_forward_hook(lambda *_: calls.append(1))
    run(nets, counts, draw)
    assert len(calls) == len(counts)


def same_modules(*layers):
    one = nn.Sequential(*layers).eval()
    return one, copy.deepcopy(one)


class Counts(Turns):
    def forward(self, x):
        self.count += 1
        self.negative = self.count % 3 == 0
        return super().forward(x)


def test_a_model_that_counts_its_frames_is_no_program():
    torch.manual_seed(0)
    nets = pair(Counts())
    run(nets, [35, 5, 9, 4, 6, 8, 3], torch.Generator().manual_seed(1))
    assert programs(nets[0]) is None or programs(nets[0]).replayed == 0


class NotesSizes(Net):
    def forward(self, x):
        out = super().forward(x)
        self.sizes = [tuple(y.shape[2:]) for y in out]
        self.about = {"strides": [1, 2], "size": x.shape}
        return out


class NotesBlocks(Net):
    def forward(self, x):
        self.maps, self.named = [], {}
        self.maps.append(self.stem(x))
        self.named["disparity", 0] = self.maps[-1]
        return super().forward(x)


class NotesDenseMaps(Net):
    def forward(self, x):
        out = super().forward(x)
        self.maps = [bc.to_dense(y) for y in out]
        return out


@pytest.mark.parametrize(
    ("model", "replayed"), [(NotesSizes, 5), (NotesBlocks, 5), (NotesDenseMaps, 0)]
)
def test_a_model_that_notes_nothing_new_in_each_frame_is_a_program(model, replayed):
    torch.manual_seed(0)
    nets = pair(model())
    run(nets, [35, 5, 9, 4, 6, 8, 3, 7], torch.Generator().manual_seed(1))
    assert programs(nets[0]).replayed == replayed
    run(nets, [35], torch.Generator().manual_seed(2))
    if model is NotesDenseMaps:
        nearly_the_same(nets[0].maps, nets[1].maps)


class Outside(nn.Module):
    """Depends on what no module shows."""

    def __init__(self, state) -> None:
        super().__init__()
        self.net = Net()
        self.state = state

    def __deepcopy__(self, memo):
        other = Outside(self.state)
        other.net = copy.deepcopy(self.net, memo)
        return other.eval()

    def forward(self, x):
        y, z = self.net(x)
        return (-y if self.state["turn"]() else y), z


@pytest.mark.parametrize("counts", [[6] * 12, [6, 9, 7, 12, 5, 8] * 2])
@pytest.mark.parametrize("how", ["plain", "fused"])
def test_windows_have_numbers_of_their_own(counts, how):
    torch.manual_seed(0)
    nets = pair(Windowed(3, how))
    run(nets, [35, *counts], torch.Generator().manual_seed(1))
    assert programs(nets[0]).replayed >= 4


def test_frames_that_are_recorded_in_vain_are_so_more_and_more_rarely():
    nets = pair(Net())
    # One block in every other frame: such pairs do not tell what their integers mean.
    run(nets, [1, 2] * 10, torch.Generator().manual_seed(1))
    assert programs(nets[0]).made == 0
    assert bc.report(nets[0]).recorded == 16


def test_recorded_calls_are_counted():
    """The first two after a stream's first frame, and the ninth that could be replayed."""
    torch.manual_seed(0)
    net = converted(Net())
    draw = torch.Generator().manual_seed(1)
    found = []
    for executed in [35, 5, 9, *range(3, 13)]:
        call(net, torch.randn(1, 3, *SIZE, generator=draw), grid_of(executed, draw))
        found.append(bc.report(net).recorded)
    assert found == [0, 1, 2] + 8 * [2] + [3, 3]
    assert bc.report(converted(Net(), programs=False)).recorded == 0


def test_a_path_that_changes_in_each_frame_is_refused():
    torch.manual_seed(0)
    state, turns = {}, []
    state["turn"] = lambda: len(turns) % 2
    nets = pair(Outside(state))
    draw = torch.Generator().manual_seed(1)
    for executed in [35, 5, 9, 4, 6, 8, 3, 10, 7, 5]:
        turns.append(1)
        run(nets, [executed], draw)
    assert programs(nets[0]).replayed == 0
    (reason,) = programs(nets[0]).eager_calls
    assert "did not do the same" in reason


def test_a_path_that_changes_later_is_found_out(caplog):
    torch.manual_seed(0)
    state, negative = {}, []
    state["turn"] = lambda: bool(negative)
    nets = pair(Outside(state))
    draw = torch.Generator().manual_seed(1)
    run(nets, [35, 5, 9, 4, 6], draw)
    negative.append(1)
    frame = torch.randn(1, 3, *SIZE, generator=draw)
    with caplog.at_level(logging.INFO, "blockcopy_plugins"):
        for executed in [3, 4, 5, 6, 7, 8, 9, 10]:
            out = call(nets[0], frame, grid_of(executed, draw))
    report = programs(nets[0])
    assert report.compared == 1
    (reason,) = report.eager_calls
    assert "did not do what it did in earlier frames" in reason
    assert any("did not do what it did" in record.getMessage() for record in caplog.records)
    call(nets[1], frame, grid_of(35, draw))
    nearly_the_same(
        call(nets[0], frame, grid_of(35, draw)), call(nets[1], frame, grid_of(35, draw))
    )
    assert len(out) == 2


class Reads(nn.Module):
    def __init__(self, how) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.how = how
        self.register_buffer("seen", torch.zeros(()))
        self.kept = {}

    def forward(self, x):
        y = self.conv(x)
        mean = y.mean()
        if self.how == "item":
            return y * (2.0 if mean.item() > 0 else 3.0)
        if self.how == "bool":
            return y * 2 if mean > 0 else y * 3
        if self.how == "list":
            return y * max(y.mean((2, 3)).tolist()[0])
        if self.how == "numpy":
            return y * float(y.mean((2, 3)).numpy().max())
        if self.how == "mask":
            return y * len(y.flatten()[y.flatten() > 0])
        if self.how == "nonzero":
            return y * len((mean > 0).nonzero())
        if self.how == "buffer":
            self.seen.add_(1.0)
            return y * self.seen
        if self.how == "kept":
            before = self.kept.get("y", y.mean((2, 3), keepdim=True).detach())
            self.kept["y"] = bc.to_dense(y).mean((2, 3), keepdim=True)
            return y * before
        if self.how == "random":
            return y * torch.rand(1)
        if self.how == "number":
            return y, len(y)
        return y * torch.from_numpy(mean.detach().reshape(1).numpy().copy())


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("item", "_local_scalar_dense"),
        ("bool", "is_nonzero|_local_scalar_dense"),
        ("list", "tolist"),
        ("numpy", "numpy"),
        ("mask", "index"),
        ("nonzero", "nonzero"),
        ("buffer", "existed before the frame"),
        ("kept", "differs from frame to frame"),
        ("random", "random numbers"),
        ("number", "a int"),
        ("array", "numpy"),
    ],
)
def test_what_cannot_be_done_again_is_no_program(how, reason):
    import re

    torch.manual_seed(0)
    nets = pair(Reads(how))
    draw = torch.Generator().manual_seed(1)
    for executed in [35, 5, 9, 4, 6, 8, 3, 7]:
        frame, grid = torch.randn(1, 3, *SIZE, generator=draw), grid_of(executed, draw)
        state = torch.get_rng_state()
        first = call(nets[0], frame, grid)
        torch.set_rng_state(state)
        nearly_the_same(first[:1], call(nets[1], frame, grid)[:1])
    report = programs(nets[0])
    assert report.replayed == 0
    (found,) = report.eager_calls
    assert re.search(reason, found), found


class Writes(nn.Module):
    """In-place ops on maps and numbers made in the frame, and on slices."""

    def __init__(self, slices: bool) -> None:
        super().__init__()
        self.slices = slices
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1))

    def forward(self, x):
        x = self.one(x)
        x.mul_(self.scale).add_(torch.tensor(0.5))
        if self.slices:
            x[:, 1:3] *= 2
            x[:, :, 3:9] = 0.25
        y = F.relu_(self.two(x))
        y += x
        return y


def test_in_place_ops():
    torch.manual_seed(0)
    nets = pair(Writes(slices=False))
    run(nets, COUNTS, torch.Generator().manual_seed(1))
    assert programs(nets[0]).replayed >= 5


def test_what_is_written_to_slices_is_looked_at_in_each_frame():
    """Whether a view of pixels was written to is told by its values."""
    torch.manual_seed(0)
    nets = pair(Writes(slices=True))
    run(nets, COUNTS, torch.Generator().manual_seed(1))
    report = programs(nets[0])
    assert report.replayed == 0 and "reads values" in next(iter(report.eager_calls))


def test_other_arguments_sizes_and_layouts_have_their_own():
    class Scaled(Net):
        def forward(self, x, factor=1.0):
            y, z = super().forward(x)
            return y * factor, z

    torch.manual_seed(0)
    nets = pair(Scaled())
    draw = torch.Generator().manual_seed(1)
    for i, executed in enumerate([35, 5, 9, 4, 6, 8, 3, 7, 12, 5, 9, 6, 11, 4, 8]):
        frame, grid = torch.randn(1, 3, *SIZE, generator=draw), grid_of(executed, draw)
        if i % 3 == 1:
            frame = frame.contiguous(memory_format=torch.channels_last)
        named = dict(factor=2.0) if i % 2 else {}
        nearly_the_same(call(nets[0], frame, grid, **named), call(nets[1], frame, grid, **named))
        if i % 5 == 4:
            other = torch.randn(1, 3, 33, 24, generator=draw)
            ones = torch.ones(1, 5, 3, dtype=torch.bool)
            with bc.streams(nets[0], ["small"]), bc.streams(nets[1], ["small"]):
                nearly_the_same(call(nets[0], other, ones), call(nets[1], other, ones))
    assert programs(nets[0]).replayed >= 2


def test_a_frame_that_fails_leaves_the_stream_right():
    class Fails(Net):
        fails = False

        def forward(self, x):
            y = self.stem(x)
            if self.fails:
                raise KeyError("now")
            return self.deep(y)

    torch.manual_seed(0)
    nets = pair(Fails())
    draw = torch.Generator().manual_seed(1)
    run(nets, [35, 5, 9, 4], draw)
    for net in nets:
        net.fails = True
        with pytest.raises(KeyError):
            call(net, torch.randn(1, 3, *SIZE), grid_of(6, draw))
        net.fails = False
    run(nets, [5, 9, 4, 6, 7], draw)
    assert programs(nets[0]).replayed >= 2


def test_an_op_that_fails_runs_without_a_program(monkeypatch):
    torch.manual_seed(0)
    nets = pair(Net())
    draw = torch.Generator().manual_seed(1)
    run(nets, [35, 5, 9, 4], draw)
    (cache,) = bc.handle(nets[0]).caches
    ((made,),) = cache.programs.programs.values()
    ran = made.program.run

    def fail(*args):
        ran(*args)
        raise RuntimeError("no memory")

    monkeypatch.setattr(made.program, "run", fail)
    run(nets, [6, 8, 4], draw)
    (reason,) = programs(nets[0]).eager_calls
    assert "no memory" in reason


def test_modes_around_a_call_see_its_ops():
    from torch.utils._python_dispatch import TorchDispatchMode

    from blockcopy_plugins.engine.macs import MacCounter

    class Sees(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.seen += 1
            return func(*args, **(kwargs or {}))

    torch.manual_seed(0)
    nets = pair(Net())
    draw = torch.Generator().manual_seed(1)
    run(nets, [35, 5, 9, 4, 6], draw)
    replayed = programs(nets[0]).replayed
    with MacCounter() as counter:
        run(nets, [7], draw)
    assert counter.macs > 0 and programs(nets[0]).replayed == replayed


def test_copies_make_their_own():
    torch.manual_seed(0)
    net, plain = pair(Net())
    draw = torch.Generator().manual_seed(1)
    run((net, plain), [35, 5, 9, 4], draw)
    other = copy.deepcopy(net)
    frame = torch.randn(1, 3, *SIZE, generator=draw)
    before = call(net, frame, grid_of(6, draw))
    run((other, plain), [5, 9, 4, 6, 8], draw)
    assert programs(other).replayed > programs(net).replayed - 1
    nothing = call(net, torch.randn(1, 3, *SIZE), torch.zeros(1, *SHAPE, dtype=torch.bool))
    same(nothing, before)
    state = pickle.loads(pickle.dumps(bc.handle(net).programs))
    assert state.kind_of is not None


def test_they_can_be_turned_off():
    net = converted(Net(), programs=False)
    run((net, converted(Net().eval(), programs=False)), [], torch.Generator())
    assert programs(net) is None


def test_a_default_device_is_no_obstacle():
    torch.manual_seed(0)
    nets = pair(Writes(slices=False))
    try:
        torch.set_default_device("cpu")
        run(nets, COUNTS, torch.Generator().manual_seed(1))
    finally:
        # Another name instead would leave a mode behind.
        torch.set_default_device(None)
    assert programs(nets[0]).replayed >= 5


def test_a_stream_that_joins_moves_the_maps_of_a_program():
    torch.manual_seed(0)
    draw, pristine, nets = torch.Generator().manual_seed(1), Net().eval(), []
    for has_programs in (True, False):
        net, policy = copy.deepcopy(pristine), DictatedPolicy()
        config = bc.BlockCopyConfig(block_size=16, policy=policy, programs=has_programs)
        nets.append((bc.blockcopy_(net, config), policy))
    # Stream a alone until it has a program, then b begins, and then a goes on.
    for step, stream in enumerate("aaaaaaaabaaaa"):
        frame = torch.randn(1, 3, 40, 56, generator=draw)
        grid = torch.rand(1, 3, 4, generator=draw) < 0.5
        grid[0, 0, 0] = True
        found = []
        for net, policy in nets:
            policy.grid = grid
            with torch.no_grad(), bc.streams(net, [stream]):
                found.append(net(frame))
        for mine, wanted in zip(*map(tree_leaves, found), strict=True):
            torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=1e-5, msg=f"frame {step}")
    assert bc.report(nets[0][0]).programs.replayed

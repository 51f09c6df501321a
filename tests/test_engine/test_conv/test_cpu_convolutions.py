"""What the native convolutions take and leave alone, and the borders that they keep as state."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins import ops
from blockcopy_plugins.engine.decline import Decline
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.engine.state.entry import EVERYTHING
from blockcopy_plugins.errors import StateError

native = pytest.mark.skipif(not ops.conv_kernels(), reason="no native kernels on this processor")
BLOCK = 8


class Steps:
    """A converted net beside the same one by the masked sentence."""

    def __init__(self, net, block=BLOCK, size=(24, 32), dtype=torch.float32, **options) -> None:
        self.net, self.size, self.dtype, self.block = net.to(dtype).eval(), size, dtype, block
        self.grids = []
        self.plain = copy.deepcopy(self.net)
        self.reference = MaskedReference(self.plain, block)
        config = bc.BlockCopyConfig(
            block_size=block, policy=lambda f, c: self.grids.pop(), **options
        )
        bc.blockcopy_(self.net, config)

    def frame(self, rate, ids=(0,)):
        shape = [-(-side // self.block) for side in self.size]
        grid = torch.rand(len(ids), *shape) < rate
        return grid, torch.randn(len(ids), 3, *self.size).to(self.dtype)

    def run(self, grid, frame, ids=(0,)):
        self.grids.append(grid.clone())
        with bc.streams(self.net, ids):
            return self.net(frame.clone())

    def step(self, rate, ids=(0,), tolerance=1e-4):
        grid, frame = self.frame(rate, ids)
        found = self.run(grid, frame, ids)
        wanted = self.reference(bc.handle(self.net).last.grid, frame, streams=ids)
        if isinstance(wanted, torch.Tensor):
            found, wanted = (found,), (wanted,)
        for a, b in zip(found, wanted, strict=True):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)

    def steps(self, **options):
        for rate in (2.0, 0.5, 0.0, 0.3, 2.0, 0.4):
            self.step(rate, **options)


def stack(middle, *after):
    return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), middle, *after, nn.Conv2d(16, 4, 1))


# -- what is not taken ----------------------------------------------------------------------------


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 16, 3, 3) * 0.1)
        self.bias = nn.Parameter(torch.randn(16))

    def forward(self, x):
        y = F.conv2d(x, self.weight * 2, self.bias, padding=1)
        return F.relu(y) + F.conv2d(x, self.weight, None, 1, 2, 2)


class ByMeanOfInput(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class Shifted(nn.Conv2d):
    """A forward of its own that makes a new parameter in each frame."""

    def forward(self, x):
        return F.conv2d(x, nn.Parameter(self.weight + 1), self.bias, 1, 1)


MIDDLES = {
    "groups": lambda: nn.Conv2d(16, 16, 3, 1, 1, groups=4),
    "depthwise": lambda: nn.Conv2d(16, 16, 3, 1, 1, groups=16),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 16, 3, 1, 1)),
    "functional": Functional,
    "computed weight": lambda: ByMeanOfInput(16, 16, 3, 1, 1),
    "new parameters": lambda: Shifted(16, 16, 3, 1, 1),
    "circular": lambda: nn.Conv2d(16, 16, 3, 1, 1, padding_mode="circular"),
    "reflect": lambda: nn.Conv2d(16, 16, 3, 1, 1, padding_mode="reflect"),
    "replicate": lambda: nn.Conv2d(16, 16, 3, 1, 2, 2, padding_mode="replicate"),
    "same": lambda: nn.Conv2d(16, 16, 3, padding="same"),
    "same, even kernel": lambda: nn.Conv2d(16, 16, 4, padding="same"),
    "valid": lambda: nn.Conv2d(16, 16, 3, padding="valid"),
    "padded by a layer": lambda: nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(16, 16, 3)),
    "reflected by a layer": lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(16, 16, 3)),
    "padded with ones": lambda: nn.Sequential(nn.ConstantPad2d(1, 1.0), nn.Conv2d(16, 16, 3)),
    "transposed": lambda: nn.ConvTranspose2d(16, 16, 2, 2),
    "frozen": lambda: nn.Conv2d(16, 16, 3, 1, 1).requires_grad_(False),
    "channels last": lambda: nn.Conv2d(16, 16, 3, 1, 1).to(memory_format=torch.channels_last),
    "asymmetric": lambda: nn.Conv2d(16, 16, (1, 7), (2, 1), (0, 3)),
    "stride wider than kernel": lambda: nn.Conv2d(16, 16, 1, 2),
    "patches": lambda: nn.Conv2d(16, 16, 2, 2),
    "stride that does not divide": lambda: nn.Conv2d(16, 16, 3, 3, 1),
    "even kernel": lambda: nn.Conv2d(16, 16, 4, 2, 1),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("name", MIDDLES)
@pytest.mark.parametrize("pack", [False, True])
def test_every_kind_of_convolution(name, pack):
    Steps(stack(MIDDLES[name]()), pack_whole_frames=pack).steps(ids=("a", "b"))


DTYPES = {torch.float64: 1e-9, torch.float16: 0.02, torch.bfloat16: 0.05}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(dtype):
    net = stack(nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, 1, 1))
    steps = Steps(net, dtype=dtype)
    steps.steps(tolerance=DTYPES[dtype])
    taken = bc.handle(steps.net).converted.convolutions.cpu
    if taken is not None and dtype != torch.bfloat16:
        assert not len(taken.prepared)


def test_autocast():
    steps = Steps(stack(nn.Conv2d(16, 16, 3, 1, 1)))
    with torch.autocast("cpu", torch.bfloat16):
        steps.steps(tolerance=0.05)
    bc.reset_(steps.net)
    steps.reference.kept.clear()
    steps.steps()


def test_parameters_of_inference_mode():
    with torch.inference_mode():
        net = stack(nn.Conv2d(16, 16, 3, 1, 1))
        Steps(net).steps()


def test_without_the_extension():
    """In a process of its own, as the extension is loaded once."""
    code = """
import sys, torch
from torch import nn
import blockcopy_plugins as bc
from blockcopy_plugins import ops
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
assert ops.conv_kernels() == () and not ops.has_extension()
layers = nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3)
net = nn.Sequential(*layers).eval()
reference, grids = MaskedReference(net, 8), []
frames = [(torch.rand(1, 3, 4) < rate, torch.randn(1, 3, 24, 32)) for rate in (2, .5, .3, 2)]
wanted = [reference(*f) for f in frames]
bc.blockcopy_(net, bc.BlockCopyConfig(block_size=8, policy=lambda f, c: grids.pop()))
assert bc.handle(net).converted.convolutions.cpu is None
for (grid, frame), w in zip(frames, wanted):
    grids.append(grid)
    torch.testing.assert_close(net(frame), w, rtol=1e-4, atol=1e-4)
print('right')
"""
    environment = os.environ | {"BLOCKCOPY_DISABLE_EXTENSION": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert found.stdout.strip() == "right", found.stderr[-2000:]


# -- borders --------------------------------------------------------------------------------------


def entries(net):
    return [e for store in bc.handle(net).states.stores() for e in store.entries.values()]


@native
def test_windows_keep_borders_and_others_everything():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 16, 3, 1, 1)
            self.b = nn.Conv2d(16, 16, 5, 1, 2)
            self.c = nn.Conv2d(16, 16, 3, 1, 1)

        def forward(self, x):
            y = self.a(x)
            z = self.b(y)
            return F.max_pool2d(y, 3, 2, 1), self.c(z), z.flip(3)

    steps = Steps(Net())
    steps.steps()
    borders = {e.key.path: e.border for e in entries(steps.net) if e.key.op.startswith("aten.conv")}
    assert borders == {"a": 1, "b": 2, "c": EVERYTHING}


class Optional(nn.Module):
    """Reads a map in full in some frames only."""

    def __init__(self, read) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 1)
        self.b = nn.Conv2d(16, 4, 3, 1, 1)
        self.read, self.on = read, False

    def forward(self, x):
        y = self.a(x)
        z = self.b(y)
        return z + self.read(y) if self.on else z


READS = {
    "mean": lambda y: y.mean((1, 2, 3), keepdim=True),
    "larger pool": lambda y: F.max_pool2d(y, 7, 1, 3)[:, :4],
    "larger convolution": lambda y: F.conv2d(y, torch.ones(4, 16, 7, 7) / 100, padding=3),
    "flip": lambda y: y.flip(3)[:, :4],
}


@native
@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("pack", [False, True])
def test_a_map_of_which_borders_were_kept_is_not_read_in_full(name, pack):
    net = Optional(READS[name])
    steps = Steps(net, pack_whole_frames=pack)
    steps.step(2.0)
    steps.step(0.4)
    (entry,) = (e for e in entries(net) if e.map.shape[1] == 16)
    assert entry.border == 1
    net.on = steps.plain.on = True
    with pytest.raises(StateError, match="reset_"):
        steps.run(*steps.frame(0.4))
    # The frame failed: the next one is executed fully, and then all is there.
    grid, frame = steps.frame(0.4)
    found = steps.run(grid, frame)
    assert bc.handle(net).last.grid.all()
    with torch.no_grad():
        torch.testing.assert_close(found, steps.plain(frame), rtol=1e-4, atol=1e-4)
    steps.reference.kept.clear()
    steps.step(2.0)
    steps.step(0.3)
    steps.step(0.3)


@native
@pytest.mark.parametrize("pack", [False, True])
def test_what_was_read_in_full_once_is_kept_in_full(pack):
    """Also in frames in which the reader of the whole map has a rest."""

    class Beside(Optional):
        def forward(self, x):
            y = self.a(x)
            return self.b(y), self.read(y) if self.on else 0

    net = Beside(lambda y: y.mean((1, 2, 3)))
    net.on = True  # and always in the oracle
    steps = Steps(net, pack_whole_frames=pack)
    for rate, on in (
        (2.0, True),
        (0.4, False),
        (0.4, False),
        (0.2, True),
        (2.0, False),
        (0.2, True),
    ):
        net.on = on
        grid, frame = steps.frame(rate)
        found, wanted = steps.run(grid, frame), steps.reference(grid, frame)
        torch.testing.assert_close(found[: 1 + on], wanted[: 1 + on], rtol=1e-4, atol=1e-5)


class Readers(nn.Module):
    """One map, read by several convolutions, a pooling and an exit."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, 1, 1)
        self.bn = nn.BatchNorm2d(16)
        self.one = nn.Conv2d(16, 16, 3, 1, 1)
        self.two = nn.Conv2d(16, 4, 5, 1, 2)
        self.down = nn.Conv2d(16, 16, 3, 2, 1)
        self.far = nn.Conv2d(16, 4, 3, 1, 9, 9)

    def forward(self, x):
        x = F.relu(self.bn(self.a(x)))
        y = F.relu(self.one(x) + x)
        z = self.far(F.relu(self.down(y)))
        return self.two(y), z, F.max_pool2d(x, 2)


batches = st.lists(
    st.tuples(
        st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True),
        st.sampled_from((0.0, 0.3, 0.6, 2.0)),
        st.lists(st.sampled_from("abcd"), max_size=2, unique=True),
    ),
    min_size=2,
    max_size=6,
)


@pytest.mark.parametrize("examples", [15, pytest.param(400, marks=pytest.mark.slow)])
def test_streams_with_borders_come_and_go(examples):
    @given(steps=batches, pack=st.booleans(), fuse=st.booleans(), seed=st.integers(0, 99))
    @settings(max_examples=examples)
    def run(steps, pack, fuse, seed):
        torch.manual_seed(seed)
        pair = Steps(Readers(), 16, (40, 50), pack_whole_frames=pack, fuse=fuse)
        live = set()
        for ids, rate, gone in steps:
            pair.step(rate, tuple(ids))
            live |= set(ids)
            gone = [i for i in gone if i in live]
            bc.reset_(pair.net, gone)
            live -= set(gone)

    run()


# -- geometry -------------------------------------------------------------------------------------


class Chain(nn.Module):
    def __init__(self, layers) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.layers = nn.ModuleList(
            nn.MaxPool2d(3, 2, 1, ceil_mode=True)
            if layer == "pool"
            else nn.Conv2d(16, 16, layer[0], layer[1], layer[2], layer[3])
            for layer in layers
        )
        self.last = nn.Conv2d(16, 4, 3, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            if min(x.shape[2:]) < 24:
                break
            x = F.relu(layer(x))
        return self.last(x), x


layers = st.lists(
    st.just("pool")
    | st.tuples(
        st.sampled_from((1, 2, 3, 5)),
        st.sampled_from((1, 1, 2)),
        st.integers(0, 5),
        st.sampled_from((1, 1, 2, 3, 5)),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("examples", [40, pytest.param(1000, marks=pytest.mark.weekly)])
def test_maps_and_blocks_of_any_size(examples):
    """Unpadded convolutions make maps smaller than their grid, dilations reach over blocks."""

    @given(
        layers=layers,
        size=st.tuples(st.integers(30, 75), st.integers(30, 75)),
        block=st.sampled_from((4, 8, 16, 24, 64)),
        rates=st.lists(st.sampled_from((0.0, 0.3, 0.7, 2.0)), min_size=1, max_size=3),
        pack=st.booleans(),
        winograd=st.booleans(),
        seed=st.integers(0, 99),
    )
    @settings(max_examples=examples)
    def run(layers, size, block, rates, pack, winograd, seed):
        torch.manual_seed(seed)
        pair = Steps(Chain(layers), block, size, pack_whole_frames=pack, winograd=winograd)
        for rate in (2.0, *rates):
            pair.step(rate, ("a", "b"))

    run()


@pytest.mark.parametrize("dilation", [3, 8, 9, 20])
@pytest.mark.parametrize("winograd", [False, True])
def test_dilations_over_several_blocks(dilation, winograd):
    """A far tap reads the state of a block that was executed frames ago, as it was then."""
    net = nn.Sequential(
        nn.Conv2d(3, 16, 1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, 1, dilation, dilation),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, 1, dilation, dilation),
    )
    Steps(net, 8, (45, 53), winograd=winograd).steps(ids=("a", "b"))


@native
def test_prepared_weights_and_scratch_are_counted_and_given_back():
    steps = Steps(stack(nn.Conv2d(16, 16, 3, 1, 1)))
    kept = bc.handle(steps.net).converted.convolutions
    assert kept.bytes() == 0
    steps.step(2.0)
    weights = sum(4 * m.weight.numel() for m in steps.net.modules() if isinstance(m, nn.Conv2d))
    assert kept.bytes() > weights
    before = kept.bytes()
    steps.step(0.5)
    steps.step(0.5)
    assert bc.report(steps.net).kernel_bytes == kept.bytes() >= before
    bc.restore_(steps.net)
    assert kept.bytes() == 0


@native
def test_new_parameters_in_each_frame_do_not_pile_up():
    steps = Steps(stack(nn.Conv2d(16, 16, 3, 1, 1)))
    for _ in range(6):
        for module in (steps.net[2], steps.plain[2]):
            module.weight = nn.Parameter(steps.plain[2].weight.detach() * 0.9)
        steps.plain[2].weight = steps.net[2].weight
        steps.reference.kept.clear()
        steps.step(2.0)
    assert len(bc.handle(steps.net).converted.convolutions.cpu.prepared) <= 4


def test_a_layer_whose_options_change_between_videos():
    steps = Steps(stack(nn.Conv2d(16, 16, 3, 1, 1)))
    steps.steps()
    for net in (steps.net, steps.plain):
        net[2].padding = net[2].dilation = (2, 2)
    bc.reset_(steps.net)
    steps.reference.kept.clear()
    steps.steps()


class Regions(nn.Module):
    """A head on windows that are cut out of a map, as a detector's is on its regions."""

    def __init__(self, **changed):
        super().__init__()
        self.body = nn.Conv2d(3, 48, 3, padding=1)
        self.head = nn.Conv2d(48, 48, **(dict(kernel_size=3, padding=1) | changed))

    def forward(self, x):
        x = self.body(x).relu()
        corners = [(0, 0), (3, 5), (10, 18), (8, 0)] * 6
        return self.head(torch.cat([x[:, :, r : r + 14, c : c + 14] for r, c in corners]))


@native
@pytest.mark.parametrize(
    ("changed", "by_kernel"),
    [
        (dict(), True),
        (dict(padding=0), True),
        (dict(padding=(0, 2), bias=False), True),
        (dict(padding=2, dilation=2), True),
        # Torch's is as fast, or nobody has measured.
        (dict(stride=2), False),
        (dict(groups=2), False),
        (dict(kernel_size=1, padding=0), False),
        (dict(padding="same"), False),
        (dict(padding_mode="reflect"), False),
    ],
    ids=str,
)
def test_regions_are_convolved_by_the_kernels_too(changed, by_kernel):
    # What is cut out is to stay an ordinary tensor, as what a RoI extractor returns is.
    steps = Steps(Regions(**changed), repack=False)
    head = steps.net.head.weight
    for rate in (1.0, 0.4, 0.0, 0.7):
        steps.step(rate)
    prepared = bc.handle(steps.net).converted.convolutions.cpu.prepared
    assert ((head, True) in prepared) == by_kernel
    # Another weight is another one at once.
    with torch.no_grad():
        for net in (steps.net, steps.plain):
            net.head.weight.mul_(-2)
    steps.step(0.4)


@native
def test_a_convolution_that_cannot_run_on_blocks_is_planned_once(monkeypatch):
    from blockcopy_plugins.engine.conv import planner

    asked = []

    def counted(frame, x, *arguments):
        asked.append(plan(frame, x, *arguments))
        return asked[-1]

    plan = planner.plan_window
    monkeypatch.setattr(planner, "plan_window", counted)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 3)).eval()
    policy = dict(type="StaticPolicy", grid=[[True, False, True]] * 2)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy=policy))
    with torch.no_grad():
        for _ in range(2):  # a whole frame, and one of blocks
            net(torch.randn(1, 3, 32, 48))
        assert any(isinstance(found, Decline) for found in asked)
        before = len(asked)
        net(torch.randn(1, 3, 32, 48))
    assert len(asked) == before

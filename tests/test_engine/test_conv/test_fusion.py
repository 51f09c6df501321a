"""Convolutions that wait for what follows: the values are right, and each op runs once or not at
all."""

from __future__ import annotations

import copy
import io
import pickle
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import blockcopy_plugins as bc
from blockcopy_plugins import ops
from blockcopy_plugins.engine.conv.cpu_convolutions import CpuConvolutions
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.errors import ConfigError

native = pytest.mark.skipif(not ops.conv_kernels(), reason="no native kernels on this processor")
BLOCK = 8
SIZE = (20, 29)
GRID = (3, 4)
CHANNELS = 16


def ready(net: nn.Module) -> nn.Module:
    """In eval mode, with batch norms whose statistics are no identity."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight, 1, 0.5)
                nn.init.normal_(module.bias)
    return net.eval()


class Converted:
    """A net and the same one by the masked sentence, frame by frame."""

    def __init__(self, net, inside=torch.no_grad, by_torch=False, **options) -> None:
        self.net, self.inside, self.grids = ready(net), inside, []
        # A copy, as the net's hooks and aliases are not the oracle's.
        self.plain = copy.deepcopy(self.net)
        self.reference = MaskedReference(self.plain, BLOCK)
        config = bc.BlockCopyConfig(
            block_size=BLOCK, policy=lambda f, c: self.grids.pop(), **options
        )
        handle = bc.handle(bc.blockcopy_(self.net, config))
        if by_torch:  # as on a GPU
            convolutions = handle.converted.convolutions
            convolutions.cpu, convolutions.torch.devices = None, frozenset({"cpu"})

    def step(self, rate: float, images: int = 1, compare: bool = True):
        grid = torch.rand(images, *GRID) < rate
        frame = torch.randn(images, 3, *SIZE)
        wanted = self.reference(grid, frame.clone())
        self.grids.append(grid)
        with self.inside():
            found = self.net(frame)
        if compare:
            same(found, wanted)
        return found

    def steps(self, images: int = 1):
        for rate in (2.0, 0.5, 0.0, 0.4, 2.0, 0.3):
            self.step(rate, images)


def same(found, wanted) -> None:
    if isinstance(wanted, torch.Tensor):
        found, wanted = [found], [wanted]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


class Ops(TorchDispatchMode):
    """Counts the ops that run on ordinary tensors, by the name of the operator."""

    def __init__(self) -> None:
        super().__init__()
        self.ran = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        names = {t.__name__ for t in types}
        if "BlockTensor" in names:
            return NotImplemented
        self.ran[func._overloadpacket.__name__.rstrip("_")] += 1
        return func(*args, **(kwargs or {}))


def counted(converted: Converted, rate: float) -> Counter:
    grid = torch.rand(1, *GRID) < rate
    converted.grids.append(grid)
    frame = torch.randn(1, 3, *SIZE)
    with torch.no_grad(), Ops() as ran:
        converted.net(frame)
    converted.reference(grid, frame)
    return ran.ran


class BasicBlock(nn.Module):
    """As in ResNet."""

    def __init__(self, channels: int, inplace: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.relu(out)


class ResNet(nn.Sequential):
    def __init__(self, blocks: int = 2) -> None:
        super().__init__(
            nn.Conv2d(3, CHANNELS, 3, 1, 1, bias=False),
            nn.BatchNorm2d(CHANNELS),
            nn.ReLU(),
            *[BasicBlock(CHANNELS) for _ in range(blocks)],
        )


# -- drawn nets -----------------------------------------------------------------------------------

NORMS = {
    "none": nn.Identity,
    "affine": lambda: nn.BatchNorm2d(CHANNELS),
    "plain": lambda: nn.BatchNorm2d(CHANNELS, affine=False),
}
ADDS = {
    "none": lambda x, r: x,
    "x + r": lambda x, r: x + r,
    "r + x": lambda x, r: r + x,
    "x += r": lambda x, r: x.add_(r),
    "alpha": lambda x, r: torch.add(x, r, alpha=2),
    "itself": lambda x, r: x + x,
    "number": lambda x, r: x + 1,
    "dense": lambda x, r: x + torch.ones(1, CHANNELS, 1, 1),
}
ACTS = {
    "none": lambda x: x,
    "F.relu": F.relu,
    "F.relu_": lambda x: F.relu(x, inplace=True),
    "x.relu_": lambda x: x.relu_(),
    "relu6": F.relu6,
    "relu6_": lambda x: F.relu6(x, inplace=True),
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.25),
    "hardtanh_": lambda x: F.hardtanh_(x),
    "clamp": lambda x: x.clamp(-0.25, 0.5),
    "clamp max": lambda x: x.clamp(max=0.5),
    "clamp min=": lambda x: torch.clamp(x, min=-0.5),
    "clamp_": lambda x: x.clamp_(0, 1),
    "clamp_min": lambda x: x.clamp_min(0.125),
    "clamp, upside down": lambda x: x.clamp(1, -1),
    "twice": lambda x: F.relu(x).clamp(0.5, 2),
    "leaky": lambda x: F.leaky_relu(x, 0.1),
    "sigmoid": torch.sigmoid,
    "silu_": lambda x: F.silu(x, inplace=True),
    "hardswish": F.hardswish,
    "x * sigmoid": lambda x: x * torch.sigmoid(x),
    "sigmoid * x": lambda x: x.sigmoid().mul(x),
    "mul_ sigmoid": lambda x: x.mul_(x.sigmoid()),
    "sigmoid mul_": lambda x: x.sigmoid().mul_(x),
    "x * hardsigmoid": lambda x: x * F.hardsigmoid(x),
    "x * silu": lambda x: x * F.silu(x),
    "relu * sigmoid": lambda x: F.relu(x) * torch.sigmoid(x),
    "x * relu6(x + 3) / 6": lambda x: x * F.relu6(x + 3) / 6,
    "relu6(x + 3) / 6 * x": lambda x: (F.relu6(x + 3.0, inplace=True).div_(6.0)).mul(x),
    "x * hardtanh(x + 3) * (1 / 6)": lambda x: x * F.hardtanh(x + 3, 0.0, 6.0) * (1 / 6),
    "x * relu6(x + 3), halved": lambda x: x * F.relu6(x + 3) / 2,
    "x + 3, read twice": lambda x: (lambda y: F.relu6(y) / 6 + y * x)(x + 3),
    "x + 3, in other bounds": lambda x: F.hardtanh(x + 3, 0.0, 5.0),
    "gate of another": lambda x: x * torch.sigmoid(x + 1),
    "gate twice": lambda x: (lambda gate: x * gate + gate)(torch.sigmoid(x)),
    "hardsigmoid": F.hardsigmoid,
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "mish, then relu": lambda x: F.relu(F.mish(x)),
    "module": nn.ReLU(),
    "module_": nn.ReLU(inplace=True),
    "module 6": nn.ReLU6(),
    "module silu": nn.SiLU(),
    "module hardswish_": nn.Hardswish(inplace=True),
    "module hardtanh": nn.Hardtanh(),
}


class Stage(nn.Module):
    def __init__(self, spec) -> None:
        super().__init__()
        kernel, dilation, norm, add, act, order = spec
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv2d(
            CHANNELS, CHANNELS, kernel, 1, padding, dilation, bias=norm != "plain"
        )
        self.norm = NORMS[norm]()
        self.add, self.act, self.order = add, act, order

    def forward(self, x):
        y = self.conv(x)
        for op in self.order:
            if op == "norm":
                y = self.norm(y)
            elif op == "add":
                y = ADDS[self.add](y, x)
            else:
                y = ACTS[self.act](y)
        return y


class Drawn(nn.Module):
    def __init__(self, specs) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, 1, 1)
        self.stages = nn.ModuleList(Stage(spec) for spec in specs)
        self.last = nn.Conv2d(CHANNELS, 4, 3, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.last(x), x


stages = st.tuples(
    st.sampled_from((1, 3, 3, 5)),
    st.sampled_from((1, 1, 2, 5)),
    st.sampled_from(tuple(NORMS)),
    st.sampled_from(tuple(ADDS)),
    st.sampled_from(tuple(ACTS)),
    st.permutations(("norm", "add", "act")) | st.just(("norm", "add", "act")),
)
drawn = dict(
    specs=st.lists(stages, min_size=1, max_size=3),
    fuse=st.sampled_from((True, True, True, False)),
    winograd=st.booleans(),
    by_torch=st.booleans(),
    pack=st.booleans(),
    images=st.integers(1, 2),
    inside=st.sampled_from((torch.no_grad, torch.inference_mode, torch.enable_grad)),
    rates=st.lists(st.sampled_from((0.0, 0.3, 0.6, 2.0)), min_size=1, max_size=3),
    seed=st.integers(0, 999),
)


@pytest.mark.parametrize("examples", [60, pytest.param(1500, marks=pytest.mark.weekly)])
def test_drawn_nets_follow_the_masked_sentence(examples):
    @given(**drawn)
    @settings(max_examples=examples)
    def run(specs, fuse, winograd, by_torch, pack, images, inside, rates, seed):
        torch.manual_seed(seed)
        net = Drawn(specs)
        converted = Converted(
            net, inside, by_torch, fuse=fuse, winograd=winograd, pack_whole_frames=pack
        )
        for rate in (2.0, *rates):
            converted.step(rate, images)

    run()


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("add", ("none", "x + r", "r + x", "x += r"))
@pytest.mark.parametrize("by_torch", [False, True])
def test_each_activation_behind_each_addition(act, add, by_torch):
    net = Drawn([(3, 1, "affine", add, act, ("norm", "add", "act"))])
    net.stages[0].conv.weight.data.mul_(10)  # beyond all bounds
    converted = Converted(net, by_torch=by_torch)
    for rate in (2.0, 0.5):
        converted.step(rate)


# -- what runs ------------------------------------------------------------------------------------

ALONE = (
    "native_batch_norm",
    "batch_norm",
    "_native_batch_norm_legit_no_training",
    "add",
    "relu",
    "clamp",
    "clamp_min",
    "hardtanh",
)


@native
@pytest.mark.parametrize("rate", [2.0, 0.5, 0.0])
def test_a_resnet_is_its_convolutions_and_nothing_else(rate):
    converted = Converted(ResNet())
    for warm in (2.0, 0.5):  # index tables are made once
        converted.step(warm)
    ran = counted(converted, rate)
    # Where nothing is executed the last map is not even asked for.
    assert ran["conv_blocks"] == (5 if rate else 4)
    assert [name for name in ALONE if ran[name]] == []
    assert not ran["convolution"] and ran["gather"] <= 1  # the frame itself is packed


@pytest.mark.parametrize("rate", [2.0, 0.5, 0.0])
def test_behind_torch_s_convolutions_there_is_one_pass(rate):
    converted = Converted(ResNet(), by_torch=True)
    for warm in (2.0, 0.5):
        converted.step(warm)
    ran = counted(converted, rate)
    # Where nothing is executed only what is added to is asked for.
    assert ran["finish_conv"] == (5 if rate else 2)
    assert [name for name in ALONE if ran[name]] == []


@native
@pytest.mark.parametrize("rate", [2.0, 0.5])
def test_without_fusion_all_of_it_runs(rate):
    converted = Converted(ResNet(), fuse=False)
    for warm in (2.0, 0.5):
        converted.step(warm)
    ran = counted(converted, rate)
    assert ran["conv_blocks"] == 5
    assert ran["add"] == 2 and ran["relu"] == 5
    assert sum(count for name, count in ran.items() if "batch_norm" in name) == 5


@native
@pytest.mark.parametrize("rate", [2.0, 0.5])
@pytest.mark.parametrize(
    "act",
    [
        "x * sigmoid",
        "sigmoid * x",
        "mul_ sigmoid",
        "x * hardsigmoid",
        "module silu",
        "x * relu6(x + 3) / 6",
        "relu6(x + 3) / 6 * x",
        "x * hardtanh(x + 3) * (1 / 6)",
    ],
)
def test_activations_that_are_spelled_out_are_part_of_the_convolution(act, rate):
    converted = Converted(Drawn([(3, 1, "affine", "none", act, ("norm", "add", "act"))]))
    for warm in (2.0, 0.5):
        converted.step(warm)
    ran = counted(converted, rate)
    assert ran["conv_blocks"] == 3
    alone = ("join_maps", "mul", "mul_", "sigmoid", "add", "div", "div_", "hardtanh", "hardtanh_")
    assert [name for name in alone if ran[name]] == []


class RawAndActivated(nn.Module):
    """The sums are read as they are and with something done to them."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, CHANNELS, 3, 1, 1)
        self.b = nn.Conv2d(CHANNELS, CHANNELS, 3, 1, 1)

    def forward(self, x):
        raw = self.a(x)
        active = F.relu(raw)
        return raw, active, self.b(active), raw - active


@pytest.mark.parametrize("by_torch", [pytest.param(False, marks=native), True])
def test_sums_read_twice_are_computed_once_from_the_next_frame_on(by_torch):
    converted = Converted(RawAndActivated(), by_torch=by_torch)
    name = "finish_conv" if by_torch else "conv_blocks"
    assert counted(converted, 2.0)[name] == 3
    for rate in (0.5, 0.3, 2.0):
        assert counted(converted, rate)[name] == 2
    converted.steps()


@pytest.mark.parametrize("by_torch", [pytest.param(False, marks=native), True])
def test_what_runs_a_second_time_is_counted_where_it_runs(by_torch):
    converted = Converted(RawAndActivated(), by_torch=by_torch)
    converted.step(2.0)
    counts = bc.handle(converted.net).last.counts
    assert counts.outside == {}
    assert counts.blocks > counts.blocks_dense
    report = bc.report(converted.net)
    assert report.macs_outside == 0 and report.share_on_blocks == 1


# -- aliases --------------------------------------------------------------------------------------


class Trap(nn.Module):
    def __init__(self, body) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, CHANNELS, 3, 1, 1)
        self.b = nn.Conv2d(CHANNELS, CHANNELS, 3, 1, 1)
        self.c = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.bn = nn.BatchNorm2d(CHANNELS)
        self.body = body

    def forward(self, x):
        return self.body(self, x)


def residual_changed(net, x):
    r = net.a(x).tanh()
    y = net.b(r)
    z = y + r
    r.mul_(10)
    return z, r, net.c(z)


def residual_waits_and_changes(net, x):
    r = net.a(x)
    y = net.b(F.relu(r))
    z = y + r
    r.relu_()
    r += 1
    return z, r


def input_changed(net, x):
    x = net.a(x).sigmoid()
    y = net.b(x)
    x.zero_()
    return y, x, net.c(y)


def input_changed_by_a_view(net, x):
    x = net.a(x).sigmoid()
    y = net.c(x)
    x[:, :3].mul_(5)
    x.detach().add_(1)
    return y, x


def input_changed_by_a_lent_view(net, x):
    x = net.a(x).sigmoid()
    y, z = net.b(x), net.c(x)
    view = x.view(-1)
    view.mul_(-1)
    return y, z, x


def views_of_a_waiting_map(net, x):
    y = net.a(x)
    one, two = y.chunk(2, 1)
    return (
        one,
        two.clone(),
        y[:, 3:5],
        torch.cat((two, one), 1),
        y.flatten(2),
        y.permute(0, 2, 3, 1),
    )


def view_written(net, x):
    y = net.a(x)
    y[:, :4].zero_()
    return y, net.c(y)


def waiting_and_twin(net, x):
    y = net.a(x)
    return y, F.relu(y), y, net.bn(y), F.relu(net.bn(y))


def in_place_on_what_others_hold(net, x):
    y = net.a(x)
    held = [y, y.detach()]
    z = y + 0 * y
    y.relu_()
    return *held, y, z


def in_place_after_a_twin(net, x):
    y = net.a(x)
    z = net.bn(y)
    w = y + z
    y.relu_()
    z.relu_()
    w.relu_()
    return y, z, w


def in_place_twice(net, x):
    y = net.a(x)
    y.relu_()
    z = net.c(y)
    y.add_(z)
    y.clamp_(0, 0.5)
    return y, z, net.b(y)


def two_waiting_added(net, x):
    y, z = net.a(x), net.a(x + 1)
    w = y + z
    y += z
    return w, y, z, F.relu(w)


def added_to_itself(net, x):
    y = net.a(x)
    z = y + y
    y += y
    return y, z


def residual_of_a_residual(net, x):
    y = net.a(x)
    z = net.c(F.relu(y)) + y
    z = z + y
    return F.relu(z), z


def copied_into(net, x):
    y = net.a(x)
    z = net.c(y)
    y.copy_(z)
    return y, z


def copied_into_the_waiting_one(net, x):
    y = net.a(x).tanh()
    z = net.c(y)
    z.copy_(y)
    y.zero_()
    return y, z


def deep_copies(net, x):
    y = net.a(x)
    z = copy.deepcopy(y)
    y.relu_()
    return y, z, y.data, net.c(z).clone()


def unused(net, x):
    net.b(net.a(x))
    return net.c(net.a(x)).relu()


def read_in_full(net, x):
    y = net.b(F.relu(net.a(x)))
    return y.mean((2, 3)), net.c(y) * y.amax((2, 3), keepdim=True)


def shared_in_and_out_of_place(net, x):
    y = net.bn(net.a(x))
    z = F.relu(y)
    y.clamp_(-0.1, 0.1)
    return y, z, net.b(y), net.b(z)


TRAPS = {
    f.__name__: f
    for f in (
        residual_changed,
        residual_waits_and_changes,
        input_changed,
        input_changed_by_a_view,
        input_changed_by_a_lent_view,
        views_of_a_waiting_map,
        view_written,
        waiting_and_twin,
        in_place_on_what_others_hold,
        in_place_after_a_twin,
        in_place_twice,
        two_waiting_added,
        added_to_itself,
        residual_of_a_residual,
        copied_into,
        copied_into_the_waiting_one,
        deep_copies,
        unused,
        read_in_full,
        shared_in_and_out_of_place,
    )
}


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("fuse", [False, True])
def test_aliases(trap, pack, fuse, monkeypatch):
    """By the dense net where all blocks run, and by the same net without kernels of our own."""
    net = Trap(TRAPS[trap])
    converted = Converted(net, fuse=fuse, pack_whole_frames=pack)
    other = copy.deepcopy(converted.plain)
    grids = []
    options = dict(block_size=BLOCK, policy=lambda f, c: grids.pop(), pack_whole_frames=pack)
    monkeypatch.setattr(CpuConvolutions, "make", lambda *args: None)
    bc.blockcopy_(other, bc.BlockCopyConfig(**options))
    assert bc.handle(other).converted.convolutions.cpu is None
    for rate in (2.0, 0.5, 0.3, 2.0, 0.4):
        grid = torch.rand(2, *GRID) < rate
        frame = torch.randn(2, 3, *SIZE)
        converted.grids.append(grid.clone())
        grids.append(grid.clone())
        found, without = net(frame.clone()), other(frame.clone())
        same(found, without)
        if rate > 1:
            with torch.no_grad():
                same(found, converted.plain(frame.clone()))


# -- exceptions -----------------------------------------------------------------------------------


class Fails(Exception):
    pass


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("rate", [2.0, 0.4])
def test_an_exception_with_maps_that_wait(fuse, rate):
    """The stream's next frame is executed fully, whatever the policy says."""

    def body(net, x):
        y = net.b(F.relu(net.a(x)))
        z = net.c(y)
        if net.fails:
            raise Fails
        return F.relu(z) + y

    net = Trap(body)
    net.fails = False
    converted = Converted(net, fuse=fuse)
    converted.step(2.0)
    converted.step(0.5)
    net.fails = True
    converted.grids.append(torch.rand(1, *GRID) < rate)
    with pytest.raises(Fails):
        net(torch.randn(1, 3, *SIZE))
    net.fails = False
    converted.grids.append(torch.zeros(1, *GRID, dtype=torch.bool))
    frame = torch.randn(1, 3, *SIZE)
    found = net(frame)
    assert bc.handle(net).last.grid.all()
    same(found, converted.reference(torch.ones(1, *GRID, dtype=torch.bool), frame))
    converted.step(0.4)
    assert not bc.handle(net).last.grid.all()


# -- hooks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["0", "1", "2", "3.conv1", "3.bn1", "3.relu", "3.conv2"])
@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_forward_hooks_see_right_values_and_may_replace_them(name, replace, before):
    net = ResNet(1)
    seen = {}

    def hook(module, args, output):
        values = output.mean((2, 3))
        seen.setdefault(id(module), []).append(values)
        return output * 2 + 1 if replace else None

    if before:
        net.get_submodule(name).register_forward_hook(hook)
    converted = Converted(net)
    if not before:
        for model in (net, converted.plain):
            model.get_submodule(name).register_forward_hook(hook)
    for rate in (2.0, 0.5, 2.0):
        converted.step(rate)
    mine = seen[id(net.get_submodule(name))]
    others = seen[id(converted.plain.get_submodule(name))]
    assert len(mine) == len(others) == (6 if name == "3.relu" else 3)
    same(mine, others)


def test_pre_hooks_are_called():
    net = ResNet(1)
    hook = lambda module, args: (args[0] * 2,)  # noqa: E731
    for name in ("0", "1", "2"):
        net.get_submodule(name).register_forward_pre_hook(hook)
    Converted(net).steps()


# -- weights --------------------------------------------------------------------------------------


def new_values(net):
    return {
        k: torch.rand_like(v) + 0.1 if v.is_floating_point() else v
        for k, v in net.state_dict().items()
    }


def load(net):
    net.load_state_dict(new_values(net))


def assign(net):
    net.load_state_dict({k: v.clone() for k, v in new_values(net).items()}, assign=True)


@torch.no_grad()
def in_place(net):
    for value in [*net.parameters(), *net.buffers()]:
        if value.is_floating_point():
            value.mul_(0.5).add_(0.1)


@torch.no_grad()
def one_value(net):
    """Too few for a sample of the values to show."""
    for value in net.parameters():
        if value.dim() == 4:
            value[3, 1, 1, 0] += 3


def one_value_in_other_memory(net):
    for value in net.parameters():
        if value.dim() == 4:
            other = value.data.clone()
            other[3, 1, 1, 0] += 3
            value.data = other


def data_copy(net):
    for value in [*net.parameters(), *net.buffers()]:
        if value.is_floating_point():
            value.data.copy_(torch.rand_like(value))


def data_other(net):
    for value in [*net.parameters(), *net.buffers()]:
        if value.is_floating_point():
            value.data = torch.rand_like(value)


def new_parameters(net):
    for module in net.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.rand_like(value)))


def optimizer(net):
    for value in net.parameters():
        value.grad = torch.randn_like(value)
    torch.optim.SGD(net.parameters(), 0.1).step()


@pytest.mark.parametrize(
    "change",
    [
        load,
        assign,
        in_place,
        one_value,
        one_value_in_other_memory,
        data_copy,
        data_other,
        new_parameters,
        optimizer,
    ],
)
@pytest.mark.parametrize("inside", [torch.no_grad, torch.inference_mode])
def test_weights_and_statistics_that_change_between_frames(change, inside):
    converted = Converted(ResNet(1), inside)
    net = converted.net
    converted.step(2.0)
    for _ in range(2):
        before = copy.deepcopy(net.state_dict())
        change(net)
        assert any(not torch.equal(v, before[k]) for k, v in net.state_dict().items())
        frame = torch.randn(1, 3, *SIZE)
        converted.grids.append(torch.ones(1, *GRID, dtype=torch.bool))
        with inside():
            found = net(frame)
        with bc.dense(net), torch.no_grad():
            wanted = net(frame)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


# -- conversion -----------------------------------------------------------------------------------


def test_restore_leaves_every_module_as_it_was():
    net = ready(ResNet())
    net[3].relu.forward = net[3].relu.forward  # a forward of the instance's own stays
    before = [dict(module.__dict__) for module in net.modules()]
    converted = bc.blockcopy_(net, bc.BlockCopyConfig(block_size=BLOCK, policy="all"))
    converted(torch.randn(1, 3, *SIZE))
    bc.restore_(net)
    for module, values in zip(net.modules(), before, strict=True):
        assert module.__dict__.keys() == values.keys()
        for key, value in values.items():
            assert (
                module.__dict__[key] == value if key == "forward" else module.__dict__[key] is value
            )
        assert not module._forward_hooks and not module._forward_pre_hooks


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies_of_a_converted_model_stand_alone(how):
    net = ready(ResNet(1))
    bc.blockcopy_(
        net, bc.BlockCopyConfig(block_size=BLOCK, policy=dict(type="EveryNthFramePolicy", n=9))
    )
    net(torch.randn(1, 3, *SIZE))
    if how == "deepcopy":
        other = copy.deepcopy(net)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(net))
    else:
        file = io.BytesIO()
        torch.save(net, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    with torch.no_grad():
        for value in other.parameters():
            value.mul_(-1).add_(0.1)
    for model in (net, other, net):
        bc.reset_(model)
        frame = torch.randn(1, 3, *SIZE)
        found = model(frame)
        with bc.dense(model), torch.no_grad():
            torch.testing.assert_close(found, model(frame), rtol=1e-4, atol=1e-4)
    plain = copy.deepcopy(bc.restore_(other))
    assert all("forward" not in module.__dict__ for module in plain.modules())


def test_parts_of_a_converted_model_are_not_converted_again():
    net = ready(ResNet(1))
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=BLOCK, policy="all"))
    for part in (net, net[3], net[0], net[1], net[2], net[3].conv1, nn.Sequential(net[0])):
        with pytest.raises(ConfigError, match="converted already"):
            bc.blockcopy_(part, bc.BlockCopyConfig(block_size=BLOCK))
    bc.restore_(net)
    bc.restore_(bc.blockcopy_(net[3], bc.BlockCopyConfig(block_size=BLOCK)))


def test_two_models_that_share_weights():
    one, two = ResNet(1), ResNet(1)
    two[0].weight, two[3].conv1.weight = one[0].weight, one[3].conv1.weight
    two[3].conv2.weight = one[3].conv1.weight  # and within one model
    ready(two)
    first, second = Converted(one), Converted(two)
    for rate in (2.0, 0.5, 0.3):
        first.step(rate)
        second.step(rate)
    for converted in (first, second):
        converted.plain.load_state_dict({k: v * 0.5 for k, v in converted.net.state_dict().items()})
    two.load_state_dict(second.plain.state_dict())
    one.load_state_dict(first.plain.state_dict())
    with torch.no_grad():
        second.plain.load_state_dict(two.state_dict())
    for converted in (first, second):
        converted.step(2.0)


def test_one_module_used_twice_in_a_model():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, CHANNELS, 3, 1, 1)
            self.b = nn.Conv2d(CHANNELS, CHANNELS, 3, 1, 1)
            self.again = self.b
            self.bn = nn.BatchNorm2d(CHANNELS)

        def forward(self, x):
            x = F.relu(self.bn(self.a(x)))
            return F.relu(self.bn(self.b(x)) + self.again(x)), self.b(F.max_pool2d(x, 2))

    Converted(Twice()).steps(2)

"""What the program around a converted model has switched on for all of torch."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import blockcopy_plugins as bc
from blockcopy_plugins.engine.tensor.block_tensor import BlockTensor
from blockcopy_plugins.engine.tensor.dense_map import DenseMap
from blockcopy_plugins.engine.tensor.dense_on_use import PaddedMap, PoolIndices
from blockcopy_plugins.errors import ConfigError, StateError

POLICIES = {
    "all": "all",
    "none": "none",
    "every third": dict(type="EveryNthFramePolicy", n=3),
    "difference": dict(type="FrameDifferencePolicy", target=0.3),
    "gain": dict(type="GainPolicy", target=0.3),
    "reinforced": dict(type="RLPolicy", target=0.3, seed=0),
    "random": dict(type="RandomPolicy", rate=0.4, seed=1),
}


class Net(nn.Module):
    """Makes a tensor of its own in its forward, in whatever dtype the program has set."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.b = nn.Conv2d(8, 4, 3, stride=2, padding=1)
        self.made = None

    def forward(self, x):
        self.made = torch.zeros(1).dtype
        x = nn.functional.interpolate(self.a(x), scale_factor=2, mode="bilinear")
        return self.b(nn.functional.avg_pool2d(x, 2))


def video(frames=6):
    generator = torch.Generator().manual_seed(1)
    still = torch.rand(1, 3, 64, 96, generator=generator)
    out = []
    for t in range(frames):
        frame = still.clone()
        frame[..., 10:40, 7 * t : 7 * t + 20] = 1
        out.append(frame)
    return out


def run(policy, around=None, how=lambda model: model):
    model = Net().eval().to("cpu", torch.float32)
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=32, policy=policy))
    called = how(model)
    with torch.no_grad():
        return [called(frame).clone() for frame in video()], model


@pytest.fixture(params=list(POLICIES))
def policy(request):
    return POLICIES[request.param]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("when", ["before", "after"])
def test_another_default_dtype(policy, dtype, when):
    expected, _ = run(policy)
    model, frames = Net().eval(), video()
    try:
        if when == "before":
            torch.set_default_dtype(dtype)
        bc.blockcopy_(model, bc.BlockCopyConfig(block_size=32, policy=policy))
        torch.set_default_dtype(dtype)
        with torch.no_grad():
            found = [model(frame) for frame in frames]
        assert model.made == dtype  # what the model makes is the program's
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_another_default_device(policy):
    expected, _ = run(policy)
    model, frames = Net().eval(), video()
    try:
        torch.set_default_device("meta")
        bc.blockcopy_(model, bc.BlockCopyConfig(block_size=32, policy=policy))
        with torch.no_grad():
            found = [model(frame) for frame in frames]
        assert torch.get_default_device().type == "meta"
    finally:
        # Another name instead would leave a mode behind.
        torch.set_default_device(None)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_what_fails_leaves_the_programs_defaults():
    model = Net().eval()
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=32, policy="all"))
    try:
        torch.set_default_dtype(torch.float64)
        with pytest.raises(Exception, match="float32|frame"):
            model(torch.full((1, 3, 64, 96), float("nan"), dtype=torch.float32))
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


# ------------------------------------------------------------------ counting


def plain_net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    layers += [nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 8, 1)]
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("executed", [0, 3, 8, 16])
def test_torchs_counter_counts_what_runs(executed):
    frame = torch.rand(1, 3, 128, 128)
    with torch.no_grad(), FlopCounterMode(display=False) as whole:
        plain_net()(frame)
    grid = (torch.arange(16) < executed).view(1, 4, 4)
    model = plain_net()
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=32, policy=lambda frame, state: grid))
    with torch.no_grad():
        model(frame)
        with FlopCounterMode(display=False) as counter:
            model(frame)
    assert counter.get_total_flops() == whole.get_total_flops() * executed // 16
    # And the dense run of a converted model is the dense one.
    with torch.no_grad(), bc.dense(model), FlopCounterMode(display=False) as counter:
        model(frame)
    assert counter.get_total_flops() == whole.get_total_flops()


def test_what_traces_the_model_is_told_what_to_do():
    model = plain_net()
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=32, policy="all"))
    frame = torch.rand(1, 3, 64, 64)
    with (
        torch.no_grad(),
        pytest.raises(ConfigError, match=r"bc\.dense\(model\).*restore_\(model\)"),
    ):
        torch.jit.trace(model, frame)
    expected = plain_net()(frame)
    with torch.no_grad(), bc.dense(model):  # the remedy works
        traced = torch.jit.trace(model, frame)
        assert torch.allclose(traced(frame), expected, atol=1e-6)


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="torch before 2.7")
def test_what_exports_the_model_is_told_what_to_do():
    model = plain_net()
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=32, policy="all"))
    frame = torch.rand(1, 3, 64, 64)
    expected = plain_net()(frame)
    with pytest.raises(ConfigError, match=r"torch\.export.*bc\.dense\(model\).*restore_\(model\)"):
        torch.export.export(model, (frame,), strict=False)
    with torch.no_grad(), bc.dense(model):  # the remedy works
        exported = torch.export.export(model, (frame,), strict=False).module()
    assert torch.allclose(exported(frame), expected, atol=1e-6)
    assert torch.allclose(model(frame), expected, atol=1e-5)  # and nothing of it stays


# ------------------------------------------------------------------ torch.compile

ORDERS = {
    "compiled, then converted": (lambda m: torch.compile(m), lambda m: m),
    "compiled in place, then converted": (lambda m: (m.compile(), m)[1], lambda m: m),
    "a part compiled in place": (lambda m: (m.a.compile(), m)[1], lambda m: m),
    "a part compiled": (lambda m: (setattr(m, "a", torch.compile(m.a)), m)[1], lambda m: m),
    "its forward compiled": (
        lambda m: (setattr(m, "forward", torch.compile(m.forward)), m)[1],
        lambda m: m,
    ),
    "converted, then compiled": (lambda m: m, torch.compile),
    "converted, then compiled in place": (lambda m: m, lambda m: (m.compile(), m)[1]),
    "converted, then a part compiled": (lambda m: m, lambda m: (m.a.compile(), m)[1]),
}


@pytest.mark.parametrize("order", list(ORDERS))
def test_torch_compile_changes_nothing_and_says_so(order):
    policy = POLICIES["every third"]
    expected, _ = run(policy)
    before, after = ORDERS[order]
    torch._dynamo.reset()
    model = before(Net().eval())
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=32, policy=policy))
    model = after(model)
    with torch.no_grad(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        found = [model(frame) for frame in video()]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    ours = [w for w in said if "torch.compile is not applied" in str(w.message)]
    assert len(ours) == 1 and "Remove torch.compile" in str(ours[0].message)
    assert not [w for w in said if "Dynamo detected" in str(w.message)]
    torch._dynamo.reset()


# ------------------------------------------------------------------ names of the network's own


class Crowded(Net):
    """Has attributes with the names of nn.Module's methods, as published networks do."""

    def __init__(self):
        super().__init__()
        self.modules = [self.a, self.b]
        self.named_parameters_of = ()


def test_a_network_with_an_attribute_modules():
    expected, _ = run(POLICIES["every third"])
    model = Crowded().eval()
    keys = list(model.state_dict())
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=32, policy=POLICIES["every third"]))
    with torch.no_grad():
        for frame, other in zip(video(), expected, strict=True):
            assert torch.equal(model(frame), other)
    assert bc.report(model).frames == 6 and list(model.state_dict()) == keys
    copied = copy.deepcopy(model)
    bc.restore_(model)
    with torch.no_grad():
        assert torch.equal(model(video()[0]), Net().eval()(video()[0]))
        copied(video()[0])
    with pytest.raises(ConfigError, match="not converted"):
        bc.report(model)


@pytest.mark.parametrize("ids", ["cam0", b"cam0", "", 3])
def test_what_is_no_list_of_streams(ids):
    model = plain_net()
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=32, policy="all"))
    with pytest.raises(StateError, match=r"expected a list.*\["), bc.streams(model, ids):
        pass
    with pytest.raises(StateError, match="expected a list"):
        bc.reset_(model, ids)
    frame = torch.rand(1, 3, 64, 64)
    with torch.no_grad(), bc.streams(model, ["cam0"]):
        model(frame)
    bc.reset_(model, ["cam0"])


def test_a_map_has_whatever_a_tensor_has():
    """A name of ours that torch has too would be taken for torch's: ``x.tile(1, 1, 2, 1)``."""
    kinds = (BlockTensor, PaddedMap, PoolIndices, DenseMap)
    own = {name for kind in kinds for name in (*vars(kind), *vars(kind).get("__annotations__", {}))}
    shared = {name for name in own if hasattr(torch.Tensor, name) and not name.startswith("__")}
    assert shared == {"data", "numpy", "tolist"}  # which do what torch's do


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_names_of_torch_are_torchs(mode):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x):
            x = self.conv(x)
            zeros = torch.zeros(x.shape, dtype=x.dtype, layout=x.layout, device=x.device)
            return (x + zeros).tile(1, 1, 2, 1)

    net, frame = Net().eval(), torch.randn(1, 3, 32, 48)
    with mode():
        wanted = net(frame)
        bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy="all", pack_whole_frames=True))
        torch.testing.assert_close(net(frame), wanted, rtol=1e-4, atol=1e-5)

"""Conversion and restoration leave the model as it was; copies live their own lives."""

from __future__ import annotations

import copy
import ctypes
import io
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.adapter import ModelAdapter
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.errors import ConfigError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 1, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Conv2d(6, 6, 3, 1, 1)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x, times: int = 1, *, offset=0.0):
        x = self.body(x) * self.scale
        for _ in range(times):  # A shared head: the same module several times in a frame.
            x = self.head(x) + offset
        return x


def everything(module):
    """All that makes a module: hooks, attributes, parameters."""
    return {
        name: {key: id(value) for key, value in part.__dict__.items()}
        for name, part in module.named_modules()
    }, {
        name: [len(v) for k, v in sorted(part.__dict__.items()) if k.endswith("_hooks")]
        for name, part in module.named_modules()
    }


@pytest.mark.parametrize("policy", ["all", dict(type="RLPolicy", target=0.3)])
def test_restore_gives_back_the_very_model(policy):
    net = Net().eval()
    frame = torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        wanted = net(frame)
    attributes, values = everything(net), copy.deepcopy(net.state_dict())
    places = {k: v.data_ptr() for k, v in net.state_dict().items()}

    assert bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy=policy)) is net
    assert list(net.state_dict()) == list(values)
    assert [n for n, _ in net.named_parameters()] == [n for n, _ in Net().named_parameters()]
    for _ in range(9):
        net(torch.randn(1, 3, 40, 50))
    assert {k: v.data_ptr() for k, v in net.state_dict().items()} == places
    assert bc.restore_(net) is net

    assert everything(net) == attributes
    for key, value in net.state_dict().items():
        assert torch.equal(value, values[key])
    with torch.no_grad():
        assert torch.equal(net(frame), wanted)


def test_a_restored_model_can_be_trained():
    net = Net()
    bc.blockcopy_(net.eval(), bc.BlockCopyConfig(block_size=16, policy="all"))
    net(torch.randn(1, 3, 40, 50))
    bc.restore_(net.train())
    net(torch.randn(2, 3, 40, 50)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_checkpoints_go_both_ways():
    plain, converted = Net().eval(), Net().eval()
    bc.blockcopy_(converted, bc.BlockCopyConfig(block_size=16, policy="all"))
    file = io.BytesIO()
    torch.save(plain.state_dict(), file)
    file.seek(0)
    found = converted.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert not found.missing_keys and not found.unexpected_keys
    frame = torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        torch.testing.assert_close(converted(frame), plain(frame), rtol=1e-4, atol=1e-5)
    Net().load_state_dict(converted.state_dict(), strict=True)


def test_own_forward_of_the_instance_survives():
    net = Net().eval()
    inner = net.forward
    net.forward = lambda x: inner(x) * 3
    own, frame = net.forward, torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        wanted = net(frame)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy="all"))
    torch.testing.assert_close(net(frame), wanted, rtol=1e-4, atol=1e-4)
    bc.restore_(net)
    assert net.forward is own


def test_arguments_pass_through():
    net, frame = Net().eval(), torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        wanted = net(frame, 3, offset=0.5)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy="all"))
    for found in (net(frame, 3, offset=0.5), net(x=frame, times=3, offset=0.5)):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_modules_that_are_called_several_times_in_a_frame():
    net = Net().eval()
    reference = MaskedReference(net, 16)
    grids = [torch.rand(1, 3, 4) < rate for rate in (2, 0.5, 0.0, 0.5)]
    frames = [torch.randn(1, 3, 40, 50) for _ in grids]
    wanted = [reference(g, f, 4) for g, f in zip(grids, frames, strict=True)]
    left = list(grids)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy=lambda f, c: left.pop(0)))
    for frame, want in zip(frames, wanted, strict=True):
        torch.testing.assert_close(net(frame, 4), want, rtol=1e-4, atol=1e-4)
    keys = {key for s in bc.handle(net).states._stores.values() for key in s.entries}
    assert {key.call for key in keys if key.path == "head"} == {0, 1, 2, 3}


def _is_touched(module: nn.Module) -> bool:
    return bool(module._forward_hooks) or "forward" in module.__dict__


POLICIES = ["all", "none", "random", "frame_difference", "every_nth_frame", "rl"]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_deep_copy_has_a_state_of_its_own(policy):
    net = Net().eval()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy=policy))
    first, second = torch.randn(2, 1, 3, 40, 50).unbind(0)
    net(first)
    twin = copy.deepcopy(net)
    assert bc.handle(twin).model is twin and bc.handle(twin) is not bc.handle(net)
    assert bc.handle(twin).policy is not bc.handle(net).policy
    kept = [
        e.map.clone() for s in bc.handle(net).states._stores.values() for e in s.entries.values()
    ]
    bc.reset_(twin)
    twin(second)
    now = [e.map for s in bc.handle(net).states._stores.values() for e in s.entries.values()]
    assert all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))
    assert bc.handle(net).states.ids() == [0]
    bc.restore_(twin)
    assert _is_touched(net.head) and not _is_touched(twin.head)
    with torch.no_grad(), bc.dense(net):
        assert torch.equal(twin(second), net(second))


def test_dense_leaves_state_and_policy_alone():
    asked = []
    net = Net().eval()

    def policy(frame, context):
        asked.append(context)
        return torch.zeros(context.grid_shape, dtype=torch.bool)

    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy=policy))
    kept = net(torch.randn(1, 3, 40, 50))
    frame = torch.randn(1, 3, 33, 20)  # Of another size: nothing is checked either.
    with bc.dense(net), bc.dense(net):
        found = net(frame)
        assert found.requires_grad
    bc.restore_(copy.deepcopy(net))
    with torch.no_grad():
        assert torch.equal(found, Net.forward(net, frame))
    assert torch.equal(net(torch.randn(1, 3, 40, 50)), kept)
    assert len(asked) == 2 and bc.report(net).frames == 2


def test_the_loop_of_the_readme_needs_no_no_grad():
    net = Net().eval()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy=dict(type="RLPolicy", target=0.3)))
    frame = torch.randn(1, 3, 40, 50, requires_grad=True)
    for _ in range(6):
        assert not net(frame).requires_grad
    assert all(p.grad is None for p in net.parameters())


def test_learning_goes_on_in_any_grad_mode():
    net = Net().eval()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy=dict(type="RLPolicy", target=0.3)))
    policy = bc.handle(net).policy
    before = policy.state_dict()["net"]
    modes = itertools.cycle((torch.no_grad, torch.inference_mode, torch.enable_grad))
    for _, mode in zip(range(15), modes, strict=False):
        with mode():
            net(torch.randn(2, 3, 40, 50))
    after = policy.state_dict()["net"]
    assert any(not torch.equal(before[key], after[key]) for key in before)


class Outputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, 1, 1)

    def forward(self, x):
        x = self.conv(x)
        return {"map": x, "list": [x[:, :1], (F.relu(x), None)], "number": 3, "size": x.shape}


def test_nested_outputs_leave_dense():
    net = Outputs().eval()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy="all"))
    out = net(torch.randn(1, 3, 40, 50))
    for x in (out["map"], out["list"][0], out["list"][1][0]):
        assert type(x) is torch.Tensor
    assert out["number"] == 3 and out["size"] == (1, 2, 40, 50) and out["list"][1][1] is None


class Foreign(nn.Module):
    """Reads memory by itself, as a compiled extension does."""

    def forward(self, x):
        return (
            torch.from_numpy(
                np.ctypeslib.as_array((ctypes.c_float * x.numel()).from_address(x.data_ptr()))
                .reshape(x.shape)
                .copy()
            )
            * 2
        )


class ForeignAdapter(ModelAdapter):
    def dense_inputs(self, model):
        return (module for module in model.modules() if isinstance(module, Foreign))


def test_an_adapter_names_modules_that_need_whole_maps():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), Foreign(), nn.Conv2d(4, 4, 3, 1, 1)).eval()
    reference, grids = MaskedReference(copy.deepcopy(net), 8, ForeignAdapter()), []
    config = bc.BlockCopyConfig(block_size=8, policy=lambda f, c: grids[-1])
    bc.blockcopy_(net, config, ForeignAdapter())
    for rate in (2.0, 0.5, 0.3):
        grids.append(torch.rand(2, 3, 4) < rate)
        frame = torch.randn(2, 3, 20, 25)
        wanted = reference(grids[-1], frame)
        torch.testing.assert_close(net(frame), wanted, rtol=1e-4, atol=1e-5)
    (op,) = bc.report(net).dense_ops
    assert (op.path, op.op, op.count) == ("1", "Foreign", 3)
    assert bc.report(net).share_on_blocks == 1


def test_a_forward_that_was_wrapped_since_is_left_alone():
    net, frame = Net().eval(), torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        wanted = net(frame)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy="all"))
    inner, calls = net.forward, []

    def logged(*args, **kwargs):
        calls.append(len(args))
        return inner(*args, **kwargs)

    net.forward = logged
    with torch.no_grad():
        net(frame)
        bc.restore_(net)
        assert torch.equal(net(frame), wanted)
    assert net.forward is logged and calls == [1, 1]
    with pytest.raises(ConfigError, match="not converted"):
        bc.report(net)


def test_a_conversion_that_fails_leaves_the_model_as_it_was():
    class Failing(ModelAdapter):
        def attach(self, model):
            yield model[0].register_forward_hook(lambda *_: None)
            raise RuntimeError("no such layer")

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2)).eval()
    before = everything(net)
    with pytest.raises(RuntimeError, match="no such layer"):
        bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16), Failing())
    assert everything(net) == before
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16))

"""Looks at modules' attributes, natively and in Python: both tell of the same changes."""

import pytest
import torch
from torch import nn

from blockcopy_plugins.engine import module_state
from blockcopy_plugins.ops.library import has_extension

native_or_not = [
    pytest.param(
        True, marks=pytest.mark.skipif(not has_extension(), reason="the kernels are not built")
    ),
    False,
]


@pytest.fixture(params=native_or_not, ids=["native", "python"])
def state(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(module_state, "_NATIVE", None)
    return module_state


@pytest.fixture
def net():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())


def changed(change, state, net):
    objects = tuple(net.modules())
    before = state.values_of(objects)
    assert state.have_values(objects, before)
    change(net)
    return not state.have_values(objects, before)


@pytest.mark.parametrize(
    "change",
    [
        lambda net: setattr(net[0], "stride", (2, 2)),
        lambda net: setattr(net[2], "more", None),
        lambda net: delattr(net[2], "inplace"),
        lambda net: net.train(False) and None,
        lambda net: net[1].__dict__.update(eps=1e-3),
        lambda net: setattr(net[2], "renamed", net[2].__dict__.popitem()[1]),
    ],
)
def test_an_attribute_that_is_another_is_seen(change, state, net):
    assert changed(change, state, net)


def test_an_attribute_that_changes_its_owner_is_seen(state, net):
    def move(net):
        net[1].last = net[2].__dict__.pop("inplace")

    assert changed(move, state, net)


def test_what_is_inside_of_an_attribute_is_not_looked_at(state, net):
    net[0].seen = []
    assert not changed(lambda net: net[0].seen.append(1), state, net)


def test_a_parameter_that_is_another_is_seen_in_its_dict(state, net):
    objects = (net[0], net[0]._parameters, net[0]._buffers)
    values = state.values_of(objects)
    net[0].weight.data = net[0].weight.data.clone()
    assert state.have_values(objects, values)
    net[0].weight = nn.Parameter(net[0].weight.data)
    assert not state.have_values(objects, values)
    values = state.values_of(objects)
    net[0].register_buffer("more", torch.zeros(1))
    assert not state.have_values(objects, values)


def test_fewer_objects_and_more_are_others(state, net):
    objects = tuple(net.modules())
    values = state.values_of(objects)
    assert not state.have_values(objects[:-1], values)
    assert not state.have_values((*objects, nn.ReLU()), values)
    assert not state.have_values((), values)
    assert state.have_values((), state.values_of(()))
    assert not state.have_values(objects, state.values_of(()))


def test_the_same_value_set_again_is_no_change(state, net):
    assert not changed(lambda net: setattr(net[2], "inplace", net[2].inplace), state, net)


def test_other_objects_with_as_many_attributes_are_others(state, net):
    values = state.values_of((net[2],))
    assert not state.have_values((nn.ReLU(inplace=True),), values)


def test_tensors_that_lie_elsewhere(state, net):
    parts = tuple(getattr(m, name) for m in net.modules() for name in ("_parameters", "_buffers"))
    addresses = state.addresses_of(parts)
    assert len(addresses) == 7 and state.lie_at(parts, addresses)
    with torch.no_grad():
        net[0].weight.add_(1)
    assert state.lie_at(parts, addresses)
    assert not state.lie_at(parts, addresses[:-1])
    assert not state.lie_at(parts, [*addresses, 0])
    net[0].weight.data = net[0].weight.data.clone()
    assert not state.lie_at(parts, addresses)
    assert state.lie_at(parts, state.addresses_of(parts))


def test_what_any_object_has(state, net):
    objects = tuple(net.modules())
    assert state.any_has(objects, "training")
    net.eval()
    assert not state.any_has(objects, "training") and not state.any_has(objects, "unknown")
    net[2].train()
    assert state.any_has(objects, "training") and not state.any_has((), "training")
    assert state.any_has(objects, "unknown", "training") and not state.any_has(objects)
    assert state.any_has(({"a": 1},), "a") and not state.any_has(({"a": 0},), "a")


@pytest.mark.skipif(not has_extension(), reason="the kernels are not built")
def test_native_looks_refuse_other_arguments():
    native = module_state._NATIVE
    with pytest.raises(TypeError, match="expected 2 arguments, got 1"):
        native.have_values(())
    with pytest.raises(TypeError, match="expected 1 arguments, got 0"):
        native.any_has()
    with pytest.raises(TypeError, match="expected a tensor, got int"):
        native.lie_at(({"a": 1},), [0])
    with pytest.raises(AttributeError):
        native.values_of((object(),))

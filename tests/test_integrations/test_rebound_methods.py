"""Methods of single modules in place of their class's."""

from __future__ import annotations

import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.adapter import ModelAdapter
from blockcopy_plugins.integrations.common.rebound_methods import (
    StandIn,
    rebind_methods,
    stand_in_for,
)


class Head(nn.Module):
    def found(self):
        return "the class's"


class OtherHead(Head):
    def found(self):
        return "the other class's"


class Ours(StandIn):
    def replacement(self):
        return f"ours, not {self.original()}"


def test_only_the_method_that_is_meant_gets_a_stand_in_until_it_is_removed():
    model = nn.ModuleList([Head(), OtherHead(), Head()])
    model[2].found = lambda: "the user's own"
    put = list(stand_in_for(model, "found", Head.found, Ours))
    said = [head.found() for head in model]
    assert said == ["ours, not the class's", "the other class's", "the user's own"]
    for each in put:
        each.remove()
    assert model[0].found() == "the class's" and model[2].found() == "the user's own"


def of_the_framework(x):
    return f"the framework's {x}"


class Calling(nn.Module):
    def found(self):
        return of_the_framework(1)

    def all_found(self):
        return [of_the_framework(i) for i in range(2)]

    @staticmethod
    def found_of(x):
        return of_the_framework(x)


def test_methods_call_other_functions_in_comprehensions_too():
    head = Calling()
    put = list(rebind_methods(head, {of_the_framework: lambda x: f"our {x}"}))
    assert head.found() == "our 1" and head.all_found() == ["our 0", "our 1"]
    assert head.found_of(3) == Calling().found_of(3) == "the framework's 3"
    for each in put:
        each.remove()
    assert head.found() == "the framework's 1" and not vars(head).keys() & {"found", "all_found"}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), Head()

    def forward(self, x):
        return self.stem(x), self.head.found()


class Adapter(ModelAdapter):
    def attach(self, model):
        return stand_in_for(model, "found", Head.found, Ours)


def test_dense_calls_are_those_of_the_users_own_model():
    config = bc.BlockCopyConfig(block_size=16, policy="all", programs=False)
    model, x = bc.blockcopy_(Net().eval(), config, adapter=Adapter()), torch.zeros(1, 3, 32, 32)
    for _ in range(2):
        assert model(x)[1] == model.head.found() == "ours, not the class's"
        with bc.dense(model):
            assert model(x)[1] == model.head.found() == "the class's"
    bc.restore_(model)
    assert model(x)[1] == "the class's"

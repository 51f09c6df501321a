"""Methods of single modules in place of their class's."""

from __future__ import annotations

from torch import nn

from blockcopy_plugins.integrations.common.rebound_methods import StandIn, stand_in_for


class Head(nn.Module):
    def found(self):
        return "the class's"


class OtherHead(Head):
    def found(self):
        return "the other class's"


class Ours(StandIn):
    def __call__(self):
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

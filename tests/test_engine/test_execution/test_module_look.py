"""What was replaced in a model's modules is noticed, and nothing is asked twice."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.execution.module_look import ModuleLook
from blockcopy_plugins.errors import FrameError


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(nn.BatchNorm2d(4))).eval()


CHANGES = {
    "an attribute": lambda m: setattr(m[1][0], "eps", 1e-3),
    "a new attribute": lambda m: setattr(m[0], "other", 1),
    "training mode": lambda m: m[1].train(),
    "a parameter": lambda m: setattr(m[0], "bias", nn.Parameter(torch.zeros(4))),
    "a buffer": lambda m: setattr(m[1][0], "running_mean", torch.zeros(4)),
    "a child": lambda m: m[1].__setitem__(0, nn.ReLU().eval()),
    "a new child": lambda m: m[1].append(nn.ReLU().eval()),
    "a child that left": lambda m: m[1].__delitem__(0),
    "a hook": lambda m: m[1][0].register_forward_hook(lambda *_: None),
    "a hook before": lambda m: m[0].register_forward_pre_hook(lambda *_: None),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_change_is_seen_once(change):
    model, look = net(), ModuleLook()
    first = look.take(model)
    assert look.take(model) is first
    change(model)
    second = look.take(model)
    assert second is not first and look.take(model) is second
    assert look.modules == tuple(model.modules())


def test_modules_that_came_later_are_looked_at():
    model, look = net(), ModuleLook()
    look.take(model)
    model[1].append(nn.ReLU().eval())
    seen = look.take(model)
    model[1][1].inplace = True
    assert look.take(model) is not seen


def test_a_question_is_asked_again_after_a_change_only():
    model, look, asked = net(), ModuleLook(), []

    def training(modules):
        asked.append(len(modules))
        return any(module.training for module in modules)

    assert [look.ask(model, training) for _ in range(3)] == [False] * 3 and asked == [4]
    model[1][0].train()
    assert look.ask(model, training) and look.ask(model, training) and asked == [4, 4]
    model[1][0].eval()
    assert not look.ask(model, training)


@pytest.mark.parametrize("made", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_looks_at_its_own_modules(made):
    model, look = net(), ModuleLook()
    look.take(model)
    other_model, other = made((model, look))
    other.take(other_model)
    assert other.modules == tuple(other_model.modules())


def test_training_mode_between_frames_of_a_program_is_refused():
    model = bc.blockcopy_(net(), bc.BlockCopyConfig(block_size=16, policy="all"))
    for _ in range(6):
        model(torch.randn(1, 3, 32, 32))
    assert bc.report(model).programs.replayed
    model[1][0].train()
    with pytest.raises(FrameError, match="'1.0' is in training mode"):
        model(torch.randn(1, 3, 32, 32))
    model.eval()
    model[1].append(nn.Dropout())
    with pytest.raises(FrameError, match="'1.1' is in training mode"):
        model(torch.randn(1, 3, 32, 32))
    model.eval()
    model(torch.randn(1, 3, 32, 32))

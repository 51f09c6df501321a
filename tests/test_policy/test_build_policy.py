from __future__ import annotations

import sys
import types

import pytest
import torch

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy import (
    AllPolicy,
    CallablePolicy,
    EveryNthFramePolicy,
    FrameDifferencePolicy,
    NonePolicy,
    Policy,
    RandomPolicy,
    RLPolicy,
    StaticPolicy,
    build_policy,
    known_policies,
)


class _Own(Policy):
    def __init__(self, level=1):
        self.level = level


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ("all", AllPolicy),
        ("none", NonePolicy),
        ("random", RandomPolicy),
        ("frame_difference", FrameDifferencePolicy),
        ("every_nth_frame", EveryNthFramePolicy),
        ("rl", RLPolicy),
        ("RLPolicy", RLPolicy),
        ("blockcopy_plugins.RLPolicy", RLPolicy),
        (AllPolicy, AllPolicy),
        (dict(type="RandomPolicy", rate=0.1), RandomPolicy),
        (dict(type="static", grid=[[1]]), StaticPolicy),
        (dict(type=_Own, level=3), _Own),
        (lambda frame, context: None, CallablePolicy),
    ],
)
def test_forms(config, kind):
    assert type(build_policy(config)) is kind


def test_an_instance_is_returned_and_arguments_arrive():
    policy = _Own()
    assert build_policy(policy) is policy
    assert build_policy(dict(type="RLPolicy", target=0.2, net=dict(gain=4.0))).target == 0.2


def test_the_config_is_not_changed():
    config = dict(type="random", rate=0.25)
    build_policy(config)
    build_policy(config)
    assert config == dict(type="random", rate=0.25)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("RLPolice", "RLPolicy"),
        (dict(type="nothing"), "Names known: all, none"),
        (dict(target=0.3), "type"),
        (dict(type="random", ratio=0.3), "ratio"),
        (dict(type="static"), "grid"),
        (dict(type=int), "subclass of Policy"),
        (dict(type=lambda: 3), "not a Policy"),
        (None, "policy must be"),
        (3, "policy must be"),
        (dict(type="RLPolicy", target=2), "target"),
    ],
)
def test_errors_say_what_is_known(config, message):
    with pytest.raises(ConfigError, match=message):
        build_policy(config)


def test_unknown_names_fall_back_to_the_registry(monkeypatch):
    class Registry:
        module_dict = {"Own": _Own}

        def get(self, name):
            return self.module_dict.get(name)

    module = types.ModuleType("blockcopy_plugins.registry")
    module.POLICIES = Registry()
    monkeypatch.setitem(sys.modules, "blockcopy_plugins.registry", module)
    assert build_policy(dict(type="Own", level=5)).level == 5
    assert build_policy(dict(type="blockcopy_plugins.Own")).level == 1
    with pytest.raises(ConfigError, match="Own"):
        build_policy("Owm")


def test_without_mmengine_unknown_names_still_get_a_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "blockcopy_plugins.registry", None)
    with pytest.raises(ConfigError, match="Names known"):
        build_policy("mine")


def test_policies_that_a_name_alone_makes_all_run(make_context):
    frame = torch.rand(1, 3, 64, 64)
    for name in ("all", "none", "random", "frame_difference", "every_nth_frame", "rl"):
        assert name in known_policies()
        grid = build_policy(name).select(frame, make_context(frame, 32, first=True))
        assert grid.shape == (1, 2, 2) and grid.dtype == torch.bool

"""Every option is taken by every way in, or refused there with a reason and a remedy that works."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.options import change_options, option_names, read_options
from blockcopy_plugins.policy import GainPolicy, build_policy
from blockcopy_plugins.policy.policy_file import save_policy

TOOLS = Path(__file__).resolve().parents[1] / "tools"
OF_STREAMS = ("interleaved", "one_video")
# Of each option a value that is not its default; a new option needs a row.
VALUES = {
    "block_size": 32,
    "policy": "dict(type='GainPolicy', target=0.2)",
    "strict": True,
    "max_streams": 3,
    "check_finite": False,
    "pack_whole_frames": True,
    "fuse": False,
    "winograd": False,
    "repack": False,
    "buckets": 4,
    "cuda_graphs": False,
    "programs": False,
    "graph_memory_mib": 17,
    "guards": ["SceneCut", "dict(type='MaxAge', frames=9)"],
    "propagate": "auto",
    "motion": "dict(type='GlobalMotion', model='affine')",
    "policy_checkpoint": None,  # a file of the test
    "interleaved": True,
    "one_video": True,
}


@pytest.fixture
def values(tmp_path):
    path = tmp_path / "policy.pth"
    save_policy(build_policy(dict(type="GainPolicy", target=0.2)), path)
    return {**VALUES, "policy_checkpoint": str(path)}


def with_what_it_needs(name, values):
    given = {name: values[name]}
    if name == "motion":
        given["propagate"] = "move"
    return given


def look(config, name):
    """What became of an option, as plain values."""
    if name == "policy":
        return type(config.policy).__name__, config.policy.target
    if name == "guards":
        return [type(guard).__name__ for guard in config.guards]
    if name == "motion":
        return config.motion["type"], config.motion["model"]
    return getattr(config, name)


RIGHT = {
    "policy": ("GainPolicy", 0.2),
    "guards": ["SceneCut", "MaxAge"],
    "motion": ("GlobalMotion", "affine"),
}


def check(config, name):
    if name not in (*OF_STREAMS, "policy_checkpoint"):
        assert look(config, name) == RIGHT.get(name, VALUES[name])


def test_the_table_is_whole():
    assert set(VALUES) == set(option_names())
    default = bc.BlockCopyConfig()
    for name, value in VALUES.items():
        assert value is None or value != getattr(default, name, False), name


@pytest.mark.parametrize("name", VALUES)
def test_a_hook_takes_every_option(values, name):
    hooks = pytest.importorskip("blockcopy_plugins.integrations.mmengine.hook")
    hook = hooks.BlockCopyHook(**with_what_it_needs(name, values))
    check(hook.config, name)
    assert (hook.interleaved, hook.one_video) == (name == "interleaved", name == "one_video")


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, x):
        return (self.conv(x),)


@pytest.mark.parametrize("name", VALUES)
def test_a_backbone_of_mmengine_takes_every_option_but_those_of_streams(values, name):
    backbones = pytest.importorskip("blockcopy_plugins.integrations.mmengine.backbone")
    given = with_what_it_needs(name, values)
    if name in OF_STREAMS:
        with pytest.raises(ConfigError, match=f"does not take {name}=True.*BlockCopyHook"):
            backbones.BlockCopyBackbone(Backbone(), **given)
        given = {name: False}  # its default says nothing
    made = backbones.BlockCopyBackbone(Backbone(), **given)
    if name not in OF_STREAMS:
        check(bc.handle(made.inner).config, name)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("tool", ["demo_video", "test_video", "train_policy", "detectron2_video"])
def test_every_tool_takes_every_option(values, tool, name, monkeypatch):
    pytest.importorskip("mmengine")
    monkeypatch.syspath_prepend(str(TOOLS))
    spec = importlib.util.spec_from_file_location(f"{tool}_of_options", TOOLS / f"{tool}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    words = {
        "demo_video": ["in.mp4", "out.mp4"],
        "test_video": ["config.py"],
        "train_policy": ["config.py"],
        "detectron2_video": ["--config-file", "c.yaml", "--input", "i", "--output", "o"],
    }[tool]
    for option, value in with_what_it_needs(name, values).items():
        own = ("policy", "guards", "propagate", "motion", "block_size", "policy_checkpoint")
        if option not in own:
            words += ["--options", f"{option}={value}"]
            continue
        flag = "--" + option.replace("_", "-")
        if tool == "train_policy" and option == "policy_checkpoint":
            flag = "--resume-policy"
        words += [flag, *(value if isinstance(value, list) else [str(value)])]
    options: dict = {}
    change_options(options, sys.modules["_cli"].options_of(module.parse_args(words)))
    read = read_options(options, tool)
    check(read.config, name)
    assert (read.interleaved, read.one_video) == (name == "interleaved", name == "one_video")
    if name == "policy_checkpoint":
        assert options[name] == values[name]


@pytest.mark.parametrize("name", VALUES)
def test_yaml_lazy_configs_and_their_backbone_take_every_option_but_those_of_streams(values, name):
    pytest.importorskip("detectron2")
    from detectron2.config import get_cfg

    from blockcopy_plugins.integrations.detectron2 import BlockCopyBackbone, add_blockcopy_config
    from blockcopy_plugins.integrations.detectron2.config import blockcopy_config

    given = with_what_it_needs(name, values)
    lazy = {"blockcopy": given}
    if name in OF_STREAMS:
        for attempt in (
            lambda: blockcopy_config(lazy),
            lambda: BlockCopyBackbone(Backbone(), **given),
        ):
            with pytest.raises(ConfigError, match=f"does not take {name}=True.*video_id"):
                attempt()
        return
    cfg = get_cfg()
    add_blockcopy_config(cfg)
    cfg.merge_from_list([x for k, v in given.items() for x in (f"MODEL.BLOCKCOPY.{k.upper()}", v)])
    check(blockcopy_config(cfg), name)
    check(blockcopy_config(lazy), name)
    check(bc.handle(BlockCopyBackbone(Backbone(), **given).inner).config, name)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("windograd", "winograd"), ("blocksize", "block_size"), ("BLOCK_SIZE", "block_size")],
)
def test_an_unknown_option_names_the_nearest_known_one(wrong, meant):
    with pytest.raises(ConfigError, match=f"MY PLACE has no option '{wrong}'.*Did you mean"):
        read_options({wrong: 1}, "MY PLACE")
    with pytest.raises(ConfigError, match=f"Did you mean '{meant}'"):
        read_options({wrong: 1}, "MY PLACE")
    assert meant in option_names()
    with pytest.raises(ConfigError) as found:
        read_options({"zzz": 1}, "MY PLACE")
    assert "Did you mean" not in str(found.value)


def test_none_is_the_default_and_texts_are_not_taken_for_true():
    assert read_options(dict.fromkeys(option_names()), "x").config.block_size == 128
    for name, value in VALUES.items():
        if isinstance(value, bool):
            with pytest.raises(ConfigError, match=f"{name}='false', expected True or False"):
                read_options({name: "false"}, "x")
    with pytest.raises(ConfigError, match="options of x are a list"):
        read_options(["strict"], "x")


def test_a_changed_policy_does_not_start_from_the_file_of_the_one_before():
    options = dict(policy="all", policy_checkpoint="a.pth", propagate="move", motion="DISMotion")
    change_options(options, dict(strict=True, guards=None))
    assert options["policy_checkpoint"] == "a.pth" and options["strict"] is True
    assert "guards" not in options
    change_options(options, dict(policy="none", propagate="auto"))
    assert options == dict(policy="none", propagate="auto", strict=True)
    change_options(options, dict(policy="gain", policy_checkpoint="b.pth"))
    assert options["policy_checkpoint"] == "b.pth"


def test_a_policy_takes_the_place_of_a_configs_and_is_not_merged_into_it():
    config = pytest.importorskip("mmengine.config").Config
    hook = config(dict(hook=dict(policy=dict(type="RLPolicy", target=0.3, seed=0)))).hook
    change_options(hook, dict(policy=dict(type="every_nth_frame", n=3)))
    assert dict(hook.policy) == dict(type="every_nth_frame", n=3)


def test_a_policy_file_is_loaded(tmp_path):
    learned = GainPolicy(target=0.2)
    state = learned.state_dict()
    tensors = [v for v in state.values() if isinstance(v, torch.Tensor) and v.is_floating_point()]
    tensors[0].add_(1)
    learned.load_state_dict(state)
    save_policy(learned, tmp_path / "p.pth")
    read = read_options(dict(policy=learned.__class__, policy_checkpoint=tmp_path / "p.pth"), "x")
    got = read.config.policy.state_dict()
    for name, value in learned.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, got[name])

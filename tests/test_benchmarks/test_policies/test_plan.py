"""Command lines and plan files, good and bad; which policies run at which rates."""

from __future__ import annotations

import pytest

from benchmarks.policies.__main__ import main, parse_args, plan_of
from benchmarks.policies.plan import parse_clip, parse_model
from benchmarks.policies.sweep import sweep
from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy import AllPolicy, build_policy, known_policies


@pytest.fixture
def files(tmp_path):
    for name in ("street.mp4", "gt.txt", "net.pth"):
        (tmp_path / name).touch()
    (tmp_path / "frames").mkdir()
    return tmp_path


def test_clips_of_a_command_line(files):
    clip = parse_clip(f"{files}/street.mp4")
    assert (clip.name, clip.path, clip.frames) == ("street", f"{files}/street.mp4", (0, None))
    text = "a=frames:10-60,ann=gt.txt,warm_up=0-10,ignore_label=11"
    clip = parse_clip(text, [str(files)])
    assert (clip.name, clip.path, clip.ann) == ("a", f"{files}/frames", f"{files}/gt.txt")
    assert (clip.frames, clip.warm_up, clip.ignore_label) == ((10, 60), (0, 10), 11)
    assert parse_clip("street.mp4:7-", [str(files)]).frames == (7, None)


def test_models_of_a_command_line(files):
    model = parse_model("some.package.net:make,weights=net.pth,block_size=32,scale=1.5", [files])
    assert (model.name, model.source) == ("net", "some.package.net:make")
    assert (model.weights, model.block_size) == (str(files / "net.pth"), 32)
    assert model.options == {"scale": 1.5}
    assert parse_model("configs/a_b.py").name == "a_b"
    assert parse_model("x=configs/a_b.py").name == "x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere.mp4", "no frames of the clip 'nowhere' at 'nowhere.mp4'.*--data-root"),
        ("a=frames:60-10", "frames of the clip 'a' is '60-10', expected FROM-TO"),
        ("a=frames,ann=no.json", "no ground truth of the clip 'a' at 'no.json'"),
        ("a=frames,colour=red", "the clip 'a' has the key 'colour'; its keys are"),
        ("a=frames,ann", "cannot be read at 'ann'"),
        ("a=frames,ignore_label=-1", "ignore_label of 'a' is '-1', expected a whole number"),
        ("", "'' cannot be read"),
    ],
)
def test_bad_clips(files, text, message):
    with pytest.raises(ConfigError, match=message):
        parse_clip(text, [str(files)])


PLAN = """
models:
  net: {source: "some.module:make", weights: net.pth, clips: [a]}
  other: {source: configs/a.py, block_size: 64, options: {model.test_cfg.mode: whole}}
clips:
  a: {path: frames, frames: 3-9}
  b: {path: street.mp4, ann: gt.txt}
policies: [RLPolicy, {type: RLPolicy, gamma: 2, label: cheap}]
targets: [0.2]
"""


def test_plans(files):
    (files / "plan.yaml").write_text(PLAN)
    common = ["--plan", f"{files}/plan.yaml", "--data-root", str(files), "--json", "x"]
    plan = plan_of(parse_args(common))
    pairs = [(clip.name, model.name) for clip, model in plan.pairs]
    assert pairs == [("a", "net"), ("a", "other"), ("b", "other")]
    assert plan.clips[0].frames == (3, 9) and plan.clips[1].ann == f"{files}/gt.txt"
    assert plan.models[1].options == {"model.test_cfg.mode": "whole"}
    labels = [entry.policy for entry in sweep(plan.policies, plan.targets, plan.periods)]
    assert labels == ["RLPolicy", "cheap"]
    more = ["--clip", f"c={files}/frames", "--policies", "random", "oracle", "--targets", "0.4,1"]
    plan = plan_of(parse_args(common + more))
    assert [clip.name for clip in plan.clips] == ["a", "b", "c"]
    assert plan.policies == ("random", "oracle") and plan.targets == (0.4, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("clips: [a]", "clips: [z]"), "run on the clip 'z', which is not among"),
        (("targets: [0.2]", "targets: 0.2"), "targets of the plan .* must be a list"),
        (("targets", "rates"), "expected the keys"),
        (("path: street.mp4", "video: street.mp4"), "the clip 'b' has the key 'video'"),
        (("source: configs/a.py, ", ""), "the model 'other' has no source"),
        (("policies: [", "policies: [["), "cannot be read"),
        (("  b: {path: street.mp4, ann: gt.txt}", "  b: street.mp4"), "clips of the plan"),
    ],
)
def test_bad_plans(files, change, message):
    (files / "plan.yaml").write_text(PLAN.replace(*change))
    with pytest.raises(ConfigError, match=message):
        plan_of(
            parse_args(["--plan", f"{files}/plan.yaml", "--data-root", str(files), "--json", "x"])
        )


def test_every_policy_with_a_rate_runs():
    entries = sweep(None, [0.1, 0.3], [2, 5])
    rates = {}
    for entry in entries:
        if not entry.is_oracle:
            build_policy(entry.config)
        rates.setdefault(entry.policy, []).append(
            next(entry.config[k] for k in ("target", "rate", "n") if k in entry.config)
        )
    assert rates["EveryNthFramePolicy"] == [2, 5]
    assert rates["oracle"] == rates["oracle with neighbours"] == [0.1, 0.3]
    for name in ("RLPolicy", "FrameDifferencePolicy", "RandomPolicy"):
        assert rates[name] == [0.1, 0.3]
    without = {"AllPolicy", "NonePolicy", "StaticPolicy", "CallablePolicy"}
    assert not without & set(rates)
    assert {kind.__name__ for kind in known_policies().values()} - without <= set(rates)


def test_what_needs_more_than_a_rate_runs_if_it_is_given(monkeypatch):
    class CameraPolicy(AllPolicy):
        def __init__(self, camera, target=0.5):
            self.camera = camera

    known = {**known_policies(), "CameraPolicy": CameraPolicy}
    monkeypatch.setattr("benchmarks.policies.sweep.known_policies", lambda: known)
    assert "CameraPolicy" not in {entry.policy for entry in sweep(None, [0.1], [2])}
    entries = sweep([{"type": "CameraPolicy", "camera": 3}], [0.1, 0.2], [2])
    assert [entry.config["target"] for entry in entries] == [0.1, 0.2]


def test_policies_with_options():
    (entry,) = sweep([{"type": "frame_difference", "threshold": 0.2, "target": None}], [0.5], [2])
    assert entry.policy == "FrameDifferencePolicy (threshold=0.2, target=None)"
    assert entry.config["type"] == "FrameDifferencePolicy"
    first, second = sweep([{"type": "oracle", "neighbours": 0.25}], [0.2, 0.4], [2])
    assert first.policy == "oracle (neighbours=0.25)" and second.config["target"] == 0.4
    assert len(sweep(["random", "RandomPolicy"], [0.5], [2])) == 1, "the same by two names"


@pytest.mark.parametrize(
    ("policies", "targets", "message"),
    [
        (["GianPolicy"], [0.5], "there is no policy 'GianPolicy'; names known: .*oracle"),
        (["AllPolicy"], [0.5], "'AllPolicy' can be told no rate"),
        ([{"target": 0.5}], [0.5], "has no type"),
        (["random"], [1.5], "1.5 is out of range"),
    ],
)
def test_bad_policies(policies, targets, message):
    with pytest.raises(ConfigError, match=message):
        sweep(policies, targets, [2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clip", "{clip}"], "no model is given; add --model"),
        (["--model", "{net}"], "no clip is given; add --clip"),
        (["--model", "{net}", "--clip", "a={clip}", "--clip", "a={clip}"], "two clips are called"),
        (["--model", "net.onnx", "--clip", "{clip}"], "neither a config file"),
        (["--model", "no.py:make", "--clip", "{clip}"], "there is no file 'no.py'"),
        (["--model", "no.such.module:make", "--clip", "{clip}"], "cannot be loaded"),
        (["--model", "{file}:make", "--clip", "{clip}"], "has no function 'make'"),
        (["--model", "{net},depth=3", "--clip", "{clip}"], "cannot make its network.*depth"),
        (["--model", "{file}:bare", "--clip", "{clip}"], "without .*preprocess"),
        (
            ["--model", "{file}:undecided", "--clip", "{clip}"],
            r"returned Tensor \(1, 2, 128, 128\)",
        ),
        (["--model", "{net}", "--clip", "{clip}:1-9"], "frames 1-9 .* are asked for, but it has 4"),
        (["--model", "{net}", "--clip", "{clip}:4-"], "none is left from frame 4 on"),
        (["--model", "{net}", "--clip", "{clip},ann={gt}"], "is of FrameObjects, but the network"),
    ],
)
def test_commands_that_cannot_run(segmentor, flipping_clip, tmp_path, arguments, message):
    gt = tmp_path / "gt.txt"
    gt.write_text("1,1,5,5,9,9,1,-1,-1,-1\n")
    words = dict(net=segmentor, file=segmentor.rpartition(":")[0], clip=flipping_clip(4), gt=gt)
    arguments = [text.format(**words) for text in arguments]
    with pytest.raises(SystemExit, match=f"(?s)error: .*{message}"):
        main([*arguments, "--policies", "random", "--json", str(tmp_path / "out.json")])


def test_bad_numbers(capsys):
    for wrong in (["--targets", "1.5"], ["--periods", "0"], ["--frames", "0"], ["--epochs", "-1"]):
        with pytest.raises(SystemExit):
            parse_args([*wrong, "--json", "x"])
        assert wrong[1] in capsys.readouterr().err

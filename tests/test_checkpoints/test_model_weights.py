"""Weights of the right model, under the names and in the wrappings that others write."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from blockcopy_plugins.checkpoints.model_weights import find_weights, readable_weights
from blockcopy_plugins.errors import BlockCopyError, ConfigError
from blockcopy_plugins.policy import build_policy
from blockcopy_plugins.policy.policy_file import load_policy, save_policy


def model():
    torch.manual_seed(0)
    net = nn.Sequential()
    net.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net.decode_head = nn.Conv2d(4, 2, 1)
    net.auxiliary_head = nn.Conv2d(4, 2, 1)
    return net


STATE = dict(model().state_dict())
OWN = {name: tuple(value.shape) for name, value in STATE.items()}
EMPTY = {"epoch": 3, "optimizer": {"state": {}, "param_groups": []}}


def under(prefix, state=STATE):
    return {prefix + name: value for name, value in state.items()}


def other():
    return {name: torch.zeros_like(value) + 7 for name, value in STATE.items()}


RIGHT = {
    "as the frameworks write it": {"state_dict": STATE, "meta": {}},
    "no wrapper": STATE,
    "module.": {"state_dict": under("module.")},
    "module.module.": {"state_dict": under("module.module.")},
    "_orig_mod.": {"state_dict": under("_orig_mod.")},
    "module._orig_mod.": {"state_dict": under("module._orig_mod.")},
    "a compiled part": {n.replace("backbone.", "backbone._orig_mod."): v for n, v in STATE.items()},
    "a wrapped part": {n.replace("backbone.", "backbone.module."): v for n, v in STATE.items()},
    "model": {"model": STATE, **EMPTY},
    "model_state_dict": {"model_state_dict": STATE, **EMPTY},
    "model and its average": {"model": under("module."), "model_ema": other()},
    "state_dict and an empty average": {"state_dict": STATE, "ema_state_dict": {}},
    "Lightning": {"state_dict": under("model."), "pytorch-lightning_version": "2"},
    "a wrapper's own name": {"state_dict": under("detector.")},
    "two wrappers": {"state_dict": under("module.net.model.")},
    "averaged model": {"state_dict": {**under("module."), "n_averaged": torch.tensor(5)}},
    "only the average fits": {"state_dict": {"x": torch.zeros(1)}, "ema_state_dict": STATE},
    "wrapped twice": {"model": {"state_dict": STATE}},
}


@pytest.mark.parametrize("name", list(RIGHT))
def test_the_weights_are_found(name):
    found = find_weights(RIGHT[name], OWN, "w.pth")
    assert not found.unfit and not found.unused
    for key, value in STATE.items():
        assert torch.equal(found.state[key], value)
    net = model()
    net.load_state_dict(found.state, strict=False)


@given(st.lists(st.sampled_from(["module", "_orig_mod", "model", "net", "m2"]), max_size=4))
def test_any_prefix(parts):
    prefix = "".join(f"{part}." for part in parts)
    assert not find_weights({"state_dict": under(prefix)}, OWN, "w.pth").unfit


def test_what_is_missing_is_named_unless_nothing_runs_it():
    for name in STATE:
        rest = {key: value for key, value in STATE.items() if key != name}
        found = find_weights({"state_dict": under("module.", rest)}, OWN, "w.pth")
        if name.endswith("num_batches_tracked"):
            assert not found.unfit
        elif name.startswith("auxiliary_head"):
            assert not found.unfit and found.unused == (name,)
        else:
            assert len(found.unfit) == 1 and name in found.unfit[0] and "none" in found.unfit[0]
    wrong = {**STATE, "decode_head.weight": torch.zeros(9, 9)}
    assert (
        "decode_head.weight (2, 4, 1, 1) (found (9, 9))" in find_weights(wrong, OWN, "w.pth").unfit
    )


@pytest.mark.parametrize("content", [None, 3, [], {}, {"epoch": 3}, {"state_dict": {}}, "x"])
def test_what_holds_no_weights_is_said(content):
    with pytest.raises(ConfigError, match="the checkpoint 'w.pth' is a .*no tensors by name"):
        find_weights(content, OWN, "w.pth")


# ------------------------------------------------------------------ damaged files


def damage(rng, content):
    data = bytearray(content)
    how = rng.random()
    if how < 0.3:
        del data[rng.randrange(len(data)) :]
    elif how < 0.9:
        for _ in range(rng.randint(1, 30)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    else:
        at = rng.randrange(len(data))
        data[at : at + rng.randint(1, 200)] = rng.randbytes(rng.randint(0, 200))
    return bytes(data)


def check_checkpoint(path, content, seed):
    path.write_bytes(damage(random.Random(seed), content))
    try:
        with readable_weights(path):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        find_weights(loaded, OWN, path)
    except BlockCopyError as error:
        assert path.name in str(error), (seed, error)


def check_policy(path, content, seed):
    path.write_bytes(damage(random.Random(seed), content))
    policy = build_policy(dict(type="RLPolicy", target=0.3, seed=0))
    try:
        load_policy(policy, path)
    except BlockCopyError as error:
        assert path.name in str(error), (seed, error)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    torch.save({"state_dict": STATE}, folder / "w.pth")
    save_policy(build_policy(dict(type="RLPolicy", target=0.3, seed=0)), folder / "p.pth")
    return (folder / "w.pth").read_bytes(), (folder / "p.pth").read_bytes()


def test_damaged_checkpoints_and_policies_are_named(tmp_path, files):
    for seed in range(40):
        check_checkpoint(tmp_path / "fuzz_weights.pth", files[0], seed)
        check_policy(tmp_path / "fuzz_policy.pth", files[1], seed)


@pytest.mark.slow
def test_hundreds_of_damaged_checkpoints_and_policies(tmp_path, files):
    for seed in range(1000, 1500):
        check_checkpoint(tmp_path / "fuzz_weights.pth", files[0], seed)
        check_policy(tmp_path / "fuzz_policy.pth", files[1], seed)


def test_nothing_in_a_policy_file_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'executed')!r}, 'w')",))

    torch.save({"policy": "RLPolicy", "state_dict": Evil()}, tmp_path / "p.pth")
    with pytest.raises(ConfigError, match="p.pth.*cannot be read"):
        load_policy(build_policy("RLPolicy"), tmp_path / "p.pth")
    assert not (tmp_path / "executed").exists()


def test_a_policy_with_nan_is_refused(tmp_path):
    policy, path = build_policy(dict(type="RLPolicy", target=0.3, seed=0)), tmp_path / "p.pth"
    save_policy(policy, path)
    load_policy(policy, path)
    saved = torch.load(path)
    name, weight = next(iter(saved["state_dict"]["net"].items()))
    weight.view(-1)[0] = float("nan")
    torch.save(saved, path)
    with pytest.raises(ConfigError, match=f"p.pth' holds NaN in net.{name}.*earlier one"):
        load_policy(policy, path)
    assert not any(weight.isnan().any() for weight in policy.state_dict()["net"].values())


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (b"<!DOCTYPE html><html>", "It is a web page.*in a browser"),
        (b"\n<html>", "It is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"weights", "copy or download it again"),
        (b"", "copy or download it again"),
    ],
)
def test_what_was_downloaded_instead_of_a_checkpoint(tmp_path, content, remedy):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"w.pth' cannot be loaded.*{remedy}"):
        with readable_weights(path):
            torch.load(path, weights_only=True)


def test_two_models_in_one_file_are_not_chosen_between():
    """A student and its teacher: nobody knows which of them is meant."""
    both = {**under("student."), **under("teacher.")}
    assert len(find_weights({"state_dict": both}, OWN, "w.pth").unfit) > 0
    assert not find_weights({"state_dict": under("teacher.")}, OWN, "w.pth").unfit


def test_an_auxiliary_head_of_another_shape_does_not_fit():
    name = next((name for name in OWN if name.startswith("auxiliary_head.")), None)
    own = OWN if name else {**OWN, "auxiliary_head.weight": (2, 2)}
    name = name or "auxiliary_head.weight"
    found = find_weights({**STATE, name: torch.zeros(9, 9)}, own, "w.pth")
    assert [name in one for one in found.unfit] == [True] and not found.unused


def test_a_file_whose_entries_contain_themselves():
    circle = {"epoch": 1}
    circle["model"] = circle
    with pytest.raises(ConfigError, match="contains no tensors by name"):
        find_weights(circle, OWN, "w.pth")


@pytest.mark.parametrize("make", [lambda value: value, lambda value: value.numpy()])
def test_weights_that_hold_nan_are_refused(make):
    state = {name: value.clone() for name, value in STATE.items()}
    name = "decode_head.weight"
    state[name].view(-1)[3] = float("nan")
    content = {"model": {key: make(value) for key, value in under("module.", state).items()}}
    with pytest.raises(ConfigError, match=f"NaN in 1 of .* first in {name}.*earlier checkpoint"):
        find_weights(content, OWN, "w.pth")
    state[name].view(-1)[3] = float("inf")  # rare, but some buffers are
    assert not find_weights({"model": state}, OWN, "w.pth").unfit

"""Files that are checkpoints, and files that are not."""

from __future__ import annotations

import argparse
import pickle

import numpy as np
import pytest
import torch

from blockcopy_plugins.checkpoints import CheckpointError, read_state


@pytest.fixture
def file(tmp_path):
    return tmp_path / "weights.pth"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda state: {"model": state},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    ],
    ids=["bare", "state_dict", "model", "both", "module"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_wrappers_are_taken_off(file, wrap, zipped):
    state = {"conv.weight": torch.randn(2, 3), "module_of.n": torch.tensor(4)}
    torch.save(wrap(state), file, _use_new_zipfile_serialization=zipped)
    found = read_state(file)
    assert list(found) == list(state)
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_a_prefix_that_not_all_have_is_part_of_the_names(file):
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, file)
    assert set(read_state(file)) == {"module.a", "b"}


def refused(file, *words):
    with pytest.raises(CheckpointError) as error:
        read_state(file)
    for word in (str(file), *words):
        assert word in str(error.value)


class Whatever:
    """An object of a class."""


@pytest.mark.parametrize(
    ("held", "named"),
    [
        ({"state_dict": {"a": torch.ones(1)}, "args": argparse.Namespace(lr=1)}, "Namespace"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        ({"state_dict": {"a": torch.ones(1)}, "best": np.float64(1)}, "scalar"),
    ],
    ids=["namespace", "module", "numpy"],
)
def test_objects_are_not_unpickled(file, held, named):
    torch.save(held, file)
    refused(file, named, "weights_only=False", "weights_state.pth")


def test_the_remedy_for_objects_works(file):
    torch.save({"state_dict": {"a": torch.ones(1)}, "args": argparse.Namespace(lr=1)}, file)
    with pytest.raises(CheckpointError) as error:
        read_state(file)
    command = str(error.value).split('python -c "')[1].rstrip('"')
    exec(command)
    assert set(read_state(file.with_name("weights_state.pth"))) == {"a"}


def test_files_that_are_something_else(file):
    file.touch()
    refused(file, "empty")
    file.write_text("\n<!DOCTYPE html><html>Virus scan warning</html>")
    refused(file, "web page", "browser")
    file.write_text("some text\n" * 100)
    refused(file, "1000 bytes", "torch.save")
    file.write_bytes(pickle.dumps({"a": np.ones(3)}))
    refused(file, "torch.save")
    torch.save({"a": torch.randn(1000)}, file)
    file.write_bytes(file.read_bytes()[:-500])
    refused(file, "damaged")


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ([torch.ones(1)], ["list", "state dict"]),
        (torch.ones(1), ["Tensor", "state dict"]),
        ({}, ["empty dict"]),
        ({"state_dict": {}}, ["empty dict"]),
        ({"epoch": 3, "a": torch.ones(1), "lr": 0.1}, ["2 of its 3", "'epoch' (int)", "'lr'"]),
    ],
)
def test_no_state_dict_inside(file, held, words):
    torch.save(held, file)
    refused(file, *words)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        read_state(tmp_path / "nowhere.pth")

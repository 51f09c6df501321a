"""The table of ops is put together from the files of strategies, once."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn

from blockcopy_plugins.engine.strategies import OPS
from blockcopy_plugins.engine.strategies.op_table import OpTable, always, on_blocks

aten = torch.ops.aten


def file_of(*functions):
    file = types.ModuleType("strategies_of_a_test")
    for function in functions:
        function.__module__ = file.__name__
        setattr(file, function.__name__, function)
    return file


def test_what_the_decorators_say_is_in_the_table():
    @on_blocks(aten.relu.default, takes_padded=True, modules=(nn.ReLU,))
    @on_blocks(aten.relu.default, aten.sigmoid.default, cuts=always)
    def strategy(frame, func, args, kwargs):
        return "here"

    def elsewhere(frame, func, args, kwargs):
        raise NotImplementedError

    table = OpTable([file_of(strategy, elsewhere)], elementwise=elsewhere)
    assert set(table.ops) == {aten.relu.default, aten.sigmoid.default}
    # The outer one counts.
    assert table.ops[aten.relu.default].takes_padded and not table.cuts(aten.relu.default, ())
    assert table.cuts(aten.sigmoid.default, ()) and not table.cuts(aten.tanh.default, ())
    assert table.stateless_modules == {nn.ReLU}
    assert table.run(None, aten.sigmoid.default, (), {}) == "here"


def test_the_table_cannot_grow():
    with pytest.raises(TypeError):
        OPS.ops[aten.relu.default] = OPS.ops[aten.cat.default]
    with pytest.raises(AttributeError):
        OPS.stateless_modules.add(nn.Conv2d)


def test_strategies_of_one_file_that_another_imports_count_once():
    """``pooling`` imports a helper of ``groups_as_images``; only its own functions are its own."""
    files = {known.strategy.__module__.rpartition(".")[2] for known in OPS.ops.values()}
    assert {"convolution", "pooling", "resize", "pointwise", "channels", "padding"} <= files
    assert OPS.ops[aten.max_unpool2d.default].strategy.__name__ == "max_unpool"

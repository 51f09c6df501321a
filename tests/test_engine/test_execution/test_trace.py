"""What a recorder notes of a frame's ops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from blockcopy_plugins.engine.execution.trace import TraceRecorder
from blockcopy_plugins.engine.torch_internals import no_modes


def record(frame):
    """The trace of a function that returns nothing."""
    recorder = TraceRecorder(lambda: "")
    with torch.no_grad(), recorder:
        frame()
    return recorder.finish([], [], [], {})


def test_memory_of_what_is_freed_may_be_that_of_a_table_made_later():
    reused = []

    def frame():
        for _ in range(20):
            scratch = torch.ones(1000)
            scratch.mul_(2)
            before = scratch.data_ptr()
            del scratch
            with no_modes():
                table = torch.zeros(1000)
            reused.append(table.data_ptr() == before)
            torch.neg(table)

    trace = record(frame)
    assert any(reused), "the allocator gave no memory back: this test shows nothing"
    assert trace.obstacle is None


def test_what_writes_to_a_view_of_something_from_outside_is_refused():
    outside = torch.zeros(8)
    trace = record(lambda: outside[2:4].add_(1))
    assert (
        trace.obstacle == "it writes into a tensor that existed before the frame in module '(root)'"
    )


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_attention_is_random_only_where_it_drops(dropout):
    torch.manual_seed(0)
    x = torch.randn(1, 2, 8, 4)
    obstacle = record(lambda: F.scaled_dot_product_attention(x, x, x, dropout_p=dropout)).obstacle
    assert (obstacle is None) == (dropout == 0)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_dropout_is_random_only_in_training(train, inference):
    x = torch.randn(8)
    with torch.inference_mode(inference):
        obstacle = record(lambda: F.dropout(x, 0.5, train)).obstacle
    assert (obstacle is None) == (not train)

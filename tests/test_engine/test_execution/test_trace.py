"""What a recorder notes of a frame's ops."""

from __future__ import annotations

import torch

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

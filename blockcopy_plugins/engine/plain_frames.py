"""Whole frames that run as in the plain model, if no later frame reads their state."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from ..errors import StateError
from .adapter import Call
from .execution.converted_model import ConvertedModel
from .execution.executor import Executor
from .execution.frame_run import FrameRun
from .frame.counts import FrameCounts
from .frame.host_grid import HostGrid
from .state.stream import Stream

# Runs of each way before the faster one is chosen. On blocks, the first may still be recorded.
_TRIES_PLAIN = 3
_TRIES_ON_BLOCKS = 6
# Kinds of calls (sizes, batches, arguments) that are remembered.
_KINDS = 64


class PlainFrames:
    """Which whole frames need no blocks, and what they cost.

    If a policy runs whole frames or nothing (:attr:`~blockcopy_plugins.policy.Policy.
    whole_frames_only`), no frame reads the state, and a whole frame may run as in the plain model,
    with exactly its results. On blocks it is faster if the package's own kernels run, and slower
    elsewhere: both ways are tried a few times in turn, and the one that costs this thread less CPU
    time is kept.

    If some blocks have to run after all (a guard demands them, the streams of a batch differ, or
    the last outputs cannot be returned again), the frame runs whole, and its streams keep their
    state from then on.

    Args:
        on_blocks: The ways to run a frame on blocks, the best first; the last takes any frame.

    Attributes:
        frames: Images that have run as in the plain model.
    """

    def __init__(self, on_blocks: Sequence[Executor]) -> None:
        self.frames = 0
        self._on_blocks = tuple(on_blocks)
        self._counts: dict[Hashable, FrameCounts] = {}
        self._seconds: dict[Hashable, tuple[list[float], list[float]]] = {}

    def kind_of(self, converted: ConvertedModel, call: Call) -> Hashable:
        """See :class:`~.execution.executor.Executor`; asked for the calls of such a policy."""
        return tuple(call.frame.shape), call.frame.dtype, call.asks

    def takes(self, work: FrameRun) -> bool:
        """See :class:`~.execution.executor.Executor`."""
        return work.may_be_plain

    def report(self) -> None:
        """See :class:`~.execution.executor.Executor`."""

    def run(self, work: FrameRun, kind: Hashable) -> Any:
        """Run a whole frame of such a policy, in one of the two ways.

        Args:
            work: The frame, which may run plain.
            kind: The kind of its call.

        Returns:
            What the model returns.
        """
        call = work.call
        if work.has_first or kind not in self._counts:
            out = work.run_counted()
            if len(self._counts) >= _KINDS:
                self._counts.clear()
                self._seconds.clear()
            self._counts[kind] = replace(work.counts, outside=None)
            return out
        plain, blocks = self._seconds.setdefault(kind, ([], []))
        tried = len(blocks) >= _TRIES_ON_BLOCKS
        # On a GPU, where nothing waits for the launches, a clock says nothing.
        on_device = work.device.type != "cpu"
        is_next = len(plain) < _TRIES_PLAIN and len(plain) <= len(blocks)
        is_plain = on_device or (min(plain) < min(blocks) if tried else is_next)
        start = time.thread_time()
        if is_plain:
            out = work.run_plain(self._counts[kind])
            self.frames += len(call.frame)
            if tried or on_device:
                work.store.drop_state()
        else:
            out = self._run_on_blocks(work)
        if not tried:
            (plain if is_plain else blocks).append(time.thread_time() - start)
        return out

    def _run_on_blocks(self, work: FrameRun) -> Any:
        for executor in self._on_blocks:
            kind = executor.kind_of(work.converted, work.call)
            if kind is not None and executor.takes(work):
                return executor.run(work, kind)
        raise StateError("no way to run the frame on blocks takes it; the last one must take any")

    @staticmethod
    def stale(streams: Sequence[Stream | None], blocks: HostGrid) -> list[bool]:
        """Which images must run whole, because some blocks are asked for and the state is outdated.

        Args:
            streams: Stream of each image, ``None`` for new ones.
            blocks: The blocks that are asked for.
        """
        if all(blocks.full):
            return [False] * len(streams)
        for stream in streams:
            if stream is not None:
                stream.keeps_state = True
        return [stream is not None and stream.stateless for stream in streams]

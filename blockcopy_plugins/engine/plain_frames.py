"""Whole frames that run as the model alone runs them, where nobody will read their state."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..errors import StateError
from .adapter import Call
from .execution.converted_model import ConvertedModel
from .execution.executor import Executor
from .execution.frame_run import FrameRun
from .frame.counts import FrameCounts
from .state.stream import Stream

# Of each way, before the faster one is taken. On blocks the first ones may still be written down.
_TRIES_PLAIN = 3
_TRIES_ON_BLOCKS = 6
# Kinds of calls (sizes, batches, arguments) of which something is known.
_KINDS = 64


class PlainFrames:
    """Which whole frames need no blocks, and what they cost.

    A policy that runs whole frames or nothing (:attr:`~blockcopy_plugins.policy.Policy.
    whole_frames_only`) leaves nothing to read from the state. Then a whole frame may run as the
    plain model does, with its very results. On blocks it is faster where the package's own kernels
    are, and slower elsewhere: each way is tried a few times in turn, and the one that costs this
    thread less CPU time stays.

    If blocks are asked for after all (a guard demands some, the streams of a batch have other
    frames, the outputs of a frame of nothing cannot be given again), the frame runs whole, and its
    streams keep their state from then on.

    Args:
        on_blocks: The ways to run a frame on blocks, the best first; the last takes any frame.

    Attributes:
        frames: Images that have run like this.
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
            work: The frame, one that may be plain.
            kind: Of its call.

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
        # Where launches are awaited by nobody a clock tells nothing.
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
    def stale(streams: Sequence[Stream | None], grid: Tensor) -> list[bool]:
        """Which images must run whole, because blocks are asked for and their state is an old one.

        Args:
            streams: Stream of each image, ``None`` for new ones.
            grid: bool ``(N, GH, GW)`` in host memory, what is asked for.
        """
        if bool(grid.all()):
            return [False] * len(streams)
        for stream in streams:
            if stream is not None:
                stream.keeps_state = True
        return [stream is not None and stream.stateless for stream in streams]

"""What all ways to run a frame have in common, and the plainest of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from ..adapter import Call
from .converted_model import ConvertedModel
from .frame_run import FrameRun


class ExecutorReport(Protocol):
    """What became of the frames that an executor is for."""

    def lines(self) -> Sequence[str]:
        """Lines of text."""


class Executor(Protocol):
    """One way to run frames.

    A session asks those that it has in turn: first before blocks are chosen (:meth:`kind_of`), then
    with the blocks (:meth:`takes`).
    """

    def kind_of(self, converted: ConvertedModel, call: Call) -> Hashable | None:
        """What of a call is not data, so that calls which share it may share what is kept.

        Returns:
            The kind, ``None`` if such calls are to run in another way.
        """

    def takes(self, work: FrameRun) -> bool:
        """Whether a frame can run so, of which the blocks are known."""

    def run(self, work: FrameRun, kind: Hashable) -> Any:
        """Run a frame.

        Args:
            work: The frame, one that it takes.
            kind: Of its call.

        Returns:
            The model's results, dense.
        """

    def report(self) -> ExecutorReport | None:
        """What has happened so far; ``None`` if no frame was one for it."""


class EagerExecution:
    """The model's own Python, op by op: it takes all frames."""

    def kind_of(self, converted: ConvertedModel, call: Call) -> Hashable:
        """See :class:`Executor`."""
        return "any"

    def takes(self, work: FrameRun) -> bool:
        """See :class:`Executor`."""
        return True

    def run(self, work: FrameRun, kind: Hashable) -> Any:
        """See :class:`Executor`."""
        return work.run_counted()

    def report(self) -> None:
        """See :class:`Executor`."""

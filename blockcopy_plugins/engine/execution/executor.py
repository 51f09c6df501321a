"""The protocol of all ways to run a frame, and the plainest of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from ..adapter import Call
from .converted_model import ConvertedModel
from .frame_run import FrameRun


class ExecutorReport(Protocol):
    """Figures of the frames that an executor is for."""

    def lines(self) -> Sequence[str]:
        """Lines of text."""


class Executor(Protocol):
    """One way to run frames.

    A session asks its executors in turn, before blocks are chosen (:meth:`kind_of`) and after
    (:meth:`takes`).
    """

    def kind_of(self, converted: ConvertedModel, call: Call) -> Hashable | None:
        """The part of a call that is not data: calls that share it may share what is kept.

        Returns:
            The kind, ``None`` if another executor is to run such calls.
        """

    def takes(self, work: FrameRun) -> bool:
        """Whether it can run a frame, now that the blocks are known."""

    def run(self, work: FrameRun, kind: Hashable) -> Any:
        """Run a frame.

        Args:
            work: A frame that it takes.
            kind: The kind of its call.

        Returns:
            The model's results, dense.
        """

    def report(self) -> ExecutorReport | None:
        """What has happened so far; ``None`` if no frame was one for it."""


class EagerExecution:
    """The model's own Python, op by op; it takes all frames."""

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

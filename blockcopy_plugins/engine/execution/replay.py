"""Base class of the executors that record and replay frames: obstacles and figures."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass, field

from ..adapter import Call
from .call_kind import kind_of_call
from .capture_guard import CaptureError
from .converted_model import ConvertedModel
from .frame_run import FrameRun
from .model_watch import ModelWatch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReplayReport:
    """Figures of the frames that a :class:`ReplayExecutor` is for.

    Attributes:
        replayed: Calls that were replays.
        eager_calls: Calls that had to run eagerly, by reason.
        recorded: Calls that were run to be recorded, or to be compared with a recording.
    """

    replayed: int = 0
    eager_calls: dict[str, int] = field(default_factory=dict)
    recorded: int = 0

    def headline(self) -> str:
        """The first line of text."""
        raise NotImplementedError(f"{type(self).__name__} does not implement headline()")

    def lines(self) -> list[str]:
        """Lines of text."""
        calls = self.eager_calls.items()
        return [self.headline(), *(f"    {n} calls without: {reason}" for reason, n in calls)]


class ReplayExecutor:
    """An :class:`~.executor.Executor` that records frames and replays them.

    Frames of new streams run eagerly, and so does whatever cannot be recorded; the report says why.

    Args:
        enabled: Whether frames are recorded at all.

    Attributes:
        recordings: Name of its recordings, for the log.
        log_level: Level at which a new reason to run eagerly is logged.
    """

    recordings = "recordings"
    log_level = logging.WARNING

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._watch = ModelWatch()
        self._refused: dict[Hashable, str] = {}
        self._eager_calls: dict[str, int] = {}
        self._generation = 0
        self._replayed = self._recorded = 0

    def kind_of(self, converted: ConvertedModel, call: Call) -> Hashable | None:
        """See :class:`~.executor.Executor`."""
        if not self.enabled or not self.is_for(call):
            return None
        seen = converted.take_look()
        reason = converted.adapter.graph_obstacle or self._watch.obstacle(converted, seen)
        if self.has_changed(converted, seen):
            self.forget()
            self._refused.clear()
        kind = None
        if reason is None:
            try:
                kind = self.kind(call)
            except CaptureError as error:
                reason = str(error)
        reason = reason or self.obstacle() or self._refused.get(kind)
        if reason is not None:
            self._note(reason)
            return None
        return kind

    def takes(self, work: FrameRun) -> bool:
        """See :class:`~.executor.Executor`."""
        return not work.has_first

    def is_for(self, call: Call) -> bool:
        """Whether a call may be recorded."""
        raise NotImplementedError(f"{type(self).__name__} does not implement is_for()")

    def has_changed(self, converted: ConvertedModel, seen: object) -> bool:
        """Whether the model has changed since the last call; asked once in each call.

        Args:
            converted: The model.
            seen: What a look at it has just given, see :meth:`ConvertedModel.take_look`.
        """
        return self._watch.has_moved(converted, seen)

    def kind(self, call: Call) -> Hashable:
        """The part of a call that is not data.

        Raises:
            CaptureError: If it cannot be recorded.
        """
        return kind_of_call(call)

    def obstacle(self) -> str | None:
        """Another reason not to record now."""
        return None

    def forget(self) -> None:
        """Drop what was recorded so far."""
        self._generation += 1

    def _note(self, reason: str) -> None:
        if reason not in self._eager_calls:
            logger.log(self.log_level, "frames run without %s: %s.", self.recordings, reason)
        self._eager_calls[reason] = self._eager_calls.get(reason, 0) + 1

"""What policies may know of where things have moved."""

from __future__ import annotations

from typing import Any, Protocol

from .task_output import TaskOutput


class Propagated(Protocol):
    """What would be delivered of a frame if none of its blocks ran; made by the engine.

    Everything is computed when it is first asked for.
    """

    def displacement(self, image: int) -> Any | None:
        """How far an image has moved since the last frame of its stream.

        Args:
            image: Its place in the batch.

        Returns:
            A :class:`~blockcopy_plugins.propagation.Displacement`; ``None`` where it is not known.
        """

    def moved_output(self, image: int) -> TaskOutput | None:
        """The task's output of the frames before, moved to this one.

        Args:
            image: Its place in the batch.

        Returns:
            ``None`` where there is none yet, or where what stands is delivered as it was.
        """

    def output(self, image: int) -> TaskOutput | None:
        """The task's output of the frames before, moved to this one where that pays.

        Args:
            image: Its place in the batch.

        Returns:
            ``None`` where there is none yet.
        """

"""What policies may know about where things have moved."""

from __future__ import annotations

from typing import Any, Protocol

from .task_output import TaskOutput


class Propagated(Protocol):
    """The outputs that would be delivered if none of a frame's blocks ran; made by the engine.

    Everything is computed when it is first asked for.
    """

    def displacement(self, image: int) -> Any | None:
        """How far an image has moved since the last frame of its stream.

        Returns:
            A :class:`~blockcopy_plugins.propagation.Displacement`; ``None`` if it is not known.
        """

    def moved_output(self, image: int) -> TaskOutput | None:
        """The task's output of the previous frames, moved to this one.

        Returns:
            ``None`` if there is none yet, or if the output is delivered as it was.
        """

    def output(self, image: int) -> TaskOutput | None:
        """The task's output of the previous frames, moved to this one if that pays.

        Returns:
            ``None`` if there is none yet.
        """

"""The frame that a converted model is running: all that the hooks of its modules know."""

from __future__ import annotations

from threading import get_ident
from typing import Any

from .frame import Frame


class ActiveFrame:
    """Holds the frame that one converted model is running.

    Hooks refer to this and to nothing else of the model. A deep copy of a converted model gets one
    of its own.
    """

    def __init__(self) -> None:
        self._frame: Frame | None = None
        self._exits: dict[str, Any] | None = None
        self._thread: int | None = None

    def __reduce__(self):
        # A copy or a pickle does not contain the frame.
        return ActiveFrame, ()

    @property
    def frame(self) -> Frame | None:
        """The frame, if this thread runs it; other threads run the model's parts unconverted."""
        frame = self._frame
        return frame if frame is not None and self._thread == get_ident() else None

    def begin(self, frame: Frame | None, exits: dict[str, Any]) -> None:
        """Start a frame: from now on, the model's modules belong to it.

        Args:
            frame: The frame; ``None`` if the model runs unconverted.
            exits: Collects the outputs of the modules of
                :meth:`~..adapter.ModelAdapter.dense_outputs`, by module path.
        """
        self._frame, self._exits, self._thread = frame, exits, get_ident()

    def note_exit(self, path: str, output: Any) -> None:
        """Remember what a module passes on to the dense part of the model."""
        if self._exits is not None:
            self._exits[path] = output

    def end(self) -> None:
        """End the frame."""
        self._frame = self._exits = None

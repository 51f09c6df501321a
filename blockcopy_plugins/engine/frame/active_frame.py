"""The frame that a converted model runs now: all that the hooks of its modules know."""

from __future__ import annotations

from threading import get_ident
from typing import Any

from .frame import Frame


class ActiveFrame:
    """A cell for the frame of one converted model that is being run.

    Hooks hold it, and nothing else of the model. It is a class, so that a deep copy of a converted
    model has a cell of its own.
    """

    def __init__(self) -> None:
        self._frame: Frame | None = None
        self._exits: dict[str, Any] | None = None
        self._thread: int | None = None

    def __reduce__(self):
        # No frame goes along with a copy or a pickle.
        return ActiveFrame, ()

    @property
    def frame(self) -> Frame | None:
        """The frame, if it is of this thread: other threads run the model's parts as they are."""
        frame = self._frame
        return frame if frame is not None and self._thread == get_ident() else None

    def begin(self, frame: Frame | None, exits: dict[str, Any]) -> None:
        """From now on the model's modules belong to this frame.

        Args:
            frame: The frame; ``None`` where the model runs as it is.
            exits: Takes what the modules of :meth:`~..adapter.ModelAdapter.dense_outputs` give, by
                module path.
        """
        self._frame, self._exits, self._thread = frame, exits, get_ident()

    def note_exit(self, path: str, output: Any) -> None:
        """Remember what a module has given to the dense part of the model."""
        if self._exits is not None:
            self._exits[path] = output

    def end(self) -> None:
        """No frame is being run."""
        self._frame = self._exits = None

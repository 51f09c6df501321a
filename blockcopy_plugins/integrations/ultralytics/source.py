"""Whose pictures a batch of an Ultralytics predictor holds."""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from ...errors import FrameError


class BatchSource:
    """Told by a predictor what it is about to run, through its callbacks.

    A video file is a stream, and so is each camera of several, a folder of pictures, and what is
    given as arrays: these go on from call to call, as a loop around ``track(persist=True)`` does.
    """

    def __init__(self) -> None:
        self._predictor: weakref.ref | None = None
        self._begins = False

    def __deepcopy__(self, memo: dict[int, Any]) -> BatchSource:
        return memo.setdefault(id(self), BatchSource())

    def on_predict_start(self, predictor: Any) -> None:
        """A run of ``predict`` or ``track`` begins: what comes from files begins anew."""
        kind = predictor.source_type
        self._predictor = weakref.ref(predictor)
        self._begins = not (kind.from_img or kind.tensor)

    def callbacks(self) -> dict[str, Any]:
        """What Ultralytics is to call, by event."""
        return {"on_predict_start": self.on_predict_start}

    def runs(self, model: Any) -> bool:
        """Whether a model is the one of the predictor that is at work."""
        predictor = None if self._predictor is None else self._predictor()
        return predictor is not None and running_in(predictor) is model

    def read(self, images: int, named: bool) -> tuple[tuple[Hashable, ...], bool]:
        """The streams of the batch at work, in the order of its images.

        Args:
            images: Of the batch.
            named: Whether the caller has named its streams.

        Returns:
            The stream of each image, the same one several times where several images are frames of
            it; and whether all of them begin anew.

        Raises:
            FrameError: If several pictures came as arrays, and nobody says whose they are.
        """
        begins, self._begins = self._begins, False
        predictor = self._predictor()
        kind = predictor.source_type
        if kind.from_img or kind.tensor:
            if images > 1 and not named:
                raise FrameError(
                    f"predict was called with {images} pictures in memory at once, which may be "
                    "the frames of one video or of several cameras. Frames of one video go in one "
                    "after the other, yolo.predict(frame); for cameras name them: with "
                    "bc.streams(yolo, ['cam0', 'cam1']): yolo.predict([frame0, frame1])."
                )
            return tuple(range(images)), begins
        paths = predictor.batch[0]
        if kind.stream or kind.screenshot or predictor.dataset.mode == "video":
            return tuple(map(str, paths)), begins
        return tuple(str(Path(path).parent) for path in paths), begins


def running_in(predictor: Any) -> Any:
    """The module that a predictor runs, ``None`` before its first run.

    Args:
        predictor: Of Ultralytics, or ``None``.
    """
    backend = getattr(predictor, "model", None)
    return getattr(backend, "model", None)

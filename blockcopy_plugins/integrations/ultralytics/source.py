"""Which streams the pictures in a batch of an Ultralytics predictor belong to."""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from ...errors import FrameError


class BatchSource:
    """Learns through a predictor's callbacks what it is about to run.

    A video file, each of several cameras, and a folder of pictures are streams, and so are pictures
    given as arrays, which continue from call to call, as in a loop with ``track(persist=True)``.
    """

    def __init__(self) -> None:
        self._predictor: weakref.ref | None = None
        self._begins = False

    def __deepcopy__(self, memo: dict[int, Any]) -> BatchSource:
        return memo.setdefault(id(self), BatchSource())

    def on_predict_start(self, predictor: Any) -> None:
        """Begin a run of ``predict`` or ``track``: what comes from files starts again."""
        kind = predictor.source_type
        self._predictor = weakref.ref(predictor)
        self._begins = not (kind.from_img or kind.tensor)

    def callbacks(self) -> dict[str, Any]:
        """The callbacks for Ultralytics, by event."""
        return {"on_predict_start": self.on_predict_start}

    def runs(self, model: Any) -> bool:
        """Whether the running predictor runs this model."""
        predictor = None if self._predictor is None else self._predictor()
        return predictor is not None and running_in(predictor) is model

    def suppression(self, model: Any) -> dict[str, float]:
        """The running predictor's own options of suppression.

        Returns:
            ``least_score`` and ``overlap``; nothing if no predictor runs this model.
        """
        if not self.runs(model):
            return {}
        options = self._predictor().args
        return {"least_score": options.conf, "overlap": options.iou}

    def read(self, images: int, named: bool) -> tuple[tuple[Hashable, ...], bool]:
        """The streams of the current batch, in the order of its images.

        Args:
            images: Number of images in the batch.
            named: Whether the caller has named its streams.

        Returns:
            The stream of each image, repeated if several images are frames of it; and whether all
            of them start again.

        Raises:
            FrameError: If several pictures were given as arrays, without the names of streams.
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
        predictor: A predictor of Ultralytics, or ``None``.
    """
    backend = getattr(predictor, "model", None)
    return getattr(backend, "model", None)

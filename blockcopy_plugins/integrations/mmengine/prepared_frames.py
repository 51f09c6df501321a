"""Reads the frames of a source and prepares the network's inputs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...datasets.live_frame import LiveFrame
from ...datasets.live_source import LiveSource


@dataclass(frozen=True, eq=False)
class PreparedFrame:
    """A frame on its way into the model.

    Attributes:
        frame: The source's frame.
        inputs: uint8 ``(C, H, W)``, the pipeline's result.
        sample: The data sample that goes with them.
        dropped: Frames of the source that were dropped so far.
        corrupt: Frames of the source that could not be decoded so far.
    """

    frame: LiveFrame
    inputs: Tensor
    sample: Any
    dropped: int
    corrupt: int


class PreparedFrames:
    """Reads the frames of a source and prepares each, the next one while the model runs.

    If the source reads ahead, a thread prepares the frames. Frames of a live source, of which the
    newest counts, and of a program's iterable are prepared when they are asked for.

    Args:
        source: The source; closed by :meth:`close`.
        pipeline: Returns inputs and data sample for an image, its number, and the source's name.
    """

    def __init__(self, source: LiveSource, pipeline: Callable[..., tuple[Tensor, Any]]) -> None:
        self.source = source
        self._pipeline = pipeline
        self._thread = None
        if source.is_read_ahead:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="blockcopy-prepare")
        self._next: Future[PreparedFrame | None] | None = None

    def take(self) -> PreparedFrame | None:
        """The next frame, ``None`` after the last one, and once this is closed.

        Raises:
            FrameError: If it cannot be read or prepared.
        """
        if self._thread is None:
            return self._prepare()
        prepared = (self._next or self._thread.submit(self._prepare)).result()
        self._next = None if prepared is None else self._thread.submit(self._prepare)
        return prepared

    def close(self) -> None:
        """Close the source and end the thread. Closing twice does nothing."""
        self.source.close()
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None

    def _prepare(self) -> PreparedFrame | None:
        frame = next(self.source, None)
        if frame is None:
            return None
        inputs, sample = self._pipeline(frame.image, frame.index, self.source.name)
        return PreparedFrame(frame, inputs, sample, self.source.dropped, self.source.corrupt)

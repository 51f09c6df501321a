"""The images of a folder, read once from first to last."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from blockcopy_plugins.datasets.frame_folder import FrameFolder
from blockcopy_plugins.datasets.live_frame import LiveFrame
from blockcopy_plugins.errors import BadFrameError, FrameError

logger = logging.getLogger(__name__)


class LiveFolder:
    """The frames of a folder of images. Those that cannot be read are counted and skipped.

    Args:
        folder: The images.
        start: First frame to return.
        stop: Frame to stop before, or None.
        strict: Raise if a frame cannot be read.

    Attributes:
        live: False: no frame can be missed.
        frame_rate: None: images do not state it.
        length: Number of images from ``start`` to ``stop``.
        corrupt: Images that could not be read so far.
    """

    def __init__(
        self, folder: FrameFolder, start: int = 0, stop: int | None = None, strict: bool = False
    ) -> None:
        self.live = False
        self.frame_rate = None
        self.corrupt = 0
        self._folder, self._strict = folder, strict
        self._numbers = range(start, folder.count(stop))
        self.length = len(self._numbers)

    def __iter__(self) -> Iterator[LiveFrame]:
        """Frames in order, under the numbers of their images.

        Raises:
            BadFrameError: If one cannot be read, and ``strict`` is set.
            FrameError: If none can be read.
        """
        problem, given = "", False
        for index in self._numbers:
            try:
                image = self._folder.read(index)
            except BadFrameError as error:
                if self._strict:
                    raise
                self.corrupt += 1
                problem = problem or str(error)
                if self.corrupt == 1:
                    logger.warning("frames are skipped, the first: %s", error)
                continue
            given = True
            yield LiveFrame(index, None, image)
        if self.corrupt and not given:
            raise FrameError(f"none of {self.corrupt} frames can be read; the first: {problem}")

    def close(self) -> None:
        """Does nothing: no file is kept open."""

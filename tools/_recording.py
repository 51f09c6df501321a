"""A video that shows what a model finds in another video, written while that one is read."""

from __future__ import annotations

import time
from typing import Any

from blockcopy_plugins.visualization import VideoWriter, usable_rate

_LIVE_RATE = 25
_FOLDER_RATE = 10


class Recording:
    """A tool's OUT: each picture at the time of its frame, even where frames are missing.

    Pictures of a file have the times that its container states, as FFmpeg's tools would give them.
    Those of a folder come at 10 a second, and those of a live source when they are ready. Where a
    frame is missing, the one before it is shown for longer. However the ``with`` block ends, OUT is
    a video of everything up to then; without any picture, there is no file.

    Args:
        path: Where to write.
        source: The `LiveSource` whose frames are shown.

    Attributes:
        pictures: Frames shown, each counted once however often it was written.
        cpu_seconds: Processor time of the encoding; the encoder has no threads of its own.
    """

    def __init__(self, path: str, source: Any) -> None:
        self.source = source
        self.timed = False
        rate = _LIVE_RATE if source.live else usable_rate(source.frame_rate, _FOLDER_RATE)
        self.writer = VideoWriter(path, fps=rate, quick=True, keep_partial=True)
        self.rate = rate
        self.pictures, self.cpu_seconds = 0, 0.0
        self._before: Any = None

    def __enter__(self) -> Recording:
        self.writer.open()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.writer.__exit__(*exception)

    def add(self, frame: Any, picture: Any) -> None:
        """Show a picture in its frame's place.

        Args:
            frame: With ``index`` and ``time`` of the frame.
            picture: A `YuvPicture`; resized if its size is not that of the first one.
        """
        size = self.writer.frame_size
        if size is not None and picture.shape != size:
            # The camera changed its resolution, but a video has only one.
            picture = picture.resized(size)
        if not self.pictures:
            self.timed = not self.source.live and frame.time is not None
            self.writer.sample_aspect_ratio = self.source.sample_aspect_ratio
        start = time.thread_time()
        if self.timed:
            self.writer.write(picture, frame.time)
        else:
            self._fill(frame, picture)
        self.cpu_seconds += time.thread_time() - start
        self.pictures += 1

    def _fill(self, frame: Any, picture: Any) -> None:
        if self.source.live:
            due, filled = 1 + round(frame.time * self.rate), picture
        else:
            due = 1 + frame.index - self.source.start
            filled = picture if self._before is None else self._before
        while self.writer.frames_written < due - 1:
            self.writer.write(filled)
        if self.writer.frames_written < due:
            self.writer.write(picture)
        self._before = picture

"""Any source of frames, read once from first to last."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from typing import Any

import numpy as np

from blockcopy_plugins.addresses import masked
from blockcopy_plugins.datasets.frame_folder import FrameFolder
from blockcopy_plugins.datasets.frame_source import open_frames
from blockcopy_plugins.datasets.live_arrays import LiveArrays
from blockcopy_plugins.datasets.live_camera import LiveCamera
from blockcopy_plugins.datasets.live_decoder import LiveDecoder
from blockcopy_plugins.datasets.live_folder import LiveFolder
from blockcopy_plugins.datasets.live_frame import LiveFrame
from blockcopy_plugins.datasets.live_read_ahead import ReadAhead
from blockcopy_plugins.datasets.motion_accumulator import no_motion_vectors
from blockcopy_plugins.errors import ConfigError, FrameError, StateError

_AHEAD = 4  # Waiting decoded frames: enough for a slow key frame, and little memory.


class LiveSource:
    """Iterates once over the frames of a file, folder, camera, address or program.

    Files, folders, cameras and addresses are read in a separate thread. A live source always gives
    the newest frame: if frames come faster than they are asked for, the older ones are dropped and
    counted.

    Args:
        source: A video file, a folder of frames, the index of a camera, an address such as
            ``rtsp://...`` or ``http://...``, or an iterable of frames (uint8, shape (H, W, 3), BGR;
            None for one that failed to arrive), which is iterated over in the thread that asks for
            the frames.
        start: First frame to return.
        frames: Number of frames, including dropped ones; None for all.
        drop: Drop frames that come too fast. None: for cameras, and for addresses that state no
            duration, as live ones do. An iterable is asked for each frame, so none is dropped.
        timeout: Seconds to wait for a camera or an address before it counts as gone.
        strict_frames: Raise if a frame cannot be read. By default it is skipped and counted, and
            the frames after it keep their numbers.

    Attributes:
        name: Its name; for an address, without passwords and tokens.
        live: Whether it goes on by itself, so that a frame that is read too late is gone.
        frame_rate: Frames per second, or None if it is not stated.
        length: Number of frames as stated (may be wrong), or None.
        start: First frame to return.

    Raises:
        ConfigError: If ``start``, ``frames`` or ``timeout`` is out of range, or ``source`` is none
            of these.
        FrameError: If it cannot be opened.

    Examples:
        >>> with LiveSource('rtsp://camera/stream') as source:
        ...     for frame in source:
        ...         print(frame.index, frame.time, frame.image.shape, source.dropped)
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | int | Iterable[np.ndarray | None],
        *,
        start: int = 0,
        frames: int | None = None,
        drop: bool | None = None,
        timeout: float = 10.0,
        strict_frames: bool = False,
    ) -> None:
        if start < 0 or (frames is not None and frames < 1) or not timeout > 0:
            raise ConfigError(
                f"start={start}, frames={frames}, timeout={timeout}; expected start >= 0, "
                "frames >= 1 and timeout > 0"
            )
        stop = None if frames is None else start + frames
        self._reader = _open(source, start, stop, timeout, strict_frames)
        self.name = _name(source)
        self.live: bool = self._reader.live
        self.frame_rate: float | None = self._reader.frame_rate
        self.length: int | None = self._reader.length
        self.start, self._any = start, False
        self._frames: Iterator[LiveFrame] | None = None
        self._ahead: ReadAhead | None = None
        self._closed = False
        if isinstance(source, (str, os.PathLike, int)):
            drop = self._drops = self.live if drop is None else drop
            self._ahead = ReadAhead(
                self._reader,
                ahead=1 if drop else _AHEAD,
                drop=drop,
                finish=self._reader.close,
                patience=timeout + 1,
            )

    @property
    def is_read_ahead(self) -> bool:
        """Whether frames are read before they are asked for, and each of them is given."""
        return self._ahead is not None and not self._drops

    @property
    def dropped(self) -> int:
        """Frames so far that were not delivered, because newer ones were there."""
        return 0 if self._ahead is None else self._ahead.dropped

    @property
    def cpu_seconds(self) -> float:
        """Processor time of reading, decoding and converting so far, if a thread does that."""
        return 0.0 if self._ahead is None else self._ahead.cpu_seconds

    @property
    def corrupt(self) -> int:
        """Frames so far that were lost on the way or could not be decoded."""
        return self._reader.corrupt

    @property
    def sample_aspect_ratio(self) -> Fraction | None:
        """Width of a pixel / its height, after the first frame was read; None if it is 1."""
        return getattr(self._reader, "sample_aspect_ratio", None)

    def export_motion(self) -> None:
        """Give the codec's motion vectors with the frames, if it has any.

        Dropped frames lose no motion: a frame says how far the video has moved up to it.

        Raises:
            FrameError: If the source has none: it is not a video that FFmpeg decodes, or its codec
                codes each frame by itself. A codec for which FFmpeg gives no vectors is noticed
                with the first frames.
            StateError: If frames were already read.
        """
        if self._frames is not None:
            raise StateError(
                f"frames of {self.name!r} were already read, without their motion vectors; call "
                "export_motion() before the first one"
            )
        if not isinstance(self._reader, LiveDecoder):
            raise no_motion_vectors(self.name, "its frames are pictures, not a coded video")
        self._reader.export_motion()

    def __iter__(self) -> Iterator[LiveFrame]:
        return self

    def __next__(self) -> LiveFrame:
        """The next frame.

        Raises:
            StopIteration: If the source has ended or is closed.
            BadFrameError: If a frame cannot be read, and ``strict_frames`` is set.
            FrameError: If no frame can be read, one is not a picture, or the source ends before its
                start.
        """
        if self._closed:
            raise StopIteration
        if self._frames is None:
            self._frames = iter(self._reader if self._ahead is None else self._ahead)
        frame = next(self._frames, None)
        if frame is None:
            if self.start and not self._any and not self._closed:
                self.close()
                raise FrameError(f"{self.name} ends before frame {self.start}; lower the start")
            raise StopIteration
        self._any = True
        return frame

    def close(self) -> None:
        """Stop reading; the thread ends. Closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        (self._reader if self._ahead is None else self._ahead).close()

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def _open(
    source: Any, start: int, stop: int | None, timeout: float, strict: bool
) -> LiveArrays | LiveCamera | LiveDecoder | LiveFolder:
    if isinstance(source, int) and not isinstance(source, bool):
        return LiveCamera(source, start, stop, timeout, strict)
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        if "://" in path:
            return LiveDecoder(path, start, stop, timeout, strict)
        # These use the same checks as the other tools.
        found = open_frames(path)
        if isinstance(found, FrameFolder):
            return LiveFolder(found, start, stop, strict)
        return LiveDecoder(path, start, stop, timeout, strict)
    if isinstance(source, Iterable) and not isinstance(source, (bytes, np.ndarray, dict)):
        length = len(source) if hasattr(source, "__len__") else None
        if length is not None:
            length = max(0, (length if stop is None else min(length, stop)) - start)
        return LiveArrays(islice(source, start, stop), start, length, strict)
    raise ConfigError(
        f"the source is a {type(source).__name__}, expected a path, the index of a camera, an "
        "address such as 'rtsp://...', or an iterable of frames"
    )


def _name(source: Any) -> str:
    if isinstance(source, int):
        return f"camera {source}"
    if isinstance(source, (str, os.PathLike)):
        return masked(os.fspath(source))
    return type(source).__name__

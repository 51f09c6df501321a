"""Writing H.264 videos that browsers play."""

from __future__ import annotations

import logging
import os
import uuid
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np

from blockcopy_plugins.errors import ConfigError, FrameError, StateError
from blockcopy_plugins.visualization._checks import check_image

logger = logging.getLogger(__name__)

# ISO/IEC 23091-2 (the same numbers in H.264): primaries, transfer and matrix of ITU-R BT.709.
_BT709 = 1
_LIMITED_RANGE = 1  # luma 16 to 235, what players expect


class VideoWriter:
    """Writes frames to an MP4 file (H.264, yuv420p, index in front) that browsers play as it loads.

    The file appears under its name only when the writer was closed without an error. Until then the
    frames go to a hidden file beside it, which is removed when the ``with`` block is left by an
    exception, so that an aborted run leaves neither a broken video nor harms an older one.

    H.264 in yuv420p needs an even width and height: where a frame has an odd one, its last row or
    column is repeated once.

    Args:
        path (str | Path): The file to write; must end in ``.mp4``. Missing folders are made.
        fps (float | Fraction): Frames a second.
        bgr (bool): The frames' channel order is blue, green, red (as OpenCV reads them) instead of
            red, green, blue. Defaults to False.
        crf (int): x264's constant rate factor, 0 (lossless) to 51 (worst). Defaults to 23.
        preset (str): x264's preset: slower ones make smaller files. Defaults to ``'veryfast'``.

    Raises:
        ConfigError: If the suffix, ``fps`` or ``crf`` is out of range.

    Examples:
        >>> with VideoWriter('out.mp4', fps=10) as video:
        ...     for frame in frames:          # (H, W, 3) uint8, RGB
        ...         video.write(frame)
    """

    def __init__(
        self,
        path: str | Path,
        fps: float | Fraction = 25,
        *,
        bgr: bool = False,
        crf: int = 23,
        preset: str = "veryfast",
    ) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise ConfigError(
                f"a video must be written to a file that ends in .mp4, but got {str(path)!r}"
            )
        # Written so that NaN fails too. 1000 is far above any display and within the time base.
        if not 0 < fps <= 1000:
            raise ConfigError(f"fps must be above 0 and at most 1000, but got {fps}")
        if not 0 <= crf <= 51:
            raise ConfigError(f"crf must be from 0 (lossless) to 51 (worst), but got {crf}")
        self.fps = Fraction(fps).limit_denominator(1001)
        self.bgr = bgr
        self.crf = crf
        self.preset = preset
        self.frames_written = 0
        self._partial = self.path.with_name(f".{self.path.stem}.{uuid.uuid4().hex[:8]}.part.mp4")
        self._container: av.container.OutputContainer | None = None
        self._stream: av.VideoStream | None = None
        self._frame_size: tuple[int, int] | None = None

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """tuple[int, int] | None: (height, width) of the frames, None before the first."""
        return self._frame_size

    def __enter__(self) -> VideoWriter:
        return self.open()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self.close()
        else:
            self.abort()

    def open(self) -> VideoWriter:
        """Makes the file beside the final one, so that a path that cannot be written fails now.

        Returns:
            VideoWriter: The writer itself.

        Raises:
            StateError: If it is open already.
            OSError: If the path cannot be written (no right to, a folder of that name, ...).
        """
        if self._container is not None:
            raise StateError(f"the video {self.path} is open already")
        if self.path.is_dir():
            raise IsADirectoryError(
                f"cannot write the video {self.path}: a folder has that name; give another name"
            )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(
                str(self._partial), "w", format="mp4", options={"movflags": "+faststart"}
            )
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot write the video {self.path} ({error.strerror}); "
                "give a path in a folder that you may write to",
            ) from error
        self._stream = None
        self._frame_size = None
        self.frames_written = 0
        return self

    def write(self, frame: np.ndarray) -> None:
        """Appends a frame.

        Args:
            frame (np.ndarray): uint8, (H, W, 3), RGB (BGR where the writer was made with
                ``bgr=True``); every frame of a video has the same size.

        Raises:
            StateError: If the writer is not open.
            FrameError: If the frame is no such array, or has another size than the first one.
        """
        if self._container is None:
            raise StateError(
                f"the video {self.path} is not open; write inside 'with VideoWriter(...) as video:'"
            )
        check_image(frame, "frame")
        size = (frame.shape[0], frame.shape[1])
        if self._stream is None:
            self._stream = self._add_stream(size)
            self._frame_size = size
        elif size != self._frame_size:
            raise FrameError(
                f"frame {self.frames_written} is {size[1]}x{size[0]} pixels, but the video "
                f"{self.path} has {self._frame_size[1]}x{self._frame_size[0]}; resize the frame "
                "or open another video"
            )
        odd_rows, odd_columns = size[0] % 2, size[1] % 2
        if odd_rows or odd_columns:
            frame = np.pad(frame, ((0, odd_rows), (0, odd_columns), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(
            np.ascontiguousarray(frame), format="bgr24" if self.bgr else "rgb24"
        )
        # Untagged colours are guessed by each player from the size; BT.709 is said and used.
        picture = picture.reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
        )
        picture.pts = self.frames_written
        picture.time_base = 1 / self.fps
        self._container.mux(self._stream.encode(picture))
        self.frames_written += 1

    def close(self) -> Path:
        """Ends the video and gives the file its name. Closing twice does nothing.

        Returns:
            Path: The file.

        Raises:
            StateError: If no frame was written: there is no video without one.
        """
        if self._container is None:
            return self.path
        if self._stream is None:
            self.abort()
            raise StateError(
                f"no frame was written to {self.path}, so there is no video; "
                "check that the input holds frames"
            )
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            os.replace(self._partial, self.path)
        except BaseException:
            self.abort()
            raise
        self._container = None
        return self.path

    def abort(self) -> None:
        """Drops what was written; a file that had the name before stays. Never raises OSError."""
        container, self._container = self._container, None
        if container is None:
            return
        try:
            container.close()
        except OSError as error:  # e.g. a full disk: the reason for the abort is the news, not this
            logger.warning("closing the unfinished video %s failed: %s", self._partial, error)
        try:
            self._partial.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("the unfinished video %s stays behind: %s", self._partial, error)

    def _add_stream(self, size: tuple[int, int]) -> av.VideoStream:
        stream = self._container.add_stream(
            "libx264", rate=self.fps, options={"crf": str(self.crf), "preset": self.preset}
        )
        stream.height, stream.width = (length + length % 2 for length in size)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / self.fps
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
        return stream

"""Writing H.264 videos that browsers play."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np

from blockcopy_plugins.errors import ConfigError, FrameError, StateError
from blockcopy_plugins.part_files import PartFile
from blockcopy_plugins.visualization._checks import check_image
from blockcopy_plugins.visualization.yuv_picture import BT601, BT709, YuvPicture

logger = logging.getLogger(__name__)

_RESCALERS = {BT709: "ITU709", BT601: "ITU601"}  # PyAV's names of the matrices
_LIMITED_RANGE = 1  # luma 16 to 235, what players expect

# Time stamps of frames that come with times: all common rates are whole numbers of these.
_TICKS = 90000
_LONGEST = 40000.0
"""Longest time that a frame is shown, seconds; MP4 counts a frame's ticks in 32 bits."""

# While the file is written, it consists of parts of a second, each of which can be played by
# itself, so that a full disk costs only the last of them.
_IN_PARTS = {
    "movflags": "+empty_moov+delay_moov+default_base_moof",
    "frag_duration": "1000000",
}


class VideoWriter:
    """Writes frames to an MP4 file (H.264, yuv420p, index in front) that browsers play as it loads.

    The file appears under its name only once the writer is closed. Until then the frames go to a
    hidden part file beside it (`part_files`). If an exception leaves the ``with`` block, that file
    is removed, so that an aborted run neither leaves a broken video nor harms an older one; with
    ``keep_partial`` the exception ends the video where it is instead. If the disk is full, the
    video ends with what could be written.

    H.264 in yuv420p needs an even width and height: if a frame has an odd one, its last row or
    column is repeated once.

    Args:
        path (str | Path): The file to write; must end in ``.mp4``. Missing folders are made.
        fps (float | Fraction): Frames per second, for frames that come without times.
        bgr (bool): The frames' channel order is blue, green, red (as OpenCV reads them) instead of
            red, green, blue. Defaults to False.
        crf (int): x264's constant rate factor, 0 (lossless) to 51 (worst). Defaults to 23.
        preset (str): x264's preset: slower ones make smaller files. Defaults to ``'veryfast'``.
        quick (bool): Encode beside a model that is at work: for about a quarter of the defaults'
            processor time, in one thread, to larger files (a third, with a fixed camera). ``crf``
            then is the same quantiser for all frames, and ``preset`` is not used.
        keep_partial (bool): Keep what was written when an exception leaves the ``with`` block.
        sample_aspect_ratio (Fraction | None): Width of a pixel / its height, for players to show
            it. None states nothing, which means 1.

    Raises:
        ConfigError: If the suffix, ``fps`` or ``crf`` is out of range.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float | Fraction = 25,
        *,
        bgr: bool = False,
        crf: int = 23,
        preset: str = "veryfast",
        quick: bool = False,
        keep_partial: bool = False,
        sample_aspect_ratio: Fraction | None = None,
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
        self.fps = Fraction(fps).limit_denominator(1001) or Fraction(1, 1001)
        self.bgr = bgr
        self.crf = crf
        self.preset = preset
        self.quick = quick
        self.keep_partial = keep_partial
        self.sample_aspect_ratio = sample_aspect_ratio
        self.frames_written = 0
        self._part: PartFile | None = None
        self._container: av.container.OutputContainer | None = None
        self._stream: av.VideoStream | None = None
        self._frame_size: tuple[int, int] | None = None
        self._matrix = BT709
        self._first_time: float | None = None
        self._last = -1  # time stamp of the last frame

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
        elif self.keep_partial and self._stream is not None:
            try:
                self.close()
            except OSError as error:  # the exception matters more than this
                logger.warning("%s", error)
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
            self._part = PartFile(self.path)
            self._container = av.open(
                _address(self._part.path), "w", format="mp4", options=_IN_PARTS
            )
        except OSError as error:
            if self._part is not None:
                self._part.drop()
            raise OSError(
                error.errno,
                f"cannot write the video {self.path} ({error.strerror}); "
                "give a path in a folder that you may write to",
            ) from error
        self._stream = self._frame_size = self._first_time = None
        self.frames_written, self._last = 0, -1
        return self

    def write(self, frame: np.ndarray | YuvPicture, time: float | None = None) -> None:
        """Appends a frame.

        Args:
            frame (np.ndarray | YuvPicture): uint8, (H, W, 3), RGB (BGR where the writer was made
                with ``bgr=True``), or a whole picture in planes, which is encoded as it is; every
                frame of a video has the same size.
            time (float | None): When to show it, seconds; the first frame's time is taken as 0.
                Either all frames of a video have a time or none. A frame whose time does not follow
                the previous frame's is shown right after that frame.

        Raises:
            StateError: If the writer is not open.
            FrameError: If the frame is not such an array, or has another size than the first one.
            OSError: If it cannot be written; the disk may be full.
        """
        if self._container is None:
            raise StateError(
                f"the video {self.path} is not open; write inside 'with VideoWriter(...) as video:'"
            )
        is_array = not isinstance(frame, YuvPicture)
        if is_array:
            check_image(frame, "frame")
        elif frame.shape != (frame.frame.height, frame.frame.width):
            raise FrameError(
                f"the frame is a part of {frame.shape[1]}x{frame.shape[0]} pixels of a picture; "
                "give the whole picture, or copy the part into one"
            )
        size = (frame.shape[0], frame.shape[1])
        if self._stream is None:
            self._first_time = time
            # Players guess untagged colours from the size, so that the matrix used is stated too.
            self._matrix = BT709 if is_array else frame.matrix
            self._stream = self._add_stream(size)
            self._frame_size = size
        elif size != self._frame_size:
            raise FrameError(
                f"frame {self.frames_written} is {size[1]}x{size[0]} pixels, but the video "
                f"{self.path} has {self._frame_size[1]}x{self._frame_size[0]}; resize the frame "
                "or open another video"
            )
        if is_array:
            frame = YuvPicture.of_array(frame, self.bgr, self._matrix)
        picture = frame.frame
        if frame.matrix != self._matrix:
            given, wanted = (_RESCALERS[matrix] for matrix in (frame.matrix, self._matrix))
            picture = picture.reformat(src_colorspace=given, dst_colorspace=wanted)
        picture.pts = self._last = self._stamp(time)
        picture.time_base = self._time_base
        if self._first_time is not None and hasattr(picture, "duration"):  # PyAV 14 and newer
            picture.duration = max(1, round(_TICKS / self.fps))
        self._mux(picture)
        self.frames_written += 1

    def close(self) -> Path:
        """Ends the video and gives the file its name. Closing twice does nothing.

        Returns:
            Path: The file.

        Raises:
            StateError: If no frame was written: there is no video without one.
            OSError: If the file could not be completed. The part that can be played is kept.
        """
        if self._container is None:
            return self.path
        if self._stream is None:
            self.abort()
            raise StateError(
                f"no frame was written to {self.path}, so there is no video; "
                "check that the input contains frames"
            )
        problem: OSError | None = None
        try:
            try:
                self._mux(None)
            except OSError as error:
                problem = error
            try:
                self._container.close()
            except OSError as error:
                problem = problem or error
            self._container = None
            self._finish(problem)
        except BaseException:
            self.abort()
            raise
        self._part = None
        return self.path

    def abort(self) -> None:
        """Drops what was written; an older file of that name stays. Never raises OSError."""
        container, self._container = self._container, None
        if container is not None:
            try:
                container.close()
            except OSError as error:  # e.g. a full disk: the reason for the abort matters more
                logger.warning("closing the unfinished video of %s failed: %s", self.path, error)
        part, self._part = self._part, None
        if part is not None:
            part.drop()

    @property
    def _time_base(self) -> Fraction:
        return 1 / self.fps if self._first_time is None else Fraction(1, _TICKS)

    def _stamp(self, time: float | None) -> int:
        if self._first_time is None:
            return self.frames_written
        usual = self._last + max(1, round(_TICKS / self.fps))
        if time is None:
            return usual if self.frames_written else 0
        # NaN is not a time either.
        wanted = round((time - self._first_time) * _TICKS) if time == time else usual
        return min(max(wanted, self._last + 1), self._last + int(_LONGEST * _TICKS))

    def _mux(self, picture: av.VideoFrame | None) -> None:
        try:
            self._container.mux(self._stream.encode(picture))
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot write the video {self.path} any further ({error.strerror}); it has "
                f"{self.frames_written} frames so far. Make room, or write to another disk",
            ) from None

    def _finish(self, problem: OSError | None) -> None:
        """Move the index to the front, if there is room for it, and give the file its name."""
        given, whole = problem, problem is None
        if whole:
            try:
                front = PartFile(self.path)
            except OSError as error:
                problem = error
            else:
                try:
                    copied = _with_index_in_front(self._part.path, front.path)
                except OSError as error:
                    front.drop()
                    problem = error
                except av.error.FFmpegError as error:
                    front.drop()
                    problem, whole = OSError(errno.EIO, str(error)), False
                except BaseException:
                    front.drop()
                    raise
                else:
                    # FFmpeg closes a file on a full disk without reporting it.
                    whole = copied >= self.frames_written
                    if whole:
                        self._part.drop()
                        front.finish()
                        return
                    front.drop()
                    said = f"{copied} of {self.frames_written} frames could be written"
                    problem = OSError(errno.ENOSPC, said)
        if whole:
            whole = _frames_in(self._part.path) >= self.frames_written
        if not whole:
            _cut_torn_end(self._part.path)
        if not _can_be_played(self._part.path):
            reason = os.strerror(problem.errno) if problem.errno else problem
            raise OSError(
                problem.errno,
                f"cannot write the video {self.path} ({reason}); nothing of its "
                f"{self.frames_written} frames can be played, so there is none. Make room, or "
                "write to another disk",
            ) from problem
        self._part.finish()
        reason = problem.strerror or problem
        if given is not None:
            raise given
        if not whole:
            raise OSError(
                problem.errno,
                f"the video {self.path} could not be finished ({reason}); it ends with what could "
                "be written. Make room, or write to another disk",
            )
        logger.warning(
            "the video %s is complete, but its index could not be moved to the front (%s): players "
            "that stream it must first read it to its end",
            self.path,
            reason,
        )

    def _add_stream(self, size: tuple[int, int]) -> av.VideoStream:
        # For frames with times, the rate is only a hint for the encoder.
        rate = self.fps if self._first_time is None else min(max(self.fps, 1), 240)
        options = {"crf": str(self.crf), "preset": self.preset}
        if self.quick:
            # Without a rate factor x264 does not look at each frame twice.
            options = {"qp": str(self.crf), "preset": "ultrafast"}
        if self._first_time is not None:
            # No frames that are decoded before they are shown: with frames at arbitrary times, the
            # container would state an end before the last one.
            options["bf"] = "0"
        stream = self._container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = (length + length % 2 for length in size)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = self._time_base
        if self.quick:
            context.thread_count = 1
        if self.sample_aspect_ratio:
            context.sample_aspect_ratio = self.sample_aspect_ratio
        context.colorspace = context.color_primaries = context.color_trc = self._matrix
        context.color_range = _LIMITED_RANGE
        return stream


def usable_rate(stated: float | None, otherwise: float = 10.0) -> float:
    """A rate for `VideoWriter` from what a container states, which may be absurd.

    Args:
        stated: Frames per second by the container, or None.
        otherwise: The value if it states none.

    Returns:
        A rate from 1 to 240. If frames come with times, it is only a hint for the encoder.
    """
    return min(max(float(stated or otherwise), 1.0), 240.0)


def _address(path: Path) -> str:
    """A path in the form that FFmpeg needs: one with a colon would be read as an address."""
    return f"file:{path}"


def _with_index_in_front(source: Path, target: Path) -> int:
    """Copy a video without encoding it again; returns the number of its frames."""
    frames = 0
    options = {"movflags": "+faststart"}
    with (
        av.open(_address(source)) as read,
        av.open(_address(target), "w", format="mp4", options=options) as written,
    ):
        stream = read.streams.video[0]
        if hasattr(written, "add_stream_from_template"):
            copy = written.add_stream_from_template(stream)
        else:  # before PyAV 14
            copy = written.add_stream(template=stream)
        for packet in read.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                written.mux(packet)
                frames += 1
    return frames


def _frames_in(path: Path) -> int:
    """How many frames a file has whose pictures are there to their end."""
    end, frames = path.stat().st_size, 0
    with contextlib.suppress(OSError, av.error.FFmpegError), av.open(_address(path)) as container:
        for packet in container.demux(container.streams.video[0]):
            frames += packet.size > 0 and packet.pos + packet.size <= end and not packet.is_corrupt
    return frames


def _cut_torn_end(path: Path) -> None:
    """Cut off the incomplete end of a file that consists of parts."""
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        at = whole = 0
        while at + 8 <= end:
            file.seek(at)
            size, kind = int.from_bytes(file.read(4), "big"), file.read(4)
            if size == 1:  # the size is too large for 32 bits and follows
                size = int.from_bytes(file.read(8), "big")
            if size < 8 or at + size > end:
                break
            at += size
            if kind == b"mdat":  # the pictures of a part, after their description
                whole = at
        if whole:
            file.truncate(whole)


def _can_be_played(path: Path) -> bool:
    with contextlib.suppress(OSError, av.error.FFmpegError), av.open(_address(path)) as container:
        return next(container.decode(video=0), None) is not None
    return False

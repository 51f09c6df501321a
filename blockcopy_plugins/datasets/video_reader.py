"""Reads the frames of a video file by exact frame number."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from blockcopy_plugins.datasets.lost_frames import LostFrame
from blockcopy_plugins.datasets.video_decoder import VideoDecoder, frame_shape
from blockcopy_plugins.errors import BadFrameError, ConfigError, FrameError
from blockcopy_plugins.image_names import is_image
from blockcopy_plugins.policy import MotionField

if TYPE_CHECKING:
    import av

logger = logging.getLogger(__name__)


class VideoReader:
    """A video file as a sequence of frames, by exact number.

    Frame ``n`` is the ``n``-th frame (from 0) that decoding from the file's start gives; one that
    cannot be decoded, or has another size than the first, is a bad frame and also has a number.
    Asking for the next frame costs one decoded frame; a jump forward decodes the frames in between
    (without the colour conversion); a jump backward decodes from the start again. The container's
    own seeking is not used: with many codecs it lands on another frame than the requested one, and
    frame numbers that are off by some frames make annotations silently wrong.

    The file is opened when it is first needed, once in each process: a reader can be pickled,
    copied and used after a fork (each worker of a DataLoader decodes for itself).

    Args:
        path: The video file; any that FFmpeg can decode.
        motion: Export the codec's motion vectors, see :meth:`read_motion`.

    Raises:
        FrameError: If there is no such file, it is empty, or it is an image.
    """

    def __init__(self, path: str | os.PathLike[str], motion: bool = False) -> None:
        self.path = os.fspath(path)
        self._with_motion = motion
        if not os.path.isfile(self.path):
            raise FrameError(
                f"there is no video file {self.path!r} (the working directory is {os.getcwd()!r}); "
                "correct the path"
            )
        if os.path.getsize(self.path) == 0:
            raise FrameError(f"the video file {self.path!r} is empty (0 bytes); copy it again")
        if is_image(self.path):
            raise FrameError(
                f"{self.path!r} is an image, not a video; to read a folder of frames give the "
                "folder's path"
            )
        self._length: int | None = None
        self._shape: tuple[int, int] | None = None
        self._bad: dict[int, str] = {}  # why frames cannot be used, by number, as far as is known
        self._forget_decoder()

    # ------------------------------------------------------------------ what the file contains

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the frames, px.

        Raises:
            FrameError: If the file cannot be decoded.
        """
        index = 0
        while self._shape is None:
            try:
                if self._decode_to(index) is None:
                    raise self._no_frame()
            except BadFrameError:
                index += 1
        return self._shape

    @property
    def frame_rate(self) -> float | None:
        """Frames per second as the container states, or None if it does not.

        Raises:
            FrameError: If the file cannot be opened.
        """
        with closing(VideoDecoder(self.path)) as decoder:
            return decoder.frame_rate

    @property
    def sample_aspect_ratio(self) -> Fraction | None:
        """Width of a pixel / its height as the container states and as shown; None if it is 1.

        Raises:
            FrameError: If the file cannot be decoded.
        """
        with closing(VideoDecoder(self.path)) as decoder:
            while isinstance(frame := decoder.next(), LostFrame):
                pass
            return None if frame is None else decoder.sample_aspect_ratio_of(frame)

    @property
    def stated_length(self) -> int | None:
        """Number of frames as the container states (may be wrong), or None if it does not.

        Raises:
            FrameError: If the file cannot be opened.
        """
        with closing(VideoDecoder(self.path)) as decoder:
            return decoder.stated_length

    def count(self, stop: int | None = None) -> int:
        """Number of frames, including bad ones.

        The container's count is often an estimate from duration and frame rate, so the file is
        decoded once (without colour conversion); the number is kept.

        Args:
            stop: Count at most this many frames.

        Returns:
            The number of frames, at most ``stop``.

        Raises:
            FrameError: If the file cannot be opened or contains no frame.
        """
        if self._length is None:
            with closing(VideoDecoder(self.path)) as decoder:
                counted = 0
                while stop is None or counted < stop:
                    frame = decoder.next()
                    if frame is None:
                        break
                    self._take_note(frame, counted)
                    counted += 1
                stated = decoder.stated_length
            if counted == len(self._bad):
                raise self._no_frame()
            if stop is not None and counted >= stop:
                return counted  # the file may go on, so nothing is known about its length
            self._length = counted
            if stated is not None and stated != counted:
                logger.warning(
                    "%s states %d frames, of which %d can be decoded; the latter number is used. "
                    "If frames are missing, the file is cut off: copy or re-encode it",
                    self.path,
                    stated,
                    counted,
                )
        return self._length if stop is None else min(self._length, stop)

    def __len__(self) -> int:
        return self.count()

    def bad_frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> dict[int, str]:
        """Decode each frame once, unless they have already been counted.

        Args:
            start: First frame number.
            stop: Frame number to stop before; None for the end of the file.
            step: Distance from one frame to the next.

        Returns:
            The reasons why frames cannot be read, by frame number.

        Raises:
            FrameError: If the file cannot be opened or contains no frame.
        """
        wanted = range(start, self.count(stop), step)
        return {number: why for number, why in sorted(self._bad.items()) if number in wanted}

    # ------------------------------------------------------------------ frames

    def read(self, index: int) -> np.ndarray:
        """Read one frame.

        Args:
            index: Frame number, from 0.

        Returns:
            The frame, uint8, shape (H, W, 3), BGR; the caller owns it.

        Raises:
            IndexError: If ``index`` is negative.
            BadFrameError: If the frame cannot be decoded, or has another size than the first one.
            FrameError: If the file ends before that frame, or cannot be decoded.
        """
        frame = self._frame_at(index)
        return self._decoder.to_bgr(frame)

    def time(self, index: int) -> float | None:
        """When a frame should be shown, as the container states; free after reading that frame.

        Args:
            index: Frame number, from 0.

        Returns:
            Seconds, or None if it does not state it.

        Raises:
            FrameError: As `read`.
        """
        return self._frame_at(index).time

    def read_motion(self, index: int) -> MotionField:
        """How far the video has moved from its first frame to another one; free after reading that.

        Args:
            index: Frame number, from 0.

        Returns:
            The field, by the codec's motion vectors.

        Raises:
            ConfigError: If the reader was made without ``motion=True``.
            IndexError: If ``index`` is negative.
            FrameError: If the file has no motion vectors, ends before that frame, or cannot be
                decoded.
        """
        if not self._with_motion:
            raise ConfigError(
                f"the motion of {self.path!r} was asked for, but its reader does not export it; "
                "open it with VideoReader(path, motion=True)"
            )
        self._frame_at(index)
        return self._decoder.motion

    def frames(
        self, start: int = 0, stop: int | None = None, step: int = 1
    ) -> Iterator[np.ndarray]:
        """Iterate over the frames that can be read, without counting them first.

        Args:
            start: First frame number.
            stop: Frame number to stop before; None for the end of the file.
            step: Distance from one frame to the next.

        Yields:
            Frames, uint8, shape (H, W, 3), BGR; bad ones are left out.

        Raises:
            ValueError: If ``step`` is below 1.
            FrameError: If the file ends before ``stop``, or contains no frame.
        """
        if step < 1:
            raise ValueError(f"step must be at least 1, but got {step}")
        index = start
        while stop is None or index < stop:
            try:
                if stop is None and index > start and self._decode_to(index) is None:
                    return
                frame = self.read(index)
            except BadFrameError:
                index += step
                continue
            yield frame
            index += step

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.frames()

    # ------------------------------------------------------------------ the open file

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._decoder is not None:
            self._decoder.close()
        self._decoder = self._frame = None
        self._next = 0

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("path", "_with_motion", "_length", "_shape", "_bad")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget_decoder()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def _forget_decoder(self) -> None:
        self._decoder: VideoDecoder | None = None
        # The frame decoded last, number _next - 1; None if that is a bad one.
        self._frame: av.VideoFrame | None = None
        self._next = 0  # number of the frame that the decoder gives next
        self._process = os.getpid()

    def _frame_at(self, index: int) -> av.VideoFrame:
        """Frame ``index``, which must exist."""
        frame = self._decode_to(index)
        if frame is None:
            if self._next == 0:
                raise self._no_frame()
            raise FrameError(
                f"frame {index} of {self.path!r} cannot be decoded: decoding ends after "
                f"{self._next} frames. The file is shorter than assumed, cut off or corrupt; "
                "check it with ffprobe, re-encode it, or ask for fewer frames"
            )
        return frame

    def _decode_to(self, index: int) -> av.VideoFrame | None:
        """Frame ``index``, or None if the file ends before it.

        Raises:
            BadFrameError: If it exists, but cannot be read.
        """
        if index < 0:
            raise IndexError(f"frame numbers start at 0, but got {index}")
        # The frame decoded last is kept, so that reading it once more is free. A file that was
        # opened before a fork shares its position with the parent process and is opened again.
        if self._process != os.getpid() or self._next > index + 1:
            self.close()
        if self._decoder is None:
            self._decoder = self._open()
            self._process = os.getpid()
        while self._next <= index:
            try:
                frame = self._decoder.next()
            except FrameError:
                self.close()  # it would go on with the frame after this one
                raise
            if frame is None:
                return None
            self._frame = frame if self._take_note(frame, self._next) else None
            self._next += 1
        if self._frame is None:
            raise BadFrameError(self._bad[index])
        return self._frame

    def _open(self) -> VideoDecoder:
        decoder = VideoDecoder(self.path)
        if self._with_motion:
            try:
                decoder.export_motion()
            except FrameError:
                decoder.close()
                raise
        return decoder

    def _take_note(self, frame: av.VideoFrame | LostFrame, number: int) -> bool:
        """Return whether a frame can be used; if not, keep the reason."""
        if isinstance(frame, LostFrame):
            self._bad[number] = (
                f"frame {number} of {self.path!r} cannot be decoded: {frame.reason}; re-encode the "
                "file, or copy it again"
            )
            return False
        shape = frame_shape(frame)
        if self._shape is None:
            self._shape = shape
        if shape != self._shape:
            self._bad[number] = (
                f"frame {number} of {self.path!r} is {shape[0]}x{shape[1]} px (height x width), "
                f"but the first one is {self._shape[0]}x{self._shape[1]} px; a stream keeps its "
                "size: split or re-encode the file"
            )
            return False
        return True

    def _no_frame(self) -> FrameError:
        return FrameError(
            f"no frame of the video file {self.path!r} can be decoded; it is corrupt, cut off or "
            "empty. Check it with ffprobe, and re-encode it with ffmpeg -i IN -c:v libx264 OUT.mp4"
        )

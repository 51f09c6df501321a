"""One pass over the frames of a video file or network stream, by PyAV.

PyAV is used rather than OpenCV, although OpenCV converts colours faster: when frames change their
size in the middle of a file, OpenCV silently goes on returning the last frame of the old size.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from blockcopy_plugins.addresses import masked
from blockcopy_plugins.datasets.display_matrix import Orientation, orientation_of
from blockcopy_plugins.datasets.lost_frames import LostFrame, LostFrames
from blockcopy_plugins.datasets.motion_accumulator import MotionAccumulator, no_motion_vectors
from blockcopy_plugins.errors import ConfigError, FrameError
from blockcopy_plugins.policy import MotionField

if TYPE_CHECKING:
    import av

logger = logging.getLogger(__name__)

_TICKS = 1_000_000  # of a container's duration, in a second
_SHOWN = 1.0  # seconds for which the last frame of a video may be shown

# Containers whose content may begin anywhere in a video.
_WITHOUT_INDEX = frozenset(("mpegts", "mpeg", "h264", "hevc", "m4v", "mpegvideo", "rtsp", "flv"))

# AVColorSpace to the numbers of PyAV's reformatter, for those that both know.
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7}


class VideoDecoder:
    """Decodes a video from its start, frame after frame.

    A corrupt packet is skipped with a warning, and a `LostFrame` takes the place of its frame, so
    that the frames after it keep their numbers.

    Args:
        path: The file, or an address that FFmpeg can open (RTSP, HTTP, UDP, ...).
        timeout: Seconds to wait for a network stream to answer or to send more.

    Attributes:
        path: As given, without passwords.
        skipped: Frames that could not be decoded so far.

    Raises:
        ConfigError: If PyAV is not installed.
        FrameError: If FFmpeg cannot open it, or there is no video in it.
    """

    def __init__(self, path: str, timeout: float | None = None) -> None:
        try:
            import av
        except ImportError as error:
            raise ConfigError(
                f"reading the video {masked(path)!r} needs PyAV: pip install av (folders of frames "
                "need only OpenCV)"
            ) from error
        self.path = masked(path)
        self.skipped = 0
        self._error = av.error.FFmpegError
        # Over UDP, RTSP's default, a lost packet smears pictures until the next key frame.
        # Cameras that offer no TCP are then asked for UDP.
        options = {"rtsp_flags": "prefer_tcp"} if path.startswith(("rtsp:", "rtsps:")) else {}
        try:
            self._container = av.open(
                # Titles in another encoding are not needed here.
                _address(path),
                options=options,
                timeout=timeout,
                metadata_errors="replace",
            )
        except self._error as error:
            remedy = (
                "Check the address and that its camera or server is on."
                if "://" in path
                else "It is not a video, cut off before its header, or corrupt; copy it again, or "
                "re-encode it with ffmpeg -i IN -c:v libx264 OUT.mp4"
            )
            # Not 'from error', whose text names the address with its password.
            raise FrameError(
                f"FFmpeg cannot open {self.path!r}: {_words(error)}. {remedy}"
            ) from None
        stream = self._container.streams.best("video")
        if stream is None or _is_cover(stream):
            self._container.close()
            found = "no video stream" if stream is None else "a cover picture and no video"
            raise FrameError(f"{self.path!r} contains {found}; give a video")
        if stream.codec_context is None:
            self._container.close()
            raise FrameError(
                f"FFmpeg has no decoder for the video in {self.path!r}; it is corrupt, or of a "
                "codec that this FFmpeg lacks. Re-encode it with ffmpeg -i IN -c:v libx264 OUT.mp4"
            )
        # Without its own threads, in decoding and in conversion: a process that is forked from this
        # one (a DataLoader's worker) inherits the decoder but not its threads, and freeing it there
        # would crash.
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        self._stream = stream
        # Stored: asking after the file is closed, which another thread may do, would crash.
        ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
        self._ratio = Fraction(ratio) if ratio and ratio > 0 and ratio != 1 else None
        self._reformatter = av.video.reformatter.VideoReformatter()
        # Before version 17 PyAV converted without threads and had no such argument.
        self._threads = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
        self._packets: Iterator[av.Packet] = self._container.demux(stream)
        self._ready: deque[av.VideoFrame | LostFrame] = deque()
        formats = set(self._container.format.name.split(","))
        self._places = LostFrames(whole="://" not in path and not formats & _WITHOUT_INDEX)
        # A Matroska file that was cut off ends like any other.
        self._stated = None
        if "matroska" in formats and len(self._container.streams) == 1 and self.states_duration:
            self._stated = self._container.duration / _TICKS
        self._last = 0.0  # time of the last frame, seconds
        self._ended = self._warned = False
        self._motion: MotionAccumulator | None = None
        self._turns = 0
        self._orientation = Orientation()

    @property
    def frame_rate(self) -> float | None:
        """Frames per second as the container states, or None."""
        rate = self._stream.average_rate
        return float(rate) if rate else None

    @property
    def sample_aspect_ratio(self) -> Fraction | None:
        """Width of a pixel / its height as shown, after the first frame; None if it is 1."""
        return self._as_shown(self._orientation)

    def sample_aspect_ratio_of(self, frame: av.VideoFrame) -> Fraction | None:
        """The same, for a frame that was decoded and not yet converted."""
        return self._as_shown(orientation_of(frame))

    def _as_shown(self, orientation: Orientation) -> Fraction | None:
        if self._ratio is None:
            return None
        return 1 / self._ratio if orientation.swaps else self._ratio

    @property
    def states_duration(self) -> bool:
        """Whether the container states how long it lasts; that of a live stream does not."""
        return self._container.duration is not None

    @property
    def stated_length(self) -> int | None:
        """Number of frames as the container states, or None."""
        return int(self._stream.frames) or None

    def export_motion(self) -> None:
        """Export the codec's motion vectors from now on; call before the first frame.

        Raises:
            FrameError: If the codec has none.
        """
        codec = self._stream.codec_context.codec
        # The codec's name rather than its decoder's, which older PyAV does not give.
        name = getattr(codec, "canonical_name", codec.name)
        if codec.intra_only:
            raise no_motion_vectors(self.path, f"its codec, {name}, codes each frame by itself")
        self._stream.codec_context.options = {"flags2": "+export_mvs"}
        self._motion = MotionAccumulator(self.path, name, self._to_grey)

    @property
    def motion(self) -> MotionField | None:
        """How far the video has moved up to the last frame, as it is shown, or None."""
        return None if self._motion is None else self._motion.field(self._turns)

    def next(self) -> av.VideoFrame | LostFrame | None:
        """Decode the next frame.

        Returns:
            The frame, not yet converted, a `LostFrame` in its place, or None at the end.

        Raises:
            FrameError: If motion vectors are wanted and the video turns out to have none.
        """
        frame = self._decode()
        if frame is None:
            self._warn_if_cut_off()
        elif not isinstance(frame, LostFrame):
            self._last = max(self._last, frame.time or 0.0)
        if isinstance(frame, LostFrame):
            self.skipped += 1
        elif frame is not None and self._motion is not None:
            self._motion.add(frame)
            self._turns = self._turns_of_motion(frame)
        return frame

    def _decode(self) -> av.VideoFrame | LostFrame | None:
        while not self._ready and not self._ended:
            packet = self._next_packet()
            if packet is None:
                self._ended = True
                self._ready.extend(self._places.rest())
                break
            self._places.sent(packet)
            try:
                self._ready.extend(self._places.in_order(packet.decode()))
            except self._error as error:
                if self._places.failed(packet, _words(error)) and not self._warned:
                    self._warned = True
                    logger.warning(
                        "%s has corrupt packets, which are skipped (the first: %s); the frames "
                        "after them keep their numbers",
                        self.path,
                        _words(error),
                    )
        return self._ready.popleft() if self._ready else None

    def _warn_if_cut_off(self) -> None:
        stated, self._stated = self._stated, None
        # The last frame may be shown for a while.
        if stated is not None and stated - self._last > max(_SHOWN, 0.05 * stated):
            logger.warning(
                "%s ends after %.1f of the %.1f seconds that it states: it is cut off, or was not "
                "finished. Copy it again",
                self.path,
                self._last,
                stated,
            )

    def _next_packet(self) -> av.Packet | None:
        """The next packet, or None at the end or where the source breaks off."""
        try:
            return next(self._packets, None)
        except self._error as error:
            logger.warning(
                "%s breaks off here (%s); it is cut off, corrupt or no longer sent",
                self.path,
                _words(error),
            )
        # Earlier pictures still wait in the decoder for frames that will not come.
        with contextlib.suppress(self._error):
            self._ready.extend(self._places.in_order(self._stream.codec_context.decode(None)))
        return None

    def to_bgr(self, frame: av.VideoFrame) -> np.ndarray:
        """Convert a decoded frame.

        Returns:
            uint8, shape (H, W, 3), BGR, turned and mirrored as the container says (which phone
            videos need).
        """
        converted = self._convert(frame, "bgr24")
        image = converted.to_ndarray()
        if converted is frame:  # it was already BGR, and the array may be the decoder's memory
            image = image.copy()
        self._orientation = orientation_of(frame)
        return np.ascontiguousarray(self._orientation.apply(image))

    def _to_grey(self, frame: av.VideoFrame) -> np.ndarray:
        return self._convert(frame, "gray").to_ndarray()

    def _convert(self, frame: av.VideoFrame, pixels: str) -> av.VideoFrame:
        # One reformatter for all frames: a frame's own would be set up again each time.
        options = dict(self._threads)
        if frame.colorspace in _MATRICES:  # older PyAV assumes BT.601 for all
            options["src_colorspace"] = _MATRICES[frame.colorspace]
        return self._reformatter.reformat(frame, format=pixels, **options)

    def _turns_of_motion(self, frame: av.VideoFrame) -> int:
        found = orientation_of(frame)
        if found.flipped:
            raise no_motion_vectors(self.path, "its container says to show it mirrored")
        return found.turns

    def close(self) -> None:
        """Close the file."""
        self._ready.clear()
        self._container.close()


def frame_shape(frame: av.VideoFrame) -> tuple[int, int]:
    """Height and width of a decoded frame as it is shown, px."""
    shape = (frame.height, frame.width)
    return shape[::-1] if orientation_of(frame).swaps else shape


def _is_cover(stream: av.VideoStream) -> bool:
    """Whether a stream is an album cover picture; PyAV reports this since version 14."""
    disposition = getattr(stream, "disposition", 0)
    return bool(disposition) and type(disposition).attached_pic in disposition


def _words(error: Exception) -> str:
    """FFmpeg's message, without the address that it refers to."""
    return masked(getattr(error, "strerror", None) or error)


def _address(path: str) -> str:
    """A path or address in FFmpeg's form, which reads a file name with a colon as an address."""
    is_address = "://" in path or path.startswith("file:")
    return path if is_address and not os.path.exists(path) else f"file:{path}"

"""One pass over the frames of a video file or network stream, by PyAV.

PyAV rather than OpenCV, although that converts colours faster: when frames change their size in the
middle of a file, OpenCV goes on giving the last frame of the old size without a word.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from blockcopy_plugins.datasets.motion_accumulator import MotionAccumulator, no_motion_vectors
from blockcopy_plugins.errors import ConfigError, FrameError
from blockcopy_plugins.policy import MotionField

if TYPE_CHECKING:
    import av

logger = logging.getLogger(__name__)


class VideoDecoder:
    """Decodes a video from its start, frame after frame.

    Packets that are corrupt are skipped with a warning; how many frames a file has is therefore
    what decoding it gives.

    Args:
        path: The file, or an address that FFmpeg can open (RTSP, HTTP, UDP, ...).
        timeout: Seconds to wait for a network stream to answer or to send on.

    Attributes:
        path: As given.
        skipped: Corrupt packets so far.

    Raises:
        ConfigError: PyAV is not installed.
        FrameError: FFmpeg cannot open it, or there is no video in it.
    """

    def __init__(self, path: str, timeout: float | None = None) -> None:
        try:
            import av
        except ImportError as error:
            raise ConfigError(
                f"reading the video {path!r} needs PyAV: pip install av (folders of frames "
                "need only OpenCV)"
            ) from error
        self.path = path
        self.skipped = 0
        self._error = av.error.FFmpegError
        # Over UDP, RTSP's default, every lost packet smears pictures until the next key frame.
        options = {"rtsp_transport": "tcp"} if path.startswith(("rtsp:", "rtsps:")) else {}
        try:
            self._container = av.open(path, options=options, timeout=timeout)
        except self._error as error:
            remedy = (
                "Check the address and that its camera or server is on."
                if "://" in path
                else "It is no video, cut off before its header, or corrupt; copy it again, or "
                "re-encode it with ffmpeg -i IN -c:v libx264 OUT.mp4"
            )
            raise FrameError(
                f"FFmpeg cannot open {path!r}: {error.strerror or error}. {remedy}"
            ) from error
        stream = self._container.streams.best("video")
        if stream is None:
            self._container.close()
            raise FrameError(f"{path!r} holds no video stream; give a video")
        # Without threads of its own, in decoding and in conversion: a process that is forked from
        # this one (a DataLoader's worker) inherits the decoder, but not its threads, and freeing it
        # there would crash.
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        self._stream = stream
        self._reformatter = av.video.reformatter.VideoReformatter()
        # Before version 17 PyAV converted without threads and had no such argument.
        self._threads = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
        self._packets: Iterator[av.Packet] = self._container.demux(stream)
        self._ready: deque[av.VideoFrame] = deque()
        self._motion: MotionAccumulator | None = None
        self._turns = 0

    @property
    def frame_rate(self) -> float | None:
        """Frames a second by the container, or None."""
        rate = self._stream.average_rate
        return float(rate) if rate else None

    @property
    def states_duration(self) -> bool:
        """Whether the container states how long it lasts; that of a live stream does not."""
        return self._container.duration is not None

    @property
    def stated_length(self) -> int | None:
        """Number of frames by the container, or None."""
        return int(self._stream.frames) or None

    def export_motion(self) -> None:
        """Have the codec's motion vectors from now on; before the first frame.

        Raises:
            FrameError: The codec has none.
        """
        codec = self._stream.codec_context.codec
        # The codec's name rather than its decoder's, which older PyAV does not tell.
        name = getattr(codec, "canonical_name", codec.name)
        if codec.intra_only:
            raise no_motion_vectors(self.path, f"its codec, {name}, codes each frame by itself")
        self._stream.codec_context.options = {"flags2": "+export_mvs"}
        self._motion = MotionAccumulator(self.path, name, self._to_grey)

    @property
    def motion(self) -> MotionField | None:
        """How far the video has moved up to the last frame, as it is to be shown, or None."""
        return None if self._motion is None else self._motion.field(self._turns)

    def next(self) -> av.VideoFrame | None:
        """Decode the next frame.

        Returns:
            The frame, not yet converted, or None at the end.

        Raises:
            FrameError: Motion vectors are wanted and the video turns out to have none.
        """
        frame = self._decode()
        if frame is not None and self._motion is not None:
            self._motion.add(frame)
            self._turns = _quarter_turns(frame)
        return frame

    def _decode(self) -> av.VideoFrame | None:
        while not self._ready:
            try:
                packet = next(self._packets, None)
            except self._error as error:
                logger.warning(
                    "%s breaks off here (%s); it is cut off, corrupt or no longer sent",
                    self.path,
                    error,
                )
                packet = None
            if packet is None:
                return None
            try:
                self._ready.extend(packet.decode())
            except self._error as error:
                self.skipped += 1
                if self.skipped == 1:
                    logger.warning(
                        "%s has corrupt packets, which are skipped (the first: %s); frames are "
                        "numbered as they are decoded",
                        self.path,
                        error,
                    )
        return self._ready.popleft()

    def to_bgr(self, frame: av.VideoFrame) -> np.ndarray:
        """Convert a decoded frame.

        Args:
            frame: The frame.

        Returns:
            uint8, shape (H, W, 3), BGR, turned as the container says (as telephones' films need).
        """
        converted = self._convert(frame, "bgr24")
        image = converted.to_ndarray()
        if converted is frame:  # it was BGR already, and the array may be the decoder's memory
            image = image.copy()
        return np.ascontiguousarray(np.rot90(image, _quarter_turns(frame)))

    def _to_grey(self, frame: av.VideoFrame) -> np.ndarray:
        return self._convert(frame, "gray").to_ndarray()

    def _convert(self, frame: av.VideoFrame, pixels: str) -> av.VideoFrame:
        # One reformatter for all frames: a frame's own would be set up anew each time.
        return self._reformatter.reformat(frame, format=pixels, **self._threads)

    def close(self) -> None:
        """Close the file."""
        self._ready.clear()
        self._container.close()


def frame_shape(frame: av.VideoFrame) -> tuple[int, int]:
    """Height and width of a decoded frame as it is to be shown, px.

    Args:
        frame: The frame.
    """
    quarter_turned = _quarter_turns(frame) % 2 == 1
    return (frame.width, frame.height) if quarter_turned else (frame.height, frame.width)


def _quarter_turns(frame: av.VideoFrame) -> int:
    # Older PyAV does not tell; then frames are as they are stored.
    return round(getattr(frame, "rotation", 0) / 90) % 4

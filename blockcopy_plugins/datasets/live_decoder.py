"""Video files and network streams, decoded once from first to last, by PyAV."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from blockcopy_plugins.datasets.live_frame import LiveFrame
from blockcopy_plugins.errors import ConfigError, FrameError

if TYPE_CHECKING:
    import av

logger = logging.getLogger(__name__)


class LiveDecoder:
    """The frames of a video file or of an address such as ``rtsp://...``.

    Unlike `VideoReader` it asks for no frame twice, so it reads what cannot be read again, and lets
    frames change their size.

    Args:
        address: A path, or a URL that FFmpeg can open (RTSP, HTTP, UDP, ...).
        start: First frame that is wanted.
        stop: Frame to stop before, or None.
        timeout: Seconds to wait for a network stream to answer or to send on.

    Attributes:
        live: Whether the source states no duration: what comes late is then gone.
        frame_rate: Frames a second by the container, or None.
        length: Frames from ``start`` to ``stop`` by the container (may be wrong), or None.
        corrupt: Frames that could not be decoded so far.

    Raises:
        ConfigError: PyAV is not installed.
        FrameError: FFmpeg cannot open it, or it holds no video.
    """

    def __init__(
        self, address: str, start: int = 0, stop: int | None = None, timeout: float = 10.0
    ) -> None:
        try:
            import av
        except ImportError as error:
            raise ConfigError(f"reading {address!r} needs PyAV: pip install av") from error
        self.address = address
        self.corrupt = 0
        self._start, self._stop = start, stop
        self._error = av.error.FFmpegError
        # Over UDP, RTSP's default, every lost packet smears pictures until the next key frame.
        options = {"rtsp_transport": "tcp"} if address.startswith("rtsp") else {}
        try:
            self._container = av.open(address, options=options, timeout=timeout)
        except self._error as error:
            raise FrameError(
                f"FFmpeg cannot open {address!r}: {error.strerror or error}. Check the address "
                "and that its camera or server is on; if it is a file, it is no video, or corrupt"
            ) from error
        stream = self._container.streams.best("video")
        if stream is None:
            self._container.close()
            raise FrameError(f"{address!r} holds no video stream; give a video")
        # One thread: the cores belong to the model.
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        self._stream = stream
        self._reformatter = av.video.reformatter.VideoReformatter()
        # Before version 17 PyAV converted without threads and had no such argument.
        self._threads = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
        self.live = self._container.duration is None and "://" in address
        self.frame_rate = float(stream.average_rate) if stream.average_rate else None
        ends = [n for n in (stream.frames or None, stop) if n is not None]
        self.length = max(0, min(ends) - start) if ends else None

    def __iter__(self) -> Iterator[LiveFrame]:
        """Frames in order. A source that breaks off ends, with a warning.

        Raises:
            FrameError: There is not one frame.
        """
        began = time.monotonic()
        index = -1
        for index, frame in enumerate(self._decoded()):
            if index >= self._start:
                # Containers of live streams state no time, or one that they made up.
                seconds = time.monotonic() - began if self.live else frame.time
                yield LiveFrame(index, seconds, self._to_bgr(frame))
            if self._stop is not None and index + 1 >= self._stop:
                return  # without waiting for a frame that nobody wants
        if index < 0:
            raise FrameError(
                f"no frame of {self.address!r} can be decoded: it is empty, cut off or corrupt, "
                "or its server cannot send parts of a file that has its index at the end. Check it "
                "with ffprobe"
            )

    def close(self) -> None:
        """Close the file or connection."""
        self._container.close()

    def _decoded(self) -> Iterator[av.VideoFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except self._error as error:
                logger.warning(
                    "%s breaks off here (%s)", self.address, error.strerror or type(error).__name__
                )
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except self._error as error:
                self._count_corrupt(error)
                continue
            for frame in frames:
                # What a lost packet leaves of a picture. Of files it is shown, as elsewhere.
                if self.live and frame.is_corrupt:
                    self._count_corrupt("parts of a picture are missing")
                else:
                    yield frame

    def _count_corrupt(self, reason: object) -> None:
        self.corrupt += 1
        if self.corrupt == 1:
            logger.warning(
                "%s has corrupt frames, which are skipped (the first: %s)", self.address, reason
            )

    def _to_bgr(self, frame: av.VideoFrame) -> np.ndarray:
        converted = self._reformatter.reformat(frame, format="bgr24", **self._threads)
        image = converted.to_ndarray()
        if converted is frame:  # it was BGR already, and the array may be the decoder's memory
            image = image.copy()
        # Telephones' films are stored lying; older PyAV does not tell.
        turns = round(getattr(frame, "rotation", 0) / 90) % 4
        return np.ascontiguousarray(np.rot90(image, turns))

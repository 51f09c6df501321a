"""Video files and network streams, decoded once from first to last, by PyAV."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

from blockcopy_plugins.addresses import masked
from blockcopy_plugins.datasets.display_matrix import Orientation, orientation_of
from blockcopy_plugins.datasets.live_frame import DecodedFrame, LiveFrame
from blockcopy_plugins.datasets.lost_frames import LostFrame
from blockcopy_plugins.datasets.video_decoder import VideoDecoder
from blockcopy_plugins.errors import BadFrameError, FrameError

if TYPE_CHECKING:
    import av

logger = logging.getLogger(__name__)


class LiveDecoder:
    """The frames of a video file or of an address such as ``rtsp://...``.

    Unlike `VideoReader` it never asks for a frame twice, so it can read sources that cannot be read
    again, and lets frames change their size.

    Args:
        address: A path, or a URL that FFmpeg can open (RTSP, HTTP, UDP, ...).
        start: First frame to return.
        stop: Frame to stop before, or None.
        timeout: Seconds to wait for a network stream to answer or to send more.
        strict: Raise if a frame cannot be read, instead of skipping it.

    Attributes:
        live: Whether the source states no duration: a frame that is read too late is then gone.
        frame_rate: Frames per second as the container states, or None.
        length: Frames from ``start`` to ``stop`` as the container states (may be wrong), or None.

    Raises:
        ConfigError: If PyAV is not installed.
        FrameError: If FFmpeg cannot open it, or it contains no video.
    """

    def __init__(
        self,
        address: str,
        start: int = 0,
        stop: int | None = None,
        timeout: float = 10.0,
        strict: bool = False,
    ) -> None:
        self._decoder = VideoDecoder(address, timeout)
        self.address = masked(address)
        self._start, self._stop = start, stop
        self._strict = strict
        self._smeared = 0
        self.live = not self._decoder.states_duration and "://" in address
        self.frame_rate = self._decoder.frame_rate
        ends = [n for n in (self._decoder.stated_length, stop) if n is not None]
        self.length = max(0, min(ends) - start) if ends else None

    @property
    def corrupt(self) -> int:
        """Frames that could not be decoded so far."""
        return self._decoder.skipped + self._smeared

    @property
    def sample_aspect_ratio(self) -> Fraction | None:
        """Width of a pixel / its height, after the first frame; None if it is 1."""
        return self._decoder.sample_aspect_ratio

    def export_motion(self) -> None:
        """Give motion vectors with the frames; call before the first one is read.

        Raises:
            FrameError: If the codec has none.
        """
        self._decoder.export_motion()

    def __iter__(self) -> Iterator[LiveFrame]:
        """Frames in order. A source that breaks off ends, with a warning.

        Raises:
            BadFrameError: If a frame cannot be read, and ``strict`` is set.
            FrameError: If there is not a single frame.
        """
        began = time.monotonic()
        index = -1
        for index, frame in enumerate(self._decoded()):
            if isinstance(frame, LostFrame):
                self._refuse(index, frame.reason)
            elif index >= self._start:
                # Containers of live streams state no time, or an invented one.
                seconds = time.monotonic() - began if self.live else frame.time
                image = self._decoder.to_bgr(frame)
                upright = orientation_of(frame) == Orientation()
                decoded = DecodedFrame(frame) if upright else None
                yield LiveFrame(index, seconds, image, self._decoder.motion, decoded)
            if self._stop is not None and index + 1 >= self._stop:
                return  # without waiting for a frame that is not wanted
        if index + 1 == self.corrupt:
            raise FrameError(
                f"no frame of {self.address!r} can be decoded: it is empty, cut off or corrupt, "
                "or its server cannot send parts of a file that has its index at the end. Check it "
                "with ffprobe"
            )

    def close(self) -> None:
        """Close the file or connection."""
        self._decoder.close()

    def _decoded(self) -> Iterator[av.VideoFrame | LostFrame]:
        while (frame := self._decoder.next()) is not None:
            # A lost packet damages parts of a picture. For files it is shown, as elsewhere.
            if isinstance(frame, LostFrame) or not self.live or not frame.is_corrupt:
                yield frame
                continue
            self._smeared += 1
            if self._smeared == 1:
                logger.warning(
                    "%s has frames of which parts are missing; they are skipped", self.address
                )
            yield LostFrame("parts of it are missing")

    def _refuse(self, index: int, reason: str) -> None:
        if self._strict:
            raise BadFrameError(
                f"frame {index} of {self.address!r} cannot be read: {reason}. Omit strict_frames "
                "to skip such frames."
            )

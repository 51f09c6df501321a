"""Cameras on this machine, by OpenCV."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import cv2

from blockcopy_plugins.datasets.live_frame import LiveFrame
from blockcopy_plugins.errors import BadFrameError, FrameError

logger = logging.getLogger(__name__)


class LiveCamera:
    """The frames of a camera.

    Args:
        number: Index of the camera, 0 for the first.
        start: First frame to return.
        stop: Frame to stop before, or None.
        timeout: Seconds without a frame after which the camera counts as gone.
        strict: Raise if the camera fails to give a frame.

    Attributes:
        live: True.
        frame_rate: Frames per second as the driver states, or None.
        length: Frames from ``start`` to ``stop``, or None.
        corrupt: Frames that the camera failed to give so far.

    Raises:
        FrameError: If there is no such camera, or it is in use.
    """

    def __init__(
        self,
        number: int,
        start: int = 0,
        stop: int | None = None,
        timeout: float = 10.0,
        strict: bool = False,
    ) -> None:
        self.number = number
        self.live = True
        self.corrupt = 0
        self._start, self._stop, self._timeout, self._strict = start, stop, timeout, strict
        self._camera = cv2.VideoCapture(number)
        if not self._camera.isOpened():
            self._camera.release()
            raise FrameError(
                f"camera {number} cannot be opened: it does not exist, another program "
                "uses it, or this user may not. Give another number, or close the program"
            )
        self.frame_rate = self._camera.get(cv2.CAP_PROP_FPS) or None
        self.length = None if stop is None else stop - start

    def __iter__(self) -> Iterator[LiveFrame]:
        """Frames as they come, until the camera is gone.

        Raises:
            BadFrameError: If the camera fails to give a frame, and ``strict`` is set.
        """
        began = last = time.monotonic()
        index = 0
        while self._stop is None or index < self._stop:
            given, image = self._camera.read()
            now = time.monotonic()
            if not given:
                self.corrupt += 1
                if self._strict:
                    raise BadFrameError(
                        f"camera {self.number} failed to give frame {index}. Omit strict_frames "
                        "to wait for the next one."
                    )
                if now - last > self._timeout or not self._camera.isOpened():
                    logger.warning("camera %d gives no more frames", self.number)
                    return
                time.sleep(0.01)  # it failed at once, and would do so again
                continue
            last = now
            if index >= self._start:
                yield LiveFrame(index, now - began, image)
            index += 1

    def close(self) -> None:
        """Release the camera."""
        self._camera.release()

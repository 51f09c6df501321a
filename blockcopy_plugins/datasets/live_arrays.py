"""Frames that a program produces or has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from blockcopy_plugins.datasets.live_frame import LiveFrame
from blockcopy_plugins.errors import BadFrameError, FrameError


class LiveArrays:
    """An iterable of frames, one after the other.

    Args:
        arrays: Frames, each uint8, shape (H, W, 3), BGR; or None for one that failed to arrive,
            which is counted.
        first: Number of the first one.
        length: Number of frames, or None.
        strict: Raise if a frame failed to arrive.

    Attributes:
        live: False: no frame can be missed.
        frame_rate: None.
        length: As given.
        corrupt: Frames that failed to arrive so far.
    """

    def __init__(
        self,
        arrays: Iterable[np.ndarray | None],
        first: int = 0,
        length: int | None = None,
        strict: bool = False,
    ) -> None:
        self.live = False
        self.frame_rate = None
        self.length = length
        self.corrupt = 0
        self._arrays, self._first, self._strict = arrays, first, strict

    def __iter__(self) -> Iterator[LiveFrame]:
        """Frames in order.

        Raises:
            BadFrameError: If one failed to arrive, and ``strict`` is set.
            FrameError: If one is not a picture.
        """
        for index, array in enumerate(self._arrays, self._first):
            if array is None:
                self.corrupt += 1
                if self._strict:
                    raise BadFrameError(
                        f"frame {index} failed to arrive. Omit strict_frames to skip such frames."
                    )
                continue
            _check_picture(array, index)
            yield LiveFrame(index, None, array)

    def close(self) -> None:
        """End a generator that produces the frames; anything else is left alone."""
        close = getattr(self._arrays, "close", None)
        if close is not None:
            close()


def _check_picture(array: Any, index: int) -> None:
    if isinstance(array, np.ndarray):
        right = array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.size
        if right:
            return
        found = f"{array.dtype} {array.shape}"
    else:
        found = type(array).__name__
    raise FrameError(
        f"frame {index} is {found}, expected a numpy array, uint8, shape (H, W, 3), BGR as OpenCV "
        "reads pictures. Convert it, or give None for a frame that failed to arrive"
    )

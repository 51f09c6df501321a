"""One interface for everything that frames come from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Protocol

import numpy as np

from blockcopy_plugins.datasets.frame_folder import FrameFolder
from blockcopy_plugins.datasets.frame_range import FrameRange, is_frame_range
from blockcopy_plugins.datasets.motion_accumulator import no_motion_vectors
from blockcopy_plugins.datasets.video_reader import VideoReader
from blockcopy_plugins.errors import FrameError
from blockcopy_plugins.file_protection import local_path


class FrameSource(Protocol):
    """A sequence of frames of one size: `VideoReader`, `FrameFolder` or `FrameRange`.

    A frame that cannot be read, or has another size, raises `BadFrameError` and keeps its number;
    the frames after it can be read.
    """

    path: str

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the frames, px."""

    @property
    def frame_rate(self) -> float | None:
        """Frames per second, or None if it is not known."""

    @property
    def sample_aspect_ratio(self) -> Fraction | None:
        """Width of a pixel / its height, or None if it is 1."""

    @property
    def stated_length(self) -> int | None:
        """Number of frames as the container states it; may be wrong."""

    def count(self, stop: int | None = None) -> int:
        """Number of frames that can be read, at most ``stop``."""

    def __len__(self) -> int: ...

    def bad_frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> dict[int, str]:
        """Why frames cannot be read, by number; looks at each frame."""

    def time(self, index: int) -> float | None:
        """When a frame should be shown, seconds, or None if not stated; call after reading it."""

    def read(self, index: int) -> np.ndarray:
        """Frame ``index`` (from 0), uint8, shape (H, W, 3), BGR."""

    def frames(
        self, start: int = 0, stop: int | None = None, step: int = 1
    ) -> Iterator[np.ndarray]:
        """Iterate over the frames that can be read."""

    def __iter__(self) -> Iterator[np.ndarray]: ...

    def close(self) -> None:
        """Close what is open; the next read opens it again."""


def open_frames(path: str | os.PathLike[str], motion: bool = False) -> FrameSource:
    """Open a video file, a folder of frames or a range of them.

    Args:
        path: Path of a video file, of a folder that holds the frames as images, or of some of a
            folder's images (``folder/clip_{000275..000294}.png``).
        motion: Export motion vectors, see `VideoReader`.

    Returns:
        The frames. Files are opened when they are first read.

    Raises:
        FrameError: If there is nothing at ``path``, or no frame in it; or if motion vectors are
            wanted of images, which have none.
    """
    path = os.fspath(path)
    if motion and (os.path.isdir(path) or is_frame_range(path)):
        raise no_motion_vectors(path, "it is a folder of images")
    if os.path.isdir(path):
        return FrameFolder(path)
    if is_frame_range(path):
        return FrameRange(path)
    path = local_path(path) or path
    if not os.path.exists(path):
        raise FrameError(
            f"there is no video file or folder of frames {path!r} (the working directory is "
            f"{os.getcwd()!r}); correct the path"
        )
    return VideoReader(path, motion)

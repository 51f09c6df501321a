"""Reads the frames of a video that lies as images in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

import cv2
import numpy as np

from blockcopy_plugins.datasets.paths import IMAGE_SUFFIXES, is_image, natural_key
from blockcopy_plugins.errors import FrameError


class FrameFolder:
    """A folder of images as a sequence of frames, in natural order of their names.

    Args:
        path: The folder. Files that are no images and hidden files are passed over; subfolders are
            not entered.

    Raises:
        FrameError: There is no such folder, or no image in it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = self.folder = os.fspath(path)
        if not os.path.isdir(self.path):
            raise FrameError(f"there is no folder of frames {self.path!r}; correct the path")
        self.names: tuple[str, ...] = tuple(
            sorted(
                (n for n in os.listdir(self.path) if is_image(n) and not n.startswith(".")),
                key=natural_key,
            )
        )
        if not self.names:
            raise FrameError(
                f"the folder {self.path!r} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}); "
                "give the folder that holds the frames themselves, or, for a folder of video "
                "files, a pattern such as 'folder/*.mp4'"
            )
        self._shape: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the frames, px.

        Raises:
            FrameError: The first image cannot be decoded.
        """
        if self._shape is None:
            self._shape = self._decode(0).shape[:2]
        return self._shape

    @property
    def frame_rate(self) -> float | None:
        """None: images do not state how fast they follow each other."""
        return None

    @property
    def stated_length(self) -> int:
        """Number of images."""
        return len(self.names)

    def count(self, stop: int | None = None) -> int:
        """Number of images.

        Args:
            stop: Count no further than this many.
        """
        return len(self.names) if stop is None else min(len(self.names), stop)

    def __len__(self) -> int:
        return len(self.names)

    def frame_path(self, index: int) -> str:
        """Path of the image of a frame.

        Args:
            index: Frame number, from 0.
        """
        return os.path.join(self.folder, self.names[index])

    def read(self, index: int) -> np.ndarray:
        """Read one frame.

        Args:
            index: Frame number, from 0.

        Returns:
            The frame, uint8, shape (H, W, 3), BGR.

        Raises:
            IndexError: ``index`` is negative.
            FrameError: There are not so many frames, the image cannot be decoded, or it has
                another size than the first one.
        """
        if index < 0:
            raise IndexError(f"frame numbers start at 0, but got {index}")
        if index >= len(self.names):
            raise FrameError(
                f"frame {index} of the folder {self.path!r} does not exist: it holds "
                f"{len(self.names)} images; ask for fewer frames"
            )
        frame = self._decode(index)
        if frame.shape[:2] != self.shape:
            raise FrameError(
                f"frame {self.frame_path(index)!r} is {frame.shape[0]}x{frame.shape[1]} px, but "
                f"the first frame of its folder is {self.shape[0]}x{self.shape[1]} px; a stream "
                "keeps its size: put images of another size into a folder of their own"
            )
        return frame

    def frames(
        self, start: int = 0, stop: int | None = None, step: int = 1
    ) -> Iterator[np.ndarray]:
        """Iterate over frames.

        Args:
            start: First frame number.
            stop: Frame number to stop before; None for the last image.
            step: Distance from one frame to the next.

        Yields:
            Frames, uint8, shape (H, W, 3), BGR.

        Raises:
            ValueError: ``step`` is below 1.
            FrameError: As `read`.
        """
        if step < 1:
            raise ValueError(f"step must be at least 1, but got {step}")
        for index in range(start, len(self.names) if stop is None else stop, step):
            yield self.read(index)

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.frames()

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> FrameFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def _decode(self, index: int) -> np.ndarray:
        path = self.frame_path(index)
        frame = cv2.imread(path, cv2.IMREAD_COLOR) if os.path.getsize(path) else None
        if frame is None:
            raise FrameError(
                f"the image {path!r} (frame {index}, {os.path.getsize(path)} bytes) cannot be "
                "decoded; it is empty or corrupt: replace it, or leave it out with frames=(start, "
                "stop)"
            )
        return frame

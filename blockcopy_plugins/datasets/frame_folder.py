"""Reads the frames of a video that is stored as images in a folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import numpy as np

from blockcopy_plugins.datasets.image_file import UnreadableImage, read_image
from blockcopy_plugins.errors import BadFrameError, FrameError
from blockcopy_plugins.image_names import IMAGE_SUFFIXES, is_image, natural_key

_LOOKED_AT = 9
"""Largest number of readable images that determine the size of a folder's frames."""


class FrameFolder:
    """A folder of images as a sequence of frames, in natural order of their names.

    An image that cannot be read, or has another size than the others, is a bad frame: it keeps its
    place, so that the others keep their numbers.

    Args:
        path: The folder. Files that are not images and hidden files are skipped; subfolders are not
            entered.

    Raises:
        FrameError: If there is no such folder, or no image in it.
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
                f"the folder {self.path!r} contains no image "
                f"({', '.join(sorted(IMAGE_SUFFIXES))}); give the folder that contains the frames "
                "themselves, or, for a folder of video files, a pattern such as 'folder/*.mp4'"
            )
        self._shape: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the frames, px: the size that most of the first images have.

        Raises:
            FrameError: If no image can be read.
        """
        if self._shape is None:
            found: Counter[tuple[int, int]] = Counter()
            problem = ""
            for index in range(len(self.names)):
                try:
                    found[self._decode(index).shape[:2]] += 1
                except BadFrameError as error:
                    problem = problem or str(error)
                # A single image with its own size does not set the rule by coming first.
                if found.total() == _LOOKED_AT or found.total() > 2 and len(found) == 1:
                    break
            if not found:
                raise FrameError(
                    f"none of the {len(self.names)} images of {self.path!r} can be read: {problem}"
                )
            self._shape = found.most_common(1)[0][0]
        return self._shape

    @property
    def frame_rate(self) -> float | None:
        """None: images do not state how fast they follow each other."""
        return None

    @property
    def sample_aspect_ratio(self) -> None:
        """None: pixels of images are square."""
        return None

    @property
    def stated_length(self) -> int:
        """Number of images."""
        return len(self.names)

    def count(self, stop: int | None = None) -> int:
        """Number of images.

        Args:
            stop: Count at most this many.
        """
        return len(self.names) if stop is None else min(len(self.names), stop)

    def __len__(self) -> int:
        return len(self.names)

    def bad_frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> dict[int, str]:
        """Look at each image once.

        Args:
            start: First frame number.
            stop: Frame number to stop before; None for the last image.
            step: Distance from one frame to the next.

        Returns:
            The reasons why frames cannot be read, by frame number.
        """
        bad = {}
        for index in range(start, self.count(stop), step):
            try:
                self.read(index)
            except BadFrameError as error:
                bad[index] = str(error)
        return bad

    def time(self, index: int) -> None:
        """None: images do not state when they were taken."""
        return None

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
            IndexError: If ``index`` is negative.
            BadFrameError: If the image cannot be decoded, or has another size than the others.
            FrameError: If there are fewer frames, or none can be read.
        """
        if index < 0:
            raise IndexError(f"frame numbers start at 0, but got {index}")
        if index >= len(self.names):
            raise FrameError(
                f"frame {index} of the folder {self.path!r} does not exist: it contains "
                f"{len(self.names)} images; ask for fewer frames"
            )
        frame = self._decode(index)
        if frame.shape[:2] != self.shape:
            raise BadFrameError(
                f"frame {index}, {self.frame_path(index)!r}, is {frame.shape[0]}x{frame.shape[1]} "
                f"px (height x width), but the frames of its folder are {self.shape[0]}x"
                f"{self.shape[1]} px; a stream keeps its size: put images of another size into a "
                "separate folder"
            )
        return frame

    def frames(
        self, start: int = 0, stop: int | None = None, step: int = 1
    ) -> Iterator[np.ndarray]:
        """Iterate over the frames that can be read.

        Args:
            start: First frame number.
            stop: Frame number to stop before; None for the last image.
            step: Distance from one frame to the next.

        Yields:
            Frames, uint8, shape (H, W, 3), BGR; bad ones are left out.

        Raises:
            ValueError: If ``step`` is below 1.
            FrameError: If there are fewer frames, or none can be read.
        """
        if step < 1:
            raise ValueError(f"step must be at least 1, but got {step}")
        for index in range(start, len(self.names) if stop is None else stop, step):
            try:
                frame = self.read(index)
            except BadFrameError:
                continue
            yield frame

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.frames()

    def close(self) -> None:
        """Does nothing: no file is kept open."""

    def __enter__(self) -> FrameFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def _decode(self, index: int) -> np.ndarray:
        path = self.frame_path(index)
        try:
            return read_image(path)
        except UnreadableImage as error:
            raise BadFrameError(
                f"frame {index}, the image {path!r}, cannot be read: {error}; replace it, or leave "
                "it out with frames=(start, stop)"
            ) from error

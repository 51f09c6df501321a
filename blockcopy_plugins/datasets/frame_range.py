"""Reads the frames of one clip, stored among others as numbered images in one folder."""

from __future__ import annotations

import os
import re

from blockcopy_plugins.datasets.frame_folder import FrameFolder
from blockcopy_plugins.errors import FrameError

_MOST = 10_000_000
"""Largest number of frames in a range: a hundred hours and more."""

_RANGE = re.compile(r"\{([0-9]+)\.\.([0-9]+)\}")


class FrameRange(FrameFolder):
    """Consecutive numbered images of a folder as a sequence of frames.

    Args:
        path: Path of the images, with the first and the last number in place of their number:
            ``FOLDER/frankfurt_000000_{000275..000294}_leftImg8bit.png``, as a shell expands it.

    Raises:
        FrameError: If ``path`` does not have that form, or an image is missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.folder = os.path.dirname(self.path)
        self.names = range_names(self.path)
        missing = [n for n in self.names if not os.path.isfile(os.path.join(self.folder, n))]
        if missing:
            raise FrameError(
                f"{len(missing)} of the {len(self.names)} frames {self.path!r} are missing, "
                f"the first is {missing[0]!r}; copy them again or correct the numbers"
            )
        self._shape: tuple[int, int] | None = None


def is_frame_range(path: str) -> bool:
    """Whether a path has the form that `FrameRange` reads, and is not itself a file or folder."""
    return _RANGE.search(os.path.basename(path)) is not None and not os.path.exists(path)


def range_names(path: str) -> tuple[str, ...]:
    """File names of a range of frames; they need not exist.

    Raises:
        FrameError: If ``path`` does not have that form.
    """
    name = os.path.basename(path)
    found = _RANGE.search(name)
    if found is None or int(found[1]) > int(found[2]):
        raise FrameError(
            f"{path!r} is not a range of frames; write the first and the last number in place of "
            "the frames' number, such as folder/clip_{000275..000294}.png"
        )
    first, last = int(found[1]), int(found[2])
    if last - first >= _MOST:
        raise FrameError(
            f"{path!r} is a range of {last - first + 1} frames; expected at most {_MOST}. Correct "
            "the numbers"
        )
    # As a shell does it: leading zeros in either give all numbers the width of the longer one.
    padded = any(len(text) > 1 and text[0] == "0" for text in found.groups())
    width = max(map(len, found.groups())) if padded else 1
    return tuple(
        f"{name[: found.start()]}{number:0{width}d}{name[found.end() :]}"
        for number in range(first, last + 1)
    )


def frame_range(folder: str, prefix: str, first: str, last: str, suffix: str) -> str:
    """Path of a range of frames.

    Args:
        folder: Folder of the images.
        prefix: The part before the number.
        first: Number of the first frame, with its leading zeros.
        last: Number of the last frame, likewise.
        suffix: The part after the number.

    Returns:
        A path that `FrameRange` reads.
    """
    return os.path.join(folder, f"{prefix}{{{first}..{last}}}{suffix}")

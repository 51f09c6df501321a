"""Whether annotations call the first frame of a video 0 or 1."""

from __future__ import annotations

from collections.abc import Iterable

from blockcopy_plugins.datasets.ground_truth.annotation_notes import AnnotationNotes
from blockcopy_plugins.errors import ConfigError


def first_number(
    numbers: Iterable[int],
    length: int | None,
    what: str,
    video: str,
    stated: int | None,
    notes: AnnotationNotes,
) -> int:
    """The number that a file's annotations give the first frame.

    By default that is 0. Numbers that begin at 1 may instead count from 1, as FFmpeg and many
    annotation tools do. This is certain if the last one is the number of frames; if it cannot be
    told, the user has to say.

    Args:
        numbers: All numbers of the video's frames.
        length: Number of its frames, if known.
        what: What is numbered, with its file, for messages.
        video: Path of the video.
        stated: What the user says, 0 or 1, or None.
        notes: Collects what is inferred.

    Returns:
        0 or 1.

    Raises:
        ConfigError: It cannot be told, or a number is beyond the end of the video.
    """
    if stated not in (None, 0, 1):
        raise ConfigError(f"first_frame_number={stated!r}, expected 0, 1 or None")
    numbers = set(numbers)
    if not numbers:
        return stated or 0
    lowest, highest = min(numbers), max(numbers)
    base = stated
    if base is None and lowest == 1:
        if highest == length:
            base = 1
            notes.remark(
                f"{what} are taken as counted from 1: they go from 1 to {highest}, the number of "
                f"frames of {video!r}"
            )
        else:
            raise ConfigError(
                f"{what} begin at 1 for {video!r}: they may count from 1, or from 0 without an "
                "annotation of the first frame. Say which: --ann-first 0 or --ann-first 1 (for a "
                "data set: first_frame_number)"
            )
    base = base or 0
    if length is not None and highest - base >= length:
        raise ConfigError(
            f"{what} reach frame {highest}, counted from {base}, but {video!r} has {length} frames;"
            " they belong to another video or to another excerpt"
        )
    if lowest < base:
        raise ConfigError(f"{what} count from 1, as stated, but one of {video!r} is {lowest}")
    return base

"""What a data set must know about its videos before the first frame is run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blockcopy_plugins.datasets.frame_folder import FrameFolder
from blockcopy_plugins.datasets.frame_source import open_frames
from blockcopy_plugins.datasets.ground_truth.annotations import VideoReference
from blockcopy_plugins.errors import BadFrameError, ConfigError, FrameError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListedVideo:
    """A video of a data set.

    Attributes:
        reference: The data that annotations need.
        shape: Height and width of its frames, px.
        numbers: Numbers of the selected frames that can be read.
        bad: Why selected frames cannot be read, by number. They keep their places: the numbers of
            the others do not change.
    """

    reference: VideoReference
    shape: tuple[int, int]
    numbers: Sequence[int]
    bad: Mapping[int, str] = field(default_factory=dict)


def list_video(
    path: str,
    name: str,
    frames: tuple[int, int | None] = (0, None),
    stride: int = 1,
    motion: bool = False,
    trust_frame_count: bool = False,
    strict: bool = False,
) -> ListedVideo:
    """Look at a video: how many frames it has, and which of the selected ones can be read.

    Args:
        path: A video file, a folder of frames, or a range of them.
        name: Its name.
        frames: First frame number and the one to stop before.
        stride: Distance from one selected frame to the next.
        motion: See `VideoReader`.
        trust_frame_count: Use the stated number of frames, and look at none of them.
        strict: Raise if a selected frame cannot be read.

    Returns:
        The video.

    Raises:
        ConfigError: If none of the frames is selected.
        BadFrameError: If one cannot be read, and ``strict`` is set.
        FrameError: If the video, or every selected frame, cannot be read.
    """
    start, stop = frames
    source = open_frames(path, motion)
    try:
        stated = source.stated_length if trust_frame_count else None
        if stated is not None:
            count = stated if stop is None else min(stated, stop)
        else:
            count = source.count(stop)
        selected = range(start, count, stride)
        if not selected:
            raise ConfigError(
                f"{path!r} has {count} frames, so that frames={(start, stop)} selects none; lower "
                "the start"
            )
        bad = {} if stated is not None else source.bad_frames(start, count, stride)
        if bad and strict:
            raise BadFrameError(
                f"{next(iter(bad.values()))} ({len(bad)} of {len(selected)} frames cannot be read; "
                "without strict_frames they are skipped)"
            )
        if len(bad) == len(selected):
            raise FrameError(
                f"none of the {len(selected)} selected frames of {path!r} can be read; "
                f"the first: {next(iter(bad.values()))}"
            )
        is_folder = isinstance(source, FrameFolder)
        reference = VideoReference(
            path=path,
            name=name,
            frame_names=source.names if is_folder else None,
            folder=source.folder if is_folder else None,
            # Counted only up to the stop; the file may go on.
            length=None if stop is not None and count >= stop else count,
            size=source.shape,
        )
        if bad:
            logger.warning(
                "%d of %d frames of %s are skipped, the first: %s",
                len(bad),
                len(selected),
                path,
                next(iter(bad.values())),
            )
        numbers = [number for number in selected if number not in bad] if bad else selected
        return ListedVideo(reference, source.shape, numbers, bad)
    finally:
        source.close()


def skipped_frames(videos: Iterable[ListedVideo]) -> dict[str, Any]:
    """The entry in ``results.json`` for frames that could not be read.

    Args:
        videos: All videos of a data set.

    Returns:
        ``count``, and for each video with such frames its ``name`` and its ``frames``: ``number``
        and ``reason``.
    """
    videos = [video for video in videos if video.bad]
    return {
        "count": sum(len(video.bad) for video in videos),
        "videos": [
            {
                "name": video.reference.name,
                "frames": [
                    {"number": number, "reason": reason} for number, reason in video.bad.items()
                ],
            }
            for video in videos
        ],
    }

"""Videos that show what was found in other videos, with a bar of figures below each frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...engine.session import Session
from ...file_protection import check_outputs
from .frame_entry import FrameEntry
from .overlay_paths import overlay_paths

if TYPE_CHECKING:
    from ...visualization import FrameCaption


def planned_overlays(
    folder: str | Path, videos: Sequence[str], names: Sequence[str], ending: str
) -> list[Path]:
    """Name the videos to be written, before the first frame runs.

    Args:
        folder: Folder of the files.
        videos: Paths of all videos that are read.
        names: Their names, in the same order.
        ending: The end of each file's name.

    Raises:
        ConfigError: If one would replace a file that is read.
    """
    targets = overlay_paths(folder, names, ending)
    check_outputs(
        [("the video", path) for path in videos], [("the overlay", path) for path in targets]
    )
    return targets


def open_overlay(path: str | Path, source: Any, fps: float | None = None, stride: int = 1) -> Any:
    """Open the video that shows what was found in another one.

    Args:
        path: Path of the new file.
        source: The frames, as :func:`~blockcopy_plugins.datasets.open_frames` returns them.
        fps: Frames per second, by default those of the source.
        stride: Every how many frames of the source one is shown.

    Returns:
        An open :class:`~blockcopy_plugins.visualization.VideoWriter`.
    """
    # Imported here: PyAV is only needed to write videos.
    from ...visualization import VideoWriter, usable_rate

    return VideoWriter(
        path,
        fps=fps or usable_rate(source.frame_rate) / stride,
        quick=True,
        sample_aspect_ratio=source.sample_aspect_ratio,
    ).open()


def caption_of(number: int, image: int, entry: FrameEntry | None, handle: Session) -> FrameCaption:
    """The figures that are shown below a frame.

    Args:
        number: Number of the frame.
        image: Its index in the last batch.
        entry: Its figures, if it ran dense and block-sparse.
        handle: Handle of the model that has just run.
    """
    from ...visualization import FrameCaption

    ms = entry.ms_blockcopy if entry is not None and entry.timed else None
    return FrameCaption(
        frame=number,
        # Blocks that ran twice, to compare, fill the gauge.
        executed_rate=min(handle.last.rates[image], 1.0),
        target=getattr(handle.policy, "target", None),
        milliseconds=ms,
        speed_up=None if ms is None or entry.ms_dense is None else entry.ms_dense / ms,
    )

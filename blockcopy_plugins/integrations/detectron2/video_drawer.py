"""Writes a video with results and executed blocks for each video that is evaluated."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.evaluation import DatasetEvaluator

from ...datasets.frame_source import open_frames
from ...errors import ConfigError, StateError
from ...visualization import VideoWriter
from ..common.overlay_paths import overlay_paths
from ..common.overlay_video import caption_of, open_overlay, planned_overlays
from .drawing import draw_outputs
from .video_run import VideoRun

logger = logging.getLogger(__name__)

OVERLAY_ENDING = ".mp4"
"""End of the names of the written videos."""


class VideoDrawer(DatasetEvaluator):
    """An evaluator that draws: ``FOLDER/VIDEO.mp4`` for each video; see :func:`overlay_paths`.

    The inputs must hold the frames themselves: ``VideoFrameMapper(keep_frame=True)``.

    Args:
        run: The callable that is passed to ``inference_on_dataset`` as its model.
        folder: Folder of the written videos.
        score_threshold: Lowest score of detections that are drawn.
        classes: Names of the classes of things.
        palette: Colours of the classes of pixels, RGB.

    Attributes:
        paths: The videos that are complete.
    """

    def __init__(
        self,
        run: VideoRun,
        folder: str | os.PathLike[str],
        score_threshold: float = 0.3,
        classes: Sequence[str] | None = None,
        palette: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.run = run
        self.folder = Path(folder)
        self.score_threshold = score_threshold
        self.classes = classes
        self.palette = palette
        self.paths: list[Path] = []
        self._targets: dict[str, Path] = {}
        self._name: str | None = None
        self._writer: VideoWriter | None = None

    def reset(self) -> None:
        """Drop a video that was not finished."""
        self.abort()
        self.paths = []

    def plan(self, videos: Sequence[str], names: Sequence[str]) -> None:
        """Name the videos to write, before the first frame is run.

        Args:
            videos: Paths of all videos that are read.
            names: Their names, in the same order.

        Raises:
            ConfigError: If one would replace a file that is read.
        """
        targets = planned_overlays(self.folder, videos, names, OVERLAY_ENDING)
        self._targets = dict(zip(names, targets, strict=True))

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Draw the frame of a batch.

        Raises:
            ConfigError: If the batch has several frames, or the inputs do not contain the frame.
        """
        if len(inputs) != 1 or "frame" not in inputs[0]:
            raise ConfigError(
                f"the batch has {len(inputs)} images with {sorted(inputs[0])}; to draw, use "
                "batches of one image and VideoFrameMapper(..., keep_frame=True)."
            )
        given, entry, handle = inputs[0], self.run.last_entries[0], self.run.handle
        if given["video_name"] != self._name:
            self._finish()
            self._open(given)
        picture = draw_outputs(
            given["frame"],
            outputs[0],
            handle.last.host_grid[0],
            handle.config.block_size,
            given["image"].shape[1:],
            caption_of(given["frame_number"], 0, entry, handle),
            self.classes,
            self.palette,
            self.score_threshold,
        )
        self._writer.write(picture, given.get("frame_time"))

    def evaluate(self) -> None:
        """Finish the last video."""
        self._finish()

    def end_early(self) -> None:
        """End the video that is open, if any; it shows what was done so far."""
        try:
            self._finish()
        except (OSError, StateError) as error:
            logger.warning("no video with results: %s", error)
            self._writer = self._name = None

    def abort(self) -> None:
        """Drop the video that is open, if any."""
        if self._writer is not None:
            self._writer.abort()
        self._writer = self._name = None

    def _open(self, given: Mapping) -> None:
        self._name = given["video_name"]
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._targets.get(self._name)
        if path is None:
            (path,) = overlay_paths(self.folder, [self._name], OVERLAY_ENDING)
        source = open_frames(given["video_path"])
        try:
            self._writer = open_overlay(path, source)
        finally:
            source.close()

    def _finish(self) -> None:
        if self._writer is not None:
            self.paths.append(self._writer.close())
        self._writer = self._name = None

"""Writes videos with results and executed blocks while a loop runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...datasets import open_frames
from ...errors import ConfigError, StateError
from ...registry import HOOKS
from ..common.overlay_paths import overlay_paths
from ..common.overlay_video import caption_of, open_overlay, planned_overlays
from .hook import find_hook

logger = logging.getLogger(__name__)

OVERLAY_ENDING = "_blockcopy.mp4"
"""End of the names of the written videos."""


@HOOKS.register_module()
class BlockCopyVideoHook(Hook):
    """Draws each tested frame: results, executed blocks, and a bar of figures below.

    Writes an MP4 file (H.264, which browsers play) for each video, at the size of its frames.
    Skipped blocks are dark and nearly grey.

    Args:
        out_dir: Folder of the videos, created if it is missing. Each has the name of its video; if
            two would have the same name, the later one gets a number.
        score_threshold: Lowest score of detections that are drawn.
        fps: Frames per second. ``None`` shows each frame at its time in the file, and images of a
            folder at 10 per second.

    Raises:
        ConfigError: If ``score_threshold`` is not from 0 to 1.
    """

    # After the hooks that read the outputs.
    priority = "LOW"

    def __init__(
        self, out_dir: str | Path, score_threshold: float = 0.3, fps: float | None = None
    ) -> None:
        if not 0 <= score_threshold <= 1:
            raise ConfigError(f"score_threshold must be from 0 to 1, found {score_threshold}.")
        self.out_dir = Path(out_dir)
        self.score_threshold = score_threshold
        self.fps = fps
        self.paths: list[Path] = []
        self._open: dict[int, tuple[Any, Any]] = {}
        self._targets: list[Path] = []

    def before_test(self, runner: Runner) -> None:
        """Name the videos, before the first frame runs.

        Raises:
            ConfigError: If one of them would replace a file that is read.
        """
        dataset = runner.test_dataloader.dataset
        videos, names = getattr(dataset, "videos", ()), getattr(dataset, "video_names", ())
        self._targets = planned_overlays(self.out_dir, videos, names, OVERLAY_ENDING)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence | None = None,
    ) -> None:
        """Draw the frames of a batch."""
        handle = find_hook(runner).handle
        entries = getattr(runner.test_loop, "last_entries", ())
        for image, sample in enumerate(outputs or ()):
            entry = entries[image] if image < len(entries) else None
            self._draw(sample, handle, image, entry, runner.test_dataloader.dataset)

    def after_test(self, runner: Runner) -> None:
        """End the videos that are open."""
        for video_id in list(self._open):
            self._close(video_id)

    def end_early(self) -> None:
        """End the videos of a run that ended early; they show what was done by then."""
        for video_id in list(self._open):
            try:
                self._close(video_id)
            except (OSError, StateError) as error:
                logger.warning("no video with results: %s", error)

    def _draw(self, sample: Any, handle: Any, image: int, entry: Any, dataset: Any) -> None:
        from .drawing import draw_sample  # only needed here, with OpenCV

        info = sample.metainfo
        video_id = info["video_id"]
        grid = handle.last.host_grid[image]
        writer, source = self._opened(info, getattr(dataset, "stride", 1))
        picture = draw_sample(
            source.read(info["frame_number"]),
            sample,
            grid,
            handle.config.block_size,
            dataset.metainfo,
            caption_of(info["frame_number"], image, entry, handle),
            self.score_threshold,
        )
        time = source.time(info["frame_number"]) if self.fps is None else None
        writer.write(picture, time)
        if info["frame_id"] == info.get("video_length", 0) - 1:
            self._close(video_id)

    def _opened(self, info: dict[str, Any], stride: int) -> tuple[Any, Any]:
        video_id = info["video_id"]
        if video_id not in self._open:
            source = open_frames(info["video_path"])
            if video_id < len(self._targets):
                path = self._targets[video_id]
            else:  # a data set that does not list its videos
                name = str(info.get("video_name", video_id))
                (path,) = overlay_paths(self.out_dir, [name], OVERLAY_ENDING)
            self._open[video_id] = (open_overlay(path, source, self.fps, stride), source)
        return self._open[video_id]

    def _close(self, video_id: int) -> None:
        writer, source = self._open.pop(video_id)
        source.close()
        self.paths.append(writer.close())

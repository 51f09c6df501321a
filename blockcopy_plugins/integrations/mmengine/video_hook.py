"""Writes videos with results and executed blocks while a loop is at work."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...datasets import open_frames
from ...errors import ConfigError, StateError
from ...file_protection import check_outputs
from ...registry import HOOKS
from ..overlay_paths import overlay_paths
from .hook import find_hook

logger = logging.getLogger(__name__)

OVERLAY_ENDING = "_blockcopy.mp4"
"""How the names of the written videos end."""


@HOOKS.register_module()
class BlockCopyVideoHook(Hook):
    """Draws each tested frame: results, executed blocks, and a bar of figures below.

    Writes an MP4 file (H.264, which browsers play) for each video, at the size of its frames.
    Skipped blocks are dark and nearly grey.

    Args:
        out_dir: Folder of the videos, made if it is missing. Each has the name of its video; where
            two would have the same one, the later gets a number.
        score_threshold: Detections below are not drawn.
        fps: Frames a second. ``None`` shows each frame when its file does; images of a folder come
            at 10 a second.

    Raises:
        ConfigError: If ``score_threshold`` is not from 0 to 1.
    """

    # After the hooks that look at the outputs.
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
        """Name the videos, before the first frame is run.

        Raises:
            ConfigError: If one of them would replace a file that is read.
        """
        dataset = runner.test_dataloader.dataset
        videos, names = getattr(dataset, "videos", ()), getattr(dataset, "video_names", ())
        self._targets = overlay_paths(self.out_dir, names, OVERLAY_ENDING)
        check_outputs(
            [("the video", path) for path in videos],
            [("the overlay", path) for path in self._targets],
        )

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
        """End the videos of a run that did not come to its end; they show what was done by then."""
        for video_id in list(self._open):
            try:
                self._close(video_id)
            except (OSError, StateError) as error:
                logger.warning("no video with results: %s", error)

    def _draw(self, sample: Any, handle: Any, image: int, entry: Any, dataset: Any) -> None:
        # Whoever draws nothing needs neither PyAV nor OpenCV.
        from ...visualization import FrameCaption, draw_caption
        from .drawing import draw_sample

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
            self.score_threshold,
        )
        speed_up = None
        if entry is not None and entry.timed and entry.ms_dense is not None:
            speed_up = entry.ms_dense / entry.ms_blockcopy
        caption = FrameCaption(
            frame=info["frame_number"],
            # What ran twice, to compare, fills the gauge.
            executed_rate=min(handle.last.rates[image], 1.0),
            target=getattr(handle.policy, "target", None),
            milliseconds=None if entry is None or not entry.timed else entry.ms_blockcopy,
            speed_up=speed_up,
        )
        time = source.time(info["frame_number"]) if self.fps is None else None
        writer.write(draw_caption(picture, caption, bgr=True), time)
        if info["frame_id"] == info.get("video_length", 0) - 1:
            self._close(video_id)

    def _opened(self, info: dict[str, Any], stride: int) -> tuple[Any, Any]:
        from ...visualization import VideoWriter, usable_rate

        video_id = info["video_id"]
        if video_id not in self._open:
            source = open_frames(info["video_path"])
            fps = self.fps or usable_rate(source.frame_rate) / stride
            if video_id < len(self._targets):
                path = self._targets[video_id]
            else:  # a data set that does not list its videos
                name = str(info.get("video_name", video_id))
                (path,) = overlay_paths(self.out_dir, [name], OVERLAY_ENDING)
            ratio = source.sample_aspect_ratio
            writer = VideoWriter(path, fps=fps, bgr=True, sample_aspect_ratio=ratio)
            self._open[video_id] = (writer.open(), source)
        return self._open[video_id]

    def _close(self, video_id: int) -> None:
        writer, source = self._open.pop(video_id)
        source.close()
        self.paths.append(writer.close())

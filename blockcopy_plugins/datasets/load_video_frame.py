"""Pipeline transform that loads one frame of a video."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from blockcopy_plugins.datasets.frame_source import FrameSource, open_frames
from blockcopy_plugins.errors import ConfigError, FrameError
from blockcopy_plugins.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadVideoFrame(BaseTransform):
    """Load a frame of a video file or of a folder of frames; replaces `LoadImageFromFile`.

    Required keys: ``video_path`` (str), ``frame_number`` (int, from 0). Optional keys: ``height``,
    ``width`` (px; checked), ``frame_id`` and ``video_length`` (the file is closed after its last
    frame).

    Added keys: ``img`` (BGR, shape (H, W, 3), uint8 or float32), ``img_shape``, ``ori_shape``
    (both ``(H, W)``), and, if asked for, ``motion`` (`MotionField`).

    Args:
        to_float32: Return the frame as float32 instead of uint8.
        max_open_videos: Number of video files that are kept open at the same time. If more are read
            in turn, each turn decodes its file from the start: keep it above the number of streams.
        motion: Export the motion vectors of videos, for `MotionVectorPolicy`.

    Raises:
        ConfigError: If ``max_open_videos`` is below 1.
    """

    def __init__(
        self, to_float32: bool = False, max_open_videos: int = 64, motion: bool = False
    ) -> None:
        if max_open_videos < 1:
            raise ConfigError(f"max_open_videos must be at least 1, but got {max_open_videos}")
        self.to_float32 = to_float32
        self.max_open_videos = max_open_videos
        self.motion = motion
        self._sources: OrderedDict[tuple[str, int | None], FrameSource] = OrderedDict()

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Load the frame that ``results`` names.

        Returns:
            ``results`` with the added keys.

        Raises:
            FrameError: If the frame cannot be read, has another size than ``height``, ``width``, or
                has no motion vectors.
        """
        path, number = results["video_path"], results["frame_number"]
        # One reader for each stream: if a file is two streams, each decodes it separately.
        key = (path, results.get("video_id"))
        source = self._source(key)
        frame = source.read(number)
        if self.motion:
            results["motion"] = source.read_motion(number)
        expected = (results.get("height", frame.shape[0]), results.get("width", frame.shape[1]))
        if frame.shape[:2] != expected:
            raise FrameError(
                f"frame {number} of {path!r} is {frame.shape[0]}x{frame.shape[1]} px, but "
                f"{expected[0]}x{expected[1]} px were expected; a stream keeps its size: the file "
                "has changed since it was listed, or mixes sizes and must be split"
            )
        if "video_length" in results and results.get("frame_id") == results["video_length"] - 1:
            source.close()
            del self._sources[key]
        results["img"] = frame.astype(np.float32) if self.to_float32 else frame
        results["img_shape"] = frame.shape[:2]
        results["ori_shape"] = frame.shape[:2]
        return results

    def _source(self, key: tuple[str, int | None]) -> FrameSource:
        if key not in self._sources:
            self._sources[key] = open_frames(key[0], self.motion)
            while len(self._sources) > self.max_open_videos:
                _, oldest = self._sources.popitem(last=False)
                oldest.close()
        self._sources.move_to_end(key)
        return self._sources[key]

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(to_float32={self.to_float32}, "
            f"max_open_videos={self.max_open_videos}, motion={self.motion})"
        )

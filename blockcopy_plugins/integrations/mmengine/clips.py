"""Single frames in the form in which trackers take clips."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn


class Clips:
    """Makes a clip of one frame of each of a batch, and frames of what a tracker returns."""

    def __init__(self, sample: type) -> None:
        self._sample = sample

    def wrap(self, data: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """What a tracker's preprocessor takes.

        Args:
            data: ``inputs``, tensors ``(3, H, W)``, and their ``data_samples``.
        """
        clips = []
        for sample in data["data_samples"]:
            clip = self._sample()
            clip.video_data_samples = [sample]
            clips.append(clip)
        return {"inputs": [x[None] for x in data["inputs"]], "data_samples": clips}

    def unwrap(self, clips: list[Any]) -> list[Any]:
        """The frames' data samples."""
        return [frame for clip in clips for frame in clip.video_data_samples]


def clips_of(model: nn.Module) -> Clips | None:
    """How a model takes clips; ``None`` if it takes single images.

    Args:
        model: Of MMEngine's kind.
    """
    # A tracker exists only where its base class has been imported.
    base = sys.modules.get("mmdet.models.mot.base")
    if base is None or not isinstance(model, base.BaseMOTModel):
        return None
    from mmdet.structures import TrackDataSample

    return Clips(TrackDataSample)

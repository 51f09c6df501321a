"""Converts single frames into the clips that trackers take."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn


class Clips:
    """Turns each frame of a batch into a clip of one frame, and a tracker's results back."""

    def __init__(self, sample: type) -> None:
        self._sample = sample

    def wrap(self, data: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """The input of a tracker's preprocessor.

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
        model: A model of MMEngine's kind.
    """
    # If the base class of trackers has not been imported, there is no tracker.
    base = sys.modules.get("mmdet.models.mot.base")
    if base is None or not isinstance(model, base.BaseMOTModel):
        return None
    from mmdet.structures import TrackDataSample

    return Clips(TrackDataSample)

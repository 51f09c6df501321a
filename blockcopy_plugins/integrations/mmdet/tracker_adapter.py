"""MMDetection's trackers: frame by frame, with the detector inside on blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from mmdet.models.detectors.base import BaseDetector
from mmdet.models.mot.base import BaseMOTModel
from torch import Tensor, nn

from ...engine.adapter import Call, Removable
from ...errors import ConfigError, FrameError
from ..common.handed_blocks import HandedBlocks
from ..common.network_scale import at_network_scale
from ..common.sample_motion import motion_of
from ..mmengine.sample_adapter import SampleAdapter, SampleCall
from .adapter import DetectorAdapter, found_in


class TrackerAdapter(SampleAdapter):
    """Any ``BaseMOTModel`` around a detector: ByteTrack, SORT, QDTrack, MaskTrack R-CNN, ...

    Frames of the inputs ``(1, T, C, H, W)`` run one after the other. Backbone, neck and dense heads
    of the detector run on blocks; RoI heads, re-identification and association run dense. Streams
    are the ``video_id`` of the frames' data samples; without one, all frames belong to one stream,
    which starts again at a ``frame_id`` of 0.

    Args:
        model: The tracker.

    Raises:
        ConfigError: If it takes several frames at once.
    """

    _KIND = "tracker"
    runs_once = "each run continues its tracks"

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(getattr(model, "detector", None), BaseDetector):
            raise ConfigError(
                f"{type(model).__name__} has no detector that takes one frame at a time, "
                "expected a tracker such as ByteTrack, SORT or MaskTrack R-CNN. Convert its "
                "backbone, bc.blockcopy_(model.backbone, ...), and give it the frames in order."
            )
        self._detector = DetectorAdapter()
        self._blocks = HandedBlocks()

    @staticmethod
    def fits(model: nn.Module) -> bool:
        """Whether the model is a tracker of MMDetection."""
        return isinstance(model, BaseMOTModel)

    def attach(self, model: nn.Module) -> Iterable[Removable]:
        """Hand the frame's blocks to the detector's backbone."""
        yield from super().attach(model)
        yield from self._blocks.attach(model.detector.backbone)

    def turns(self, args: tuple, kwargs: Mapping[str, Any], named: bool) -> Sequence[Call | None]:
        """See :meth:`ModelAdapter.turns`: the frames, in their order."""
        given = dict(zip(("inputs", "data_samples", "mode"), args, strict=False)) | dict(kwargs)
        inputs, samples = given.get("inputs"), given.get("data_samples")
        mode = given.get("mode", "predict")
        if mode == "loss" and not torch.is_grad_enabled():
            return (None,)
        shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        if mode != "predict" or not isinstance(inputs, Tensor) or inputs.dim() != 5:
            raise FrameError(
                f"the tracker was called for mode {mode!r} with inputs {shape}, expected 'predict' "
                "and a tensor (1, T, C, H, W) of frames: tracker.test_step(data), as its dataset "
                "returns it. Call restore_(model) before training."
            )
        if len(inputs) != 1 or not samples or len(samples) != 1:
            raise FrameError(
                f"the tracker was called with inputs {shape} and {len(samples or ())} data "
                "samples, expected one video at a time: batch_size=1 in the data loader."
            )
        whole = samples[0]
        frames = inputs.unbind(1)
        if len(whole) != len(frames):
            raise FrameError(
                f"the tracker was called with {len(frames)} frames and the data samples of "
                f"{len(whole)}, expected one for each frame."
            )
        before = self._clock.take()
        return tuple(
            self._turn(given, frame, whole, place, before if place == 0 else 0.0)
            for place, frame in enumerate(frames)
        )

    def join_turns(self, outputs: Sequence[Any]) -> list[Any]:
        """The tracks of all frames in one ``TrackDataSample``."""
        (whole,) = outputs[0]
        joined = type(whole)(metainfo=whole.metainfo)
        joined.video_data_samples = [frame for (one,) in outputs for frame in _frames(one)]
        return [joined]

    def read_only_inputs(self, model: nn.Module) -> Iterable[nn.Module]:
        """RoI extractors, those of the tracker's heads too."""
        return self._detector.read_only_inputs(model)

    def dense_outputs(self, model: nn.Module) -> Iterable[nn.Module]:
        """The dense heads of the detector."""
        return self._detector.dense_outputs(model.detector)

    def task_outputs(self, outputs: Any, call: Call) -> list | None:
        """The tracks of the frame; before there are any, its detections."""
        (sample,) = _frames(outputs[0])
        found = sample.get("pred_track_instances", sample.get("pred_instances"))
        if found is None:
            return None
        return at_network_scale([found_in(sample, found)], tuple(call.frame.shape[2:]))

    def take_apart(self, outputs: Any, call: Call) -> None:
        """Nothing: a frame without executed blocks is still one more frame for the tracks."""
        return None

    def _turn(
        self, given: Mapping[str, Any], frame: Tensor, whole: Any, place: int, before: float
    ) -> Call:
        sample = whole[place]
        info = {"video_id": "video", **sample.metainfo}
        ids, restarts = self._ids.read([SimpleNamespace(metainfo=info)])
        one = type(whole)(metainfo=whole.metainfo)
        one.video_data_samples = [sample]
        return SampleCall(
            frame=frame,
            replace=partial(self._replace, {**given, "data_samples": [one]}, frame),
            streams=ids,
            restarts=restarts,
            motion=motion_of([sample]),
            seconds_before=before,
            samples=[one],
        )

    def _replace(self, given: Mapping[str, Any], frame: Tensor, blocks: Tensor):
        self._blocks.give(blocks)
        return (), {**given, "inputs": frame.unsqueeze(1)}


def _frames(whole: Any) -> list[Any]:
    return whole.video_data_samples

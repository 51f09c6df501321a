"""Runs a model of MMDetection or MMSegmentation on a video or camera, frame by frame."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ...api import blockcopy_
from ...checkpoints.model_weights import readable_weights
from ...config import BlockCopyConfig
from ...datasets.ground_truth.class_names import check_class_names
from ...datasets.live_frame import DecodedFrame
from ...datasets.live_pipeline import LivePipeline
from ...datasets.live_source import LiveSource
from ...datasets.packed_frame import known_metainfo
from ...engine.convert import handle, restore_
from ...errors import ConfigError, FrameError, StateError
from ...options import read_options
from ..common.closing import Closing
from ..common.given_config import conversion_config, refuse_weights_of_built_model
from ..common.sample_motion import at_input_scale
from .backbone import BlockCopyBackbone
from .buildable import buildable
from .checkpoint_check_hook import fitting_weights
from .clips import clips_of
from .prepared_frames import PreparedFrame, PreparedFrames
from .video_config import hook_options, read_config, set_weights
from .video_dataloader import video_dataloader


@dataclass(frozen=True, eq=False)
class FrameOutput:
    """What a :class:`VideoInferencer` returns for a frame.

    Attributes:
        source: Index of the source in a :meth:`VideoInferencer.batch`, else 0.
        index: Number of the frame in its source, from 0; dropped frames count.
        time: Seconds, in a file by its container, in a live source since reading began; None if it
            is not known.
        frame: uint8 ``(H, W, 3)``, BGR.
        prediction: The data sample of MMDetection or MMSegmentation on the CPU, in pixels of
            ``frame``; a tracker's has ``pred_track_instances``.
        grid: bool ``(GH, GW)`` on the CPU, the blocks of the network's input that were executed.
        restarted: Whether the stream started again with this frame: it is the first one, or has
            another size than the previous one.
        ms_model: Milliseconds of the test step without the policy; in a batch, the frame's share.
        ms_policy: Milliseconds of the policy, with learning; in a batch, the frame's share.
        dropped: Frames of the source that were dropped so far.
        corrupt: Frames of the source that could not be decoded so far.
        executed_rate: Executed blocks / all blocks; blocks that ran twice, to compare, count twice.
        decoded: The frame as FFmpeg's decoder gave it, if there was one.
    """

    source: int
    index: int
    time: float | None
    frame: np.ndarray
    prediction: Any
    grid: Tensor
    restarted: bool
    ms_model: float
    ms_policy: float
    dropped: int
    corrupt: int
    executed_rate: float
    decoded: DecodedFrame | None = None


class VideoInferencer(Closing):
    """Runs a detector, segmentor or tracker block-sparsely on video; keeps no earlier frames.

    Frames go through the config's own test pipeline and the model's data preprocessor. Each source
    is a stream, which ends with the source and starts again if the size of its frames changes. The
    policy keeps what it learned from one source to the next.

    Args:
        model: A model with its config as ``model.cfg``, such as that of ``init_detector``,
            ``init_model``, ``init_track_model``, ``DetInferencer(...).model`` and
            ``MMSegInferencer(...).model``; or the path of a config file.
        config: How it should run: a :class:`~blockcopy_plugins.BlockCopyConfig`, or options of
            :class:`BlockCopyHook` (``dict(block_size=64, policy=..., policy_checkpoint=...)``;
            ``interleaved`` and ``one_video`` have no effect here). ``None`` takes the
            ``BlockCopyHook`` of the model's config, or the defaults.
        weights: The weights if ``model`` is a path, a file or URL; ``None`` takes the config's
            ``load_from``.
        device: The model's device. ``None`` leaves a model where it is, and builds one on a GPU if
            there is one.

    Attributes:
        model: The model; converted until :meth:`close`.
        handle: Its :class:`~blockcopy_plugins.engine.session.Session`.
        metainfo: ``classes`` and ``palette`` of the config's data set, else of the model.

    Raises:
        ConfigError: If the config or an option is wrong, the weights do not fit, or the model is
            converted already.

    Examples:
        >>> with VideoInferencer(init_detector(config, weights)) as inferencer:
        ...     for output in inferencer('street.mp4'):
        ...         print(output.index, output.executed_rate, output.prediction.pred_instances)
        >>> with VideoInferencer('my_config.py', weights='my_weights.pth') as inferencer:
        ...     for outputs in inferencer.batch(['rtsp://camera0/live', 'rtsp://camera1/live']):
        ...         print([(output.source, output.dropped) for output in outputs])
    """

    def __init__(
        self,
        model: nn.Module | str | os.PathLike[str],
        config: BlockCopyConfig | Mapping[str, Any] | None = None,
        weights: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        if isinstance(model, nn.Module):
            refuse_weights_of_built_model(weights)
            if getattr(model, "cfg", None) is None:
                raise ConfigError(
                    f"the {type(model).__name__} has no config, which says how frames become its "
                    "inputs. Set model.cfg to the mmengine Config, take a model of init_detector "
                    "or init_model, or give the path of a config."
                )
            self.model, model_config = model, copy.deepcopy(model.cfg)
            if device is not None:
                self.model.to(device)
        else:
            self.model, model_config = _build(os.fspath(model), weights, device or get_device())
        scope = model_config.get("default_scope", "mmdet")
        loader = video_dataloader(model_config, videos=["frames"], is_judged=False)
        dataset = loader["dataset"]
        with buildable("the test pipeline"):
            self._pipeline = LivePipeline(dataset["pipeline"], scope)
        self.metainfo: dict[str, Any] = _metainfo(dataset.get("metainfo"), self.model)
        if any(isinstance(module, BlockCopyBackbone) for module in nn.Module.modules(self.model)):
            raise ConfigError(
                "the model's backbone is a BlockCopyBackbone. Take the config without that "
                "wrapper: a VideoInferencer runs the whole model on blocks."
            )
        self._clips = clips_of(self.model)
        # Each source is a video and a stream, whatever the options say about streams.
        place = "VideoInferencer"
        blockcopy_(
            self.model,
            conversion_config(
                config, lambda: read_options(hook_options(model_config), place).config, place
            ),
        )
        self.handle = handle(self.model)
        self._streams: dict[int, _Stream] = {}
        self._closed = False

    def __call__(self, source: Any) -> Iterator[FrameOutput]:
        """Run a video, camera or program's frames.

        Args:
            source: A :class:`~blockcopy_plugins.datasets.live_source.LiveSource`, or what it can be
                made from: a video file, a folder of frames, the index of a camera, an address
                (``rtsp://...``), or an iterable of uint8 ``(H, W, 3)`` BGR frames.

        Yields:
            One output for each frame. Leaving the loop stops reading.

        Raises:
            FrameError: If the source cannot be read, or a frame cannot be run.
            StateError: If the inferencer is closed.
        """
        for (output,) in self.batch([source]):
            yield output
            del output  # not kept alive while the next one is computed

    def batch(self, sources: Sequence[Any]) -> Iterator[tuple[FrameOutput, ...]]:
        """Run several sources in step, so that their frames share a call of the model.

        Frames whose network inputs have different sizes go through the model in separate calls.
        When a source ends, the others go on.

        Args:
            sources: Each as for :meth:`__call__`.

        Yields:
            One output for each source that has not ended, in their order.

        Raises:
            FrameError: If a source cannot be read, or a frame cannot be run.
            StateError: If the inferencer is closed.
        """
        if self._clips is not None and len(sources) > 1:
            raise ConfigError(
                f"{len(sources)} sources were given, but a tracker has the tracks of one video. "
                "Make a VideoInferencer with a separate model for each."
            )
        running: list[_Stream] = []
        try:
            for number, source in enumerate(sources):
                running.append(self._open(number, source))
            while running:
                outputs = self._step(running)
                if outputs:
                    yield outputs
                del outputs  # not kept alive while the next ones are computed
        finally:
            while running:
                self._end(running.pop())

    @torch.no_grad()
    def run_dense(self, frame: np.ndarray) -> tuple[Any, float]:
        """Run the plain model on a frame, without touching streams and policy.

        Args:
            frame: uint8 ``(H, W, 3)``, BGR.

        Returns:
            Its data sample on the CPU, and the milliseconds of the test step.
        """
        if self._clips is not None:
            raise ConfigError(
                "each run continues a tracker's tracks, so it cannot be run dense beside: "
                "run a second VideoInferencer with policy='all', or the tracker itself."
            )
        inputs, sample = self._pipeline(frame, 0, "dense")
        with self.handle.paused(), known_metainfo([sample]):
            start = time.perf_counter()
            (output,) = self.model.test_step({"inputs": [inputs], "data_samples": [sample]})
            output = output.cpu()
        return output, 1e3 * (time.perf_counter() - start)

    def close(self) -> None:
        """See :meth:`.closing.Closing.close`."""
        if self._closed:
            return
        self._closed = True
        for stream in list(self._streams.values()):
            stream.prepared.close()
        self.handle.reset()
        restore_(self.model)

    def _open(self, number: int, source: Any) -> _Stream:
        if self._closed:
            raise StateError(
                "the VideoInferencer is closed and its model restored. Make a new one, and leave "
                "its with block after the last frame."
            )
        if not isinstance(source, LiveSource):
            source = LiveSource(source)
        if self.handle.policy.needs_motion or self.handle.propagation.needs_vectors:
            try:
                source.export_motion()
            except FrameError:
                source.close()
                raise
        # The lowest free number: ids are used again, so that a million sources leave nothing.
        stream_id = next(i for i in range(len(self._streams) + 1) if i not in self._streams)
        prepared = PreparedFrames(source, self._pipeline)
        self._streams[stream_id] = stream = _Stream(stream_id, number, prepared)
        return stream

    def _end(self, stream: _Stream) -> None:
        stream.prepared.close()
        del self._streams[stream.id]
        self._reset(stream)

    def _reset(self, stream: _Stream) -> None:
        if stream.id in self.handle.states.ids():
            self.handle.reset([stream.id])

    def _step(self, running: list[_Stream]) -> tuple[FrameOutput, ...]:
        """The next frame of each source; those that have ended are removed from ``running``."""
        groups: dict[tuple[int, ...], list[_Waiting]] = {}
        for stream in list(running):
            prepared = stream.prepared.take()
            if prepared is None:
                running.remove(stream)
                self._end(stream)
                continue
            restarts = prepared.frame.image.shape != stream.shape
            if restarts:
                self._reset(stream)
                stream.shape, stream.frames = prepared.frame.image.shape, 0
            prepared.sample.set_metainfo({"frame_id": stream.frames})
            stream.frames += 1
            groups.setdefault(tuple(prepared.inputs.shape), []).append(
                _Waiting(stream, prepared, restarts)
            )
        outputs = [output for group in groups.values() for output in self._run(group)]
        return tuple(sorted(outputs, key=lambda output: output.source))

    @torch.no_grad()
    def _run(self, group: list[_Waiting]) -> list[FrameOutput]:
        """One call of the model."""
        data = {
            "inputs": [one.prepared.inputs for one in group],
            "data_samples": [one.prepared.sample for one in group],
        }
        start = time.perf_counter()
        motion = [
            at_input_scale(one.prepared.frame.motion, one.prepared.sample.metainfo) for one in group
        ]
        with self.handle.named([one.stream.id for one in group]), self.handle.moved(motion):
            # On the CPU before the clock stops, so that the time includes a GPU's work.
            if self._clips is not None:
                data = self._clips.wrap(data)
            with known_metainfo([one.prepared.sample for one in group]):
                predictions = self.model.test_step(data)
            if self._clips is not None:
                predictions = self._clips.unwrap(predictions)
            predictions = [sample.cpu() for sample in predictions]
        ms = 1e3 * (time.perf_counter() - start) / len(group)
        record = self.handle.last
        ms_policy = 1e3 * record.seconds["policy"] / len(group)
        return [
            FrameOutput(
                source=one.stream.number,
                index=one.prepared.frame.index,
                time=one.prepared.frame.time,
                frame=one.prepared.frame.image,
                prediction=prediction,
                grid=grid,
                restarted=one.restarts,
                ms_model=ms - ms_policy,
                ms_policy=ms_policy,
                dropped=one.prepared.dropped,
                corrupt=one.prepared.corrupt,
                executed_rate=rate,
                decoded=one.prepared.frame.decoded,
            )
            for one, prediction, grid, rate in zip(
                group, predictions, record.host_grid, record.rates, strict=True
            )
        ]


@dataclass(eq=False)
class _Stream:
    """A running source: id of its stream, its index among the sources, size of its frames."""

    id: int
    number: int
    prepared: PreparedFrames
    shape: tuple[int, ...] = field(default=())
    frames: int = 0


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A frame for the next call of the model."""

    stream: _Stream
    prepared: PreparedFrame
    restarts: bool


def _build(path: str, weights: Any, device: str | torch.device) -> tuple[nn.Module, Config]:
    config = read_config(path)
    weights = set_weights(config, None if weights is None else os.fspath(weights))
    scope = DefaultScope.overwrite_default_scope(config.get("default_scope", "mmdet"))
    with scope, buildable("the model"):
        model = revert_sync_batchnorm(MODELS.build(config.model))
    with readable_weights(weights):
        checkpoint = CheckpointLoader.load_checkpoint(weights, "cpu", logger="silent")
        model.load_state_dict(fitting_weights(model, checkpoint, weights), strict=False)
    model.cfg = config
    return model.to(device).eval(), config


def _metainfo(metainfo: Any, model: nn.Module) -> dict[str, Any]:
    if isinstance(metainfo, str):
        metainfo = getattr(DATASETS.get(metainfo), "METAINFO", None)
    if metainfo and isinstance(metainfo.get("classes"), str):
        check_class_names(metainfo["classes"])
    if not (metainfo and metainfo.get("classes")):
        metainfo = getattr(model, "dataset_meta", None) or {}
    known = {name: metainfo.get(name) for name in ("classes", "palette")}
    # MMDetection's models may have the name of a palette, such as 'random'.
    return {name: value for name, value in known.items() if value and not isinstance(value, str)}

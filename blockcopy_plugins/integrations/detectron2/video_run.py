"""Runs each batch of frames block-sparsely, and dense beside it, and takes note of the cost."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from ...engine.frame_record import FrameRecord
from ...engine.macs import MacCounter
from ...engine.report import Totals
from ...engine.session import Session
from ...errors import ConfigError
from ..frame_entry import FrameEntry
from ..policy_meter import PolicyMeter
from ..stream_ids import StreamIds

logger = logging.getLogger(__name__)


class VideoRun:
    """A converted model as the callable that ``inference_on_dataset`` takes.

    Streams are the ``video_id`` of the inputs; a stream begins anew where its video does, and is
    forgotten when its video is in no batch any more. Inputs without one are taken for pictures that
    have nothing to do with each other: each is executed fully, and a warning says so once.

    Of two runs of a frame the first one is the dense one in every other call, so that warm caches
    favour neither. The dense run leaves state and policy alone.

    Args:
        model: The model, converted, in eval mode.
        handle: Of the model, or of its wrapped backbone.
        dense: Run dense too.
        warmup: So many first calls are not timed.
        mac_samples: MACs outside the blocks are counted in about so many frames of each video,
            which are not timed, as counting slows them down.
        restart_policy: Start each video with the policy as it was at first.

    Attributes:
        dense_outputs: Of the last call, ``None`` where it did not run dense.
        entries: Figures of all frames so far.
        last_entries: Those of the last call.
        totals: What the engine counted so far.

    Raises:
        ConfigError: If an option is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        handle: Session,
        dense: bool = True,
        warmup: int = 3,
        mac_samples: int = 8,
        restart_policy: bool = True,
    ) -> None:
        if warmup < 0 or mac_samples < 0:
            raise ConfigError(
                f"warmup and mac_samples must be at least 0, found {warmup} and {mac_samples}."
            )
        self.model = model
        self.handle = handle
        self.dense = dense
        self.warmup = warmup
        self.mac_samples = mac_samples
        self.restart_policy = restart_policy
        self.dense_outputs: list[dict[str, Any]] | None = None
        self.entries: list[FrameEntry] = []
        self.last_entries: tuple[FrameEntry, ...] = ()
        self.totals = Totals()
        self._first_policy = copy.deepcopy(handle.policy.state_dict())
        self._ids = StreamIds()
        self._calls = self._timed_calls = self._pictures = 0

    @torch.no_grad()
    def __call__(self, inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Run the next frames.

        Args:
            inputs: One dict for each image, of different videos.

        Returns:
            The outputs of the block-sparse run.

        Raises:
            ConfigError: If the policy is to start again with a video and there are several in the
                batch.
        """
        ids = self._begin(inputs)
        counted = self._is_counted(inputs[0])
        timed = self._calls >= self.warmup and not counted
        runs = [("blockcopy", self._run_sparse)]
        if self.dense:
            runs.insert(self._timed_calls % 2, ("dense", self._run_dense))
        self._calls += 1
        self._timed_calls += timed
        outputs, seconds, macs = {}, {}, {}
        with self.handle.named(ids):
            for name, run in runs:
                outputs[name], seconds[name], macs[name] = run(inputs, counted)
        record = self.handle.last
        self.totals.add(
            record.host_grid, record.counts, record.seconds, record.guards, record.twice
        )
        self.dense_outputs = outputs.get("dense")
        self.last_entries = tuple(
            self._entry(i, given, len(inputs), record, seconds, macs, timed)
            for i, given in enumerate(inputs)
        )
        self.entries += self.last_entries
        return outputs["blockcopy"]

    def _begin(self, inputs: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Streams of a batch; what has ended is forgotten."""
        ids, restarts = self._ids.read([SimpleNamespace(metainfo=x) for x in inputs])
        handle = self.handle
        if ids is None:
            if not self._pictures:
                logger.warning(
                    "the inputs have no video_id, so each image is executed fully, as if it had "
                    "nothing to do with the one before; load frames by VideoFrameDataset."
                )
            handle.reset()
            ids = tuple(f"picture {self._pictures + i}" for i in range(len(inputs)))
            self._pictures += len(inputs)
            return list(ids)
        handle.reset([i for i in handle.states.ids() if i in restarts or i not in ids])
        if self.restart_policy and restarts:
            if len(inputs) > 1:
                raise ConfigError(
                    f"restart_policy=True needs batches of one image, found {len(inputs)}: the "
                    "policy that starts again with a video would start again for the others too. "
                    "Set batch_size=1 or restart_policy=False."
                )
            handle.policy.load_state_dict(copy.deepcopy(self._first_policy))
        return list(ids)

    def _run_dense(self, inputs: Sequence[Mapping[str, Any]], counted: bool):
        with self.handle.paused():
            if not counted:
                return *_timed(self.model, inputs), None
            with MacCounter() as counter:
                outputs, seconds = _timed(self.model, inputs)
            return outputs, seconds, counter.macs

    def _run_sparse(self, inputs: Sequence[Mapping[str, Any]], counted: bool):
        if not counted:
            return *_timed(self.model, inputs), None
        policy = self.handle.policy
        with MacCounter() as counter:
            self.handle.policy = meter = PolicyMeter(policy, counter)
            try:
                outputs, seconds = _timed(self.model, inputs)
            finally:
                self.handle.policy = policy
        return outputs, seconds, counter.macs - meter.counted

    def _is_counted(self, given: Mapping[str, Any]) -> bool:
        """By the place in the video alone, so that any number of processes counts the same."""
        if self.mac_samples == 0:
            return False
        frame_id, length = given.get("frame_id", 0), given.get("video_length", 1)
        interval = max(2, length // self.mac_samples)
        return frame_id % interval == (1 if length > 1 else 0)

    def _entry(
        self,
        image: int,
        given: Mapping[str, Any],
        images: int,
        record: FrameRecord,
        seconds: Mapping[str, float],
        macs: Mapping[str, int | None],
        timed: bool,
    ) -> FrameEntry:
        grid, counts = record.host_grid[image], record.counts
        outside, outside_dense = macs["blockcopy"], macs.get("dense")
        if outside is not None:
            outside = (outside - counts.blocks - counts.densified) / images
        if outside_dense is not None:
            outside_dense = (outside_dense - counts.blocks_dense - counts.densified) / images
        video_id = given.get("video_id", 0)
        return FrameEntry(
            video_id=video_id,
            frame_id=given.get("frame_id", len(self.entries) + image),
            video_name=str(given.get("video_name", video_id)),
            size=record.size,
            grid=tuple(grid.shape),
            executed_rate=record.rates[image],
            macs_blocks=counts.blocks / images,
            macs_blocks_dense=counts.blocks_dense / images,
            macs_densified=counts.densified / images,
            macs_outside=outside,
            macs_outside_dense=outside_dense,
            ms_dense=1e3 * seconds["dense"] / images if "dense" in seconds else None,
            ms_blockcopy=1e3 * seconds["blockcopy"] / images,
            ms_policy=1e3 * record.seconds.get("policy", 0.0) / images,
            timed=timed,
            # Nothing is waited for: the clock was stopped once the device had come here.
            scalars=dict(record.scalars),
            frame_number=given.get("frame_number"),
        )


def _timed(function: Callable, inputs: Any) -> tuple[Any, float]:
    """Result of a call and its seconds, of the device's work too."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = function(inputs)
    if on_gpu:
        torch.cuda.synchronize()
    return result, time.perf_counter() - start

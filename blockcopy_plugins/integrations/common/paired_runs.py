"""Runs each batch of frames both block-sparsely and dense, and records the cost."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ...engine.frame.host_grid import HostGrid
from ...engine.frame_record import FrameRecord
from ...engine.macs import MacCounter
from ...engine.report import Totals
from ...engine.session import Session
from ...errors import ConfigError
from .frame_entry import FrameEntry
from .policy_meter import policy_macs


@dataclass(frozen=True)
class RunOptions:
    """How each frame is run and measured.

    Attributes:
        dense: Also run each frame dense.
        warmup: How many first calls of a process are not timed.
        mac_samples: In about how many frames of each video MACs outside the blocks are counted;
            these are not timed, as counting slows them down.
        restart_policy: Start each video with the policy as it was at first.

    Raises:
        ConfigError: If a number is below 0.
    """

    dense: bool = True
    warmup: int = 3
    mac_samples: int = 8
    restart_policy: bool = True

    def __post_init__(self) -> None:
        if self.warmup < 0 or self.mac_samples < 0:
            raise ConfigError(
                f"warmup and mac_samples must be at least 0, found {self.warmup} and "
                f"{self.mac_samples}."
            )

    def counts_macs(self, info: Mapping[str, Any]) -> bool:
        """Whether MACs outside the blocks are counted in a frame.

        This only depends on its place in the video, so that any number of processes counts the
        same.

        Args:
            info: ``frame_id`` and ``video_length`` of the frame, if they are known.
        """
        if self.mac_samples == 0:
            return False
        frame_id, length = info.get("frame_id", 0), info.get("video_length", 1)
        interval = max(2, length // self.mac_samples)
        return frame_id % interval == (1 if length > 1 else 0)


@dataclass(frozen=True, eq=False)
class BatchRuns:
    """The runs of a batch.

    Attributes:
        outputs: The model's outputs by run: ``blockcopy`` and, if it ran, ``dense``.
        record: Record of the block-sparse call.
        timed: Whether the times count.
    """

    outputs: Mapping[str, Any]
    record: FrameRecord
    timed: bool
    _seconds: Mapping[str, float]
    _macs: Mapping[str, int | None]

    def entry(self, image: int, info: Mapping[str, Any]) -> FrameEntry:
        """The figures of one image.

        Args:
            image: Its index in the batch.
            info: ``video_id`` and ``frame_id``; ``video_name`` and ``frame_number`` if known.
        """
        record, seconds = self.record, self._seconds
        counts, images = record.counts, len(record.host_grid)
        outside, outside_dense = self._macs["blockcopy"], self._macs.get("dense")
        if outside is not None:
            outside = (outside - counts.blocks - counts.densified) / images
        if outside_dense is not None:
            outside_dense = (outside_dense - counts.blocks_dense - counts.densified) / images
        return FrameEntry(
            video_id=info["video_id"],
            frame_id=info["frame_id"],
            video_name=str(info.get("video_name", info["video_id"])),
            size=record.size,
            grid=tuple(record.host_grid[image].shape),
            executed_rate=record.rates[image],
            macs_blocks=counts.blocks / images,
            macs_blocks_dense=counts.blocks_dense / images,
            macs_densified=counts.densified / images,
            macs_outside=outside,
            macs_outside_dense=outside_dense,
            ms_dense=1e3 * seconds["dense"] / images if "dense" in seconds else None,
            ms_blockcopy=1e3 * seconds["blockcopy"] / images,
            ms_policy=1e3 * record.seconds.get("policy", 0.0) / images,
            timed=self.timed,
            # This waits for nothing: the clock was stopped after the device had finished.
            scalars=dict(record.scalars),
            frame_number=info.get("frame_number"),
        )


class PairedRuns:
    """Calls a converted model on batch after batch.

    In every other timed call, the dense run comes first, so that warm caches favour neither. The
    dense run does not touch state and policy.

    Args:
        handle: Handle of the model, or of its wrapped backbone.
        options: How frames are run and measured.

    Attributes:
        totals: What the engine has counted so far.
    """

    def __init__(self, handle: Session, options: RunOptions) -> None:
        self.handle = handle
        self.options = options
        self.totals = Totals()
        self._first_policy = copy.deepcopy(handle.policy.state_dict())
        self._calls = self._timed_calls = 0

    def start_video(self, images: int) -> None:
        """Begin a video; if the options say so, with the policy as it was at first.

        Args:
            images: Number of images of the batch in which it begins.

        Raises:
            ConfigError: If others are in the batch, for which the policy would start again, too.
        """
        if not self.options.restart_policy:
            return
        if images > 1:
            raise ConfigError(
                f"restart_policy=True needs batches of one image, found {images}: the policy "
                "that starts again with a video would start again for the others too. Set "
                "batch_size=1 or restart_policy=False."
            )
        self.handle.policy.load_state_dict(copy.deepcopy(self._first_policy))

    def run(
        self, model: Callable[[Any], Any], inputs: Callable[[], Any], first: Mapping[str, Any]
    ) -> BatchRuns:
        """Run the next batch.

        Args:
            model: The model, which is timed.
            inputs: Makes the model's inputs anew for each run; not timed.
            first: ``frame_id`` and ``video_length`` of the first image, if they are known.
        """
        counted = self.options.counts_macs(first)
        timed = self._calls >= self.options.warmup and not counted
        runs = [("blockcopy", self._run_sparse)]
        if self.options.dense:
            runs.insert(self._timed_calls % 2, ("dense", self._run_dense))
        self._calls += 1
        self._timed_calls += timed
        outputs, seconds, macs = {}, {}, {}
        for name, run in runs:
            outputs[name], seconds[name], macs[name] = run(model, inputs(), counted)
        record = self.handle.last
        blocks = HostGrid(record.host_grid)
        self.totals.add(blocks, record.counts, record.seconds, record.guards, record.twice)
        return BatchRuns(outputs, record, timed, seconds, macs)

    def _run_dense(self, model: Callable, given: Any, counted: bool):
        with self.handle.paused():
            if not counted:
                return *_timed(model, given), None
            with MacCounter() as counter:
                outputs, seconds = _timed(model, given)
            return outputs, seconds, counter.macs

    def _run_sparse(self, model: Callable, given: Any, counted: bool):
        if not counted:
            return *_timed(model, given), None
        with MacCounter() as counter, policy_macs(self.handle.policy, counter) as of_policy:
            outputs, seconds = _timed(model, given)
        return outputs, seconds, counter.macs - of_policy.counted


def _timed(model: Callable, given: Any) -> tuple[Any, float]:
    """Result of a call and its seconds, including the device's work."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = model(given)
    if on_gpu:
        torch.cuda.synchronize()
    return result, time.perf_counter() - start

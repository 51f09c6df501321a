"""The test loop that runs every frame densely and block-sparsely, and compares."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from mmengine.dist import all_gather_object, broadcast_object_list, get_world_size, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, Runner

from ...engine.frame_record import FrameRecord
from ...engine.macs import MacCounter
from ...engine.report import Totals
from ...engine.session import Session
from ...errors import ConfigError
from ...evaluation import TemporalConsistencyMetric
from ...registry import LOOPS
from ..comparison import agreement_figures, merge_guards, plain, summarise
from ..frame_entry import FrameEntry
from ..partial_run import partial_run
from ..policy_meter import PolicyMeter
from ..readable_batches import ReadableBatches, with_late_ones
from .hook import find_hook, unwrap
from .task import task_for


@LOOPS.register_module()
class BlockCopyTestLoop(BaseLoop):
    """Tests a detector or segmentor on video, each frame dense and block-sparse, in one process.

    :class:`BlockCopyHook` must be among the hooks: it converts the model. Of two runs of a frame
    the first one is the dense one in every other frame, so that warm caches favour neither. The
    dense run leaves state and policy alone. Times are those of the whole test step, data
    preprocessing, policy and post-processing included, loading not.

    Each video starts with the policy as it was before the first one: results then depend neither on
    the order of the videos nor on the number of processes among which whole videos are dealt.

    After the run ``summary`` has the figures, the same in every process, and ``entries`` those of
    each frame; see :func:`.comparison.summarise` for what they mean.

    Args:
        runner: The runner.
        dataloader: Of a ``VideoFrameDataset``, in the order of a ``VideoSampler``.
        evaluator: Its metrics are computed of both runs. Where none of them is a
            ``FrameDetectionMetric`` (of a segmentor a ``FrameSegmentationMetric``), one is added.
            ``CityPersonsMetric`` is one, and adds log-average miss rates.
        dense: Run dense too. Without it there is neither fidelity nor dense time.
        warmup: So many first calls of a process are not timed.
        mac_samples: MACs outside the blocks are counted in about so many frames of each video,
            which are not timed, as counting slows them down.
        restart_policy: Start each video with the policy as it was at first. Needs batches of one
            image; with ``False`` what is learned goes over to the next video.
        fidelity_threshold: Score from which a dense detection has to be found; of no use for
            segmentors.
        progress: Show a progress bar on stderr.
        temporal_consistency: Of segmentors, compute a ``TemporalConsistencyMetric`` of both runs
            too. The optical flow that it needs is computed once a frame, and is not timed.

    Raises:
        ConfigError: If an option is out of range or the dataset is not one of video frames.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: Any,
        evaluator: Any,
        dense: bool = True,
        warmup: int = 3,
        mac_samples: int = 8,
        restart_policy: bool = True,
        fidelity_threshold: float = 0.3,
        progress: bool = False,
        temporal_consistency: bool = True,
    ) -> None:
        super().__init__(runner, dataloader)
        if warmup < 0 or mac_samples < 0:
            raise ConfigError(
                f"warmup and mac_samples must be at least 0, found {warmup} and {mac_samples}."
            )
        if not hasattr(self.dataloader.dataset, "video_of"):
            raise ConfigError(
                f"BlockCopyTestLoop needs frames of videos, but the dataset is a "
                f"{type(self.dataloader.dataset).__name__}. Use "
                "dataset=dict(type='blockcopy_plugins.VideoFrameDataset', videos=...)."
            )
        self.dense = dense
        self.warmup = warmup
        self.mac_samples = mac_samples
        self.restart_policy = restart_policy
        self.task = task_for(type(unwrap(runner.model)), fidelity_threshold)
        self.progress = progress
        self.temporal_consistency = temporal_consistency
        names = ("dense", "blockcopy") if dense else ("blockcopy",)
        self.evaluators = {name: self._build_evaluator(evaluator) for name in names}
        self.evaluator = self.evaluators["blockcopy"]
        self._share_flows()
        meta = getattr(self.dataloader.dataset, "metainfo", None)
        for built in self.evaluators.values():
            built.dataset_meta = meta
        runner.visualizer.dataset_meta = meta
        self.entries: tuple[FrameEntry, ...] = ()
        self.last_entries: tuple[FrameEntry, ...] = ()
        self.summary: dict[str, Any] = {}
        self._totals = Totals()
        self._skipped: list[str] = []  # what is wrong with frames that could not be read on the way
        self._started: Any = None  # the video that the policy began with last
        self._first_policy: dict[str, Any] = {}
        self._timed_calls = 0

    def run(self) -> dict[str, float]:
        """Run all frames.

        Returns:
            The metrics, with ``dense/``, ``blockcopy/`` and ``fidelity/`` in front, and the main
            figures of :attr:`summary`.

        Raises:
            ConfigError: If no hook has converted the model.
        """
        runner = self.runner
        runner.call_hook("before_test")
        runner.call_hook("before_test_epoch")
        runner.model.eval()
        handle = find_hook(runner).handle
        # One policy for all processes: without a seed each has drawn its own.
        state = [handle.policy.state_dict()]
        broadcast_object_list(state)
        self._first_policy = state[0]
        handle.policy.load_state_dict(copy.deepcopy(self._first_policy))

        self._totals, self._timed_calls, self._started = Totals(), 0, None
        self._skipped.clear()
        self.task.begin(self.evaluator.dataset_meta)
        for evaluator in self.evaluators.values():
            for metric in evaluator.metrics:
                metric.results.clear()  # of a run that failed
        entries: list[FrameEntry] = []
        self.summary, self.entries = {}, ()
        batches = ReadableBatches(self.dataloader, self._skipped)
        try:
            for index, data_batch in enumerate(self._shown(batches)):
                entries += self._run_iter(index, data_batch, handle)
        except (Exception, KeyboardInterrupt) as problem:
            # Of several processes the others do not know of it, and would wait for each other.
            if entries and get_world_size() == 1:
                self._keep_part(entries, handle, problem)
            raise
        self.summary, self.entries = self._summary(entries, handle)

        metrics = _flat(self.summary)
        runner.call_hook("after_test_epoch", metrics=metrics)
        runner.call_hook("after_test")
        return metrics

    def _keep_part(
        self, entries: list[FrameEntry], handle: Session, problem: BaseException
    ) -> None:
        """The figures of what was done before a run ended too early, marked as such."""
        partial = partial_run(problem, len(entries), len(self.dataloader.dataset))
        self.entries = tuple(entries)
        try:
            self.summary, self.entries = self._summary(entries, handle, partial)
        except Exception as error:  # the problem is the news; figures without metrics are better
            print_log(
                f"no metrics of the frames that were run: {error}",
                logger="current",
                level=logging.WARNING,
            )
            self.summary = plain({**summarise(entries), "partial": partial})

    @torch.no_grad()
    def _run_iter(self, index: int, data_batch: dict, handle: Session) -> list[FrameEntry]:
        runner = self.runner
        runner.call_hook("before_test_iter", batch_idx=index, data_batch=data_batch)
        infos = [dict(sample.metainfo) for sample in data_batch["data_samples"]]
        self._start_videos(infos, handle)
        images = len(infos)

        counted = self._is_counted(infos)
        timed = index >= self.warmup and not counted
        runs = [("blockcopy", self._run_sparse)]
        if self.dense:
            runs.insert(self._timed_calls % 2, ("dense", self._run_dense))
        self._timed_calls += timed
        outputs, seconds, macs = {}, {}, {}
        for name, run in runs:
            # Both runs get samples of their own: the model writes its predictions into them.
            fresh = {
                **data_batch,
                "data_samples": [sample.clone() for sample in data_batch["data_samples"]],
            }
            outputs[name], seconds[name], macs[name] = run(fresh, handle, counted)
        record = handle.last
        self._totals.add(
            record.host_grid, record.counts, record.seconds, record.guards, record.twice
        )
        for name, evaluator in self.evaluators.items():
            evaluator.process(data_samples=outputs[name], data_batch=data_batch)
        if self.dense:
            self.task.compare(outputs["blockcopy"], outputs["dense"])
        # The preprocessor puts the size of the network input into the samples that it was given.
        infos = [
            {**info, **getattr(output, "metainfo", {})}
            for info, output in zip(infos, outputs["blockcopy"], strict=True)
        ]
        self.last_entries = tuple(
            _entry(i, infos[i], images, record, seconds, macs, timed) for i in range(images)
        )
        runner.call_hook(
            "after_test_iter", batch_idx=index, data_batch=data_batch, outputs=outputs["blockcopy"]
        )
        return list(self.last_entries)

    def _run_dense(self, data: dict, handle: Session, counted: bool):
        with handle.paused():
            if not counted:
                return *_timed(self.runner.model.test_step, data), None
            with MacCounter() as counter:
                outputs, seconds = _timed(self.runner.model.test_step, data)
            return outputs, seconds, counter.macs

    def _run_sparse(self, data: dict, handle: Session, counted: bool):
        if not counted:
            return *_timed(self.runner.model.test_step, data), None
        policy = handle.policy
        with MacCounter() as counter:
            handle.policy = meter = PolicyMeter(policy, counter)
            try:
                outputs, seconds = _timed(self.runner.model.test_step, data)
            finally:
                handle.policy = policy
        return outputs, seconds, counter.macs - meter.counted

    def _start_videos(self, infos: Sequence[Mapping[str, Any]], handle: Session) -> None:
        missing = [key for key in ("video_id", "frame_id") if key not in infos[0]]
        if missing:
            raise ConfigError(
                f"the data samples lack {', '.join(missing)} (they have {sorted(infos[0])}). Load "
                "the frames by blockcopy_plugins.VideoFrameDataset."
            )
        videos = [info["video_id"] for info in infos]
        # The first frame of a video may be one that could not be read.
        begins = videos != self._started or any(info["frame_id"] == 0 for info in infos)
        self._started = videos
        if not self.restart_policy or not begins:
            return
        if len(infos) > 1:
            raise ConfigError(
                f"restart_policy=True needs batches of one image, found {len(infos)}: the policy "
                "that starts again with a video would start again for the others too. Set "
                "batch_size=1 or restart_policy=False."
            )
        handle.policy.load_state_dict(copy.deepcopy(self._first_policy))

    def _is_counted(self, infos: Sequence[Mapping[str, Any]]) -> bool:
        """By the place in the video alone, so that any number of processes counts the same."""
        if self.mac_samples == 0:
            return False
        frame_id, length = infos[0]["frame_id"], infos[0].get("video_length", 1)
        interval = max(2, length // self.mac_samples)
        return frame_id % interval == (1 if length > 1 else 0)

    def _build_evaluator(self, evaluator: Any) -> Evaluator:
        if isinstance(evaluator, Evaluator):
            evaluator = copy.deepcopy(evaluator)
        else:
            evaluator = self.runner.build_evaluator(copy.deepcopy(evaluator))
        wanted = [self.task.metric_type]
        if self.temporal_consistency and self.task.consistency_type is not None:
            wanted.append(self.task.consistency_type)
        for kind in wanted:
            if not any(isinstance(metric, kind) for metric in evaluator.metrics):
                evaluator.metrics.append(kind())
        return evaluator

    def _share_flows(self) -> None:
        """Both runs are of the same frames: the same metric of each takes the same flows."""
        for metrics in zip(*(e.metrics for e in self.evaluators.values()), strict=True):
            for metric in metrics:
                if isinstance(metric, TemporalConsistencyMetric):
                    metric.flows = metrics[0].flows

    def _shown(self, batches: Iterable) -> Iterable:
        if not self.progress or not is_main_process():
            return batches
        from tqdm import tqdm  # only who wants a progress bar needs it

        return tqdm(batches, desc="frames", unit="frame", dynamic_ncols=True)

    def _summary(
        self, entries: list[FrameEntry], handle: Session, partial: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], tuple[FrameEntry, ...]]:
        frames = len(self.dataloader.dataset)
        metrics = {name: e.evaluate(frames) for name, e in self.evaluators.items()}
        fidelity, reason = None, "the frames were not run dense"
        if self.dense:
            fidelity, reason = self.task.fidelity(self.evaluators, frames)
        gathered = [entry for part in all_gather_object(entries) for entry in part]
        gathered.sort(key=lambda entry: entry.key)
        dense_ops = _dense_ops(all_gather_object(self._totals), len(gathered))
        guards = merge_guards(all_gather_object(self._totals.guard_reports()))
        skipped = with_late_ones(
            getattr(self.dataloader.dataset, "skipped_frames", None),
            [one for part in all_gather_object(self._skipped) for one in part],
        )
        summary: list[Any] = [None]
        if is_main_process():
            figures = summarise(gathered)
            size = gathered[0].size if gathered else None
            macs_policy = 0
            if size is not None:
                shape = (1, 3, *size)
                macs_policy = handle.policy.macs(shape, handle.config.block_size)["total"]
            summary[0] = plain(
                {
                    **figures,
                    "block_size": handle.config.block_size,
                    "policy": type(handle.policy).__name__,
                    "target": getattr(handle.policy, "target", None),
                    "agreement": agreement_figures(handle.policy),
                    "macs_policy": macs_policy,
                    "metrics": {name: metrics.get(name) for name in ("dense", "blockcopy")},
                    "fidelity": fidelity,
                    **({} if reason is None else {"fidelity_reason": reason}),
                    "dense_ops": dense_ops,
                    "guards": guards,
                    "propagation": asdict(handle.propagation.report()),
                    "processes": get_world_size(),
                    "skipped_frames": skipped,
                    "annotations": getattr(self.dataloader.dataset, "annotation_notes", None),
                    "partial": partial,
                }
            )
        broadcast_object_list(summary)
        return summary[0], tuple(gathered)


def _timed(function: Callable, data: dict) -> tuple[Any, float]:
    """Result of a call and its seconds, of the device's work too."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = function(data)
    if on_gpu:
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


def _entry(
    image: int,
    info: Mapping[str, Any],
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
    sizes = (info.get(key) for key in ("batch_input_shape", "pad_shape", "img_shape"))
    height, width = next((size[:2] for size in sizes if size), (0, 0))
    return FrameEntry(
        video_id=int(info["video_id"]),
        frame_id=int(info["frame_id"]),
        video_name=str(info.get("video_name", info["video_id"])),
        size=(int(height), int(width)),
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
        frame_number=info.get("frame_number"),
    )


def _dense_ops(parts: Sequence[Totals], frames: int) -> list[dict[str, Any]]:
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for totals in parts:
        for key, op in totals.dense_ops.items():
            kept = merged.setdefault(
                key, {"path": op.path, "op": op.op, "reason": op.reason, "count": 0, "macs": 0}
            )
            kept["count"] += op.count
            kept["macs"] += op.macs
    for op in merged.values():
        op["macs_per_frame"] = op.pop("macs") / max(frames, 1)
    return list(merged.values())


def _flat(summary: Mapping[str, Any]) -> dict[str, float]:
    """The figures that loggers and backends take: numbers by name."""
    flat = {
        name: summary[name]
        for name in (
            "executed_rate",
            "macs_dense",
            "macs_blockcopy",
            "ms_dense",
            "ms_blockcopy",
            "speedup",
        )
        if summary.get(name) is not None
    }
    for part in ("dense", "blockcopy"):
        for name, value in (summary["metrics"].get(part) or {}).items():
            flat[f"{part}/{name}"] = value
    for name, value in (summary["fidelity"] or {}).items():
        flat[f"fidelity/{name}"] = value
    return {name: value for name, value in flat.items() if value is not None}

"""The test loop that runs every frame densely and block-sparsely, and compares."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import all_gather_object, broadcast_object_list, get_world_size, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, Runner

from ...datasets.packed_frame import check_packed, known_metainfo
from ...errors import ConfigError
from ...evaluation import TemporalConsistencyMetric
from ...registry import LOOPS
from ..common.comparison import plain, run_summary, summarise
from ..common.frame_entry import FrameEntry
from ..common.paired_runs import BatchRuns, PairedRuns, RunOptions
from ..common.partial_run import partial_run
from ..common.readable_batches import ReadableBatches
from .hook import find_hook, unwrap
from .task import task_for

_IDS = ("video_id", "frame_id")


@LOOPS.register_module()
class BlockCopyTestLoop(BaseLoop):
    """Tests a detector or segmentor on video, each frame dense and block-sparse, in one process.

    :class:`BlockCopyHook` must be among the hooks: it converts the model. In every other frame, the
    dense run comes first, so that warm caches favour neither. The dense run does not touch state
    and policy. Times are those of the whole test step, with data preprocessing, policy and
    post-processing, but without loading.

    Each video starts with the policy as it was before the first one, so that results depend neither
    on the order of the videos nor on the number of processes that share them.

    After the run, ``summary`` has the figures, the same in every process, and ``entries`` those of
    each frame; see :func:`.comparison.summarise` for their meaning.

    Args:
        runner: The runner.
        dataloader: Of a ``VideoFrameDataset``, in the order of a ``VideoSampler``.
        evaluator: Its metrics are computed for both runs. If none of them is a
            ``FrameDetectionMetric`` (for a segmentor, a ``FrameSegmentationMetric``), one is added.
            ``CityPersonsMetric`` is one, and adds log-average miss rates.
        dense: Also run each frame dense. Without it, there is neither fidelity nor dense time.
        warmup: How many first calls of a process are not timed.
        mac_samples: MACs outside the blocks are counted in about this many frames of each video,
            which are not timed, as counting slows them down.
        restart_policy: Start each video with the policy as it was at first. Needs batches of one
            image; with ``False`` what is learned goes over to the next video.
        fidelity_threshold: Lowest score of a dense detection that has to be found; for detectors.
        progress: Show a progress bar on stderr.
        temporal_consistency: For segmentors, also compute a ``TemporalConsistencyMetric`` of both
            runs. The optical flow that it needs is computed once per frame, and is not timed.

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
        self.options = RunOptions(dense, warmup, mac_samples, restart_policy)
        self.task = task_for(type(unwrap(runner.model)), fidelity_threshold)
        self._check_dataset()
        self.progress = progress
        self.temporal_consistency = temporal_consistency
        names = ("dense", "blockcopy") if dense else ("blockcopy",)
        self.evaluators = {name: self._build_evaluator(evaluator, name) for name in names}
        self.evaluator = self.evaluators["blockcopy"]
        self._share_flows()
        meta = getattr(self.dataloader.dataset, "metainfo", None)
        for built in self.evaluators.values():
            built.dataset_meta = meta
        runner.visualizer.dataset_meta = meta
        self.entries: tuple[FrameEntry, ...] = ()
        self.last_entries: tuple[FrameEntry, ...] = ()
        self.summary: dict[str, Any] = {}
        self._skipped: list[str] = []  # what is wrong with frames that could not be read
        self._started: Any = None  # the video that the policy began with last

    def run(self) -> dict[str, float]:
        """Run all frames.

        Returns:
            The metrics, with the prefixes ``dense/``, ``blockcopy/`` and ``fidelity/``, and the
            main figures of :attr:`summary`.

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
        handle.policy.load_state_dict(copy.deepcopy(state[0]))

        runs, self._started = PairedRuns(handle, self.options), None
        self._skipped.clear()
        self.task.begin(self.evaluator.dataset_meta)
        for evaluator in self.evaluators.values():
            for metric in evaluator.metrics:
                metric.results.clear()  # those of a run that failed
        entries: list[FrameEntry] = []
        self.summary, self.entries = {}, ()
        batches = ReadableBatches(self.dataloader, self._skipped)
        try:
            for index, data_batch in enumerate(self._shown(batches)):
                entries += self._run_iter(index, data_batch, runs)
        except (Exception, KeyboardInterrupt) as problem:
            # The other processes do not know about it, and would wait for each other.
            if entries and get_world_size() == 1:
                self._keep_part(entries, runs, problem)
            raise
        self.summary, self.entries = self._summary(entries, runs)

        metrics = _flat(self.summary)
        runner.call_hook("after_test_epoch", metrics=metrics)
        runner.call_hook("after_test")
        return metrics

    def _keep_part(
        self, entries: list[FrameEntry], runs: PairedRuns, problem: BaseException
    ) -> None:
        """The figures of a run that ended early, marked as such."""
        partial = partial_run(problem, len(entries), self._frames())
        self.entries = tuple(entries)
        try:
            self.summary, self.entries = self._summary(entries, runs, partial)
        except Exception as error:  # the problem matters more than the metrics
            print_log(
                f"no metrics of the frames that were run: {error}",
                logger="current",
                level=logging.WARNING,
            )
            self.summary = plain({**summarise(entries), "partial": partial})

    def _frames(self) -> int:
        return len(self.dataloader.dataset)

    def _check_dataset(self) -> None:
        if not hasattr(self.dataloader.dataset, "video_of"):
            raise ConfigError(
                f"BlockCopyTestLoop needs frames of videos, but the dataset is a "
                f"{type(self.dataloader.dataset).__name__}. Use "
                "dataset=dict(type='blockcopy_plugins.VideoFrameDataset', videos=...)."
            )

    @torch.no_grad()
    def _run_iter(self, index: int, data_batch: dict, runs: PairedRuns) -> list[FrameEntry]:
        hook = dict(batch_idx=index, data_batch=data_batch)
        self.runner.call_hook("before_test_iter", **hook)
        outputs = self._run_batch(data_batch, runs)
        self.runner.call_hook("after_test_iter", **hook, outputs=outputs)
        return list(self.last_entries)

    def _run_batch(self, data_batch: dict, runs: PairedRuns) -> list[Any]:
        """Run a batch both ways and set :attr:`last_entries`; return the block-sparse outputs."""
        check_packed(data_batch)
        infos = [dict(sample.metainfo) for sample in data_batch["data_samples"]]
        self._start_videos(infos, runs)

        def fresh() -> dict:
            # Each run gets its own samples: the model writes its predictions into them.
            samples = [sample.clone() for sample in data_batch["data_samples"]]
            return {**data_batch, "data_samples": samples}

        with known_metainfo(data_batch["data_samples"]):
            found = runs.run(self.runner.model.test_step, fresh, infos[0])
        self.last_entries = self._judged(found, data_batch, infos)
        return found.outputs["blockcopy"]

    def _judged(
        self, found: BatchRuns, data_batch: dict, infos: Sequence[Mapping[str, Any]]
    ) -> tuple[FrameEntry, ...]:
        """Pass the outputs of both runs to the metrics; return the figures of the images."""
        for name, evaluator in self.evaluators.items():
            evaluator.process(data_samples=found.outputs[name], data_batch=data_batch)
        return self._compared(found, infos)

    def _compared(
        self, found: BatchRuns, infos: Sequence[Mapping[str, Any]]
    ) -> tuple[FrameEntry, ...]:
        """Compare the outputs of both runs; return the figures of the images."""
        if self.options.dense:
            self.task.compare(found.outputs["blockcopy"], found.outputs["dense"])
        return tuple(
            found.entry(i, {**info, **{name: int(info[name]) for name in _IDS}})
            for i, info in enumerate(infos)
        )

    def _start_videos(self, infos: Sequence[Mapping[str, Any]], runs: PairedRuns) -> None:
        missing = [key for key in _IDS if key not in infos[0]]
        if missing:
            raise ConfigError(
                f"the data samples lack {', '.join(missing)} (they have {sorted(infos[0])}). Load "
                "the frames by blockcopy_plugins.VideoFrameDataset."
            )
        videos = [info["video_id"] for info in infos]
        # The first frame of a video may be one that could not be read.
        begins = videos != self._started or any(info["frame_id"] == 0 for info in infos)
        self._started = videos
        if begins:
            runs.start_video(len(infos))

    def _build_evaluator(self, evaluator: Any, run: str) -> Evaluator:
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
        """Let the consistency metrics of both runs, which have the same frames, share flows."""
        for metrics in zip(*(e.metrics for e in self.evaluators.values()), strict=True):
            for metric in metrics:
                if isinstance(metric, TemporalConsistencyMetric):
                    metric.flows = metrics[0].flows

    def _shown(self, batches: Iterable) -> Iterable:
        if not self.progress or not is_main_process():
            return batches
        from tqdm import tqdm  # only needed for a progress bar

        return tqdm(batches, desc="frames", unit="frame", dynamic_ncols=True)

    def _summary(
        self, entries: list[FrameEntry], runs: PairedRuns, partial: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], tuple[FrameEntry, ...]]:
        dataset = self.dataloader.dataset
        frames = len(dataset)
        metrics = {name: e.evaluate(frames) for name, e in self.evaluators.items()}
        fidelity = None, "the frames were not run dense"
        if self.options.dense:
            fidelity = self.task.fidelity(self.evaluators, frames)
        gathered = [entry for part in all_gather_object(entries) for entry in part]
        gathered.sort(key=lambda entry: entry.key)
        parts = all_gather_object(runs.totals)
        skipped = [one for part in all_gather_object(self._skipped) for one in part]
        summary: list[Any] = [None]
        if is_main_process():
            summary[0] = run_summary(
                gathered, runs.handle, parts, metrics, fidelity, dataset, skipped, partial
            )
        broadcast_object_list(summary)
        return summary[0], tuple(gathered)


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

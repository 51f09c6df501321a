"""Evaluation on video: Detectron2's loop, with the cost and effect of block-sparse execution."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.utils import comm
from torch import nn

from ...config import BlockCopyConfig
from ...datasets.ground_truth.frame_objects import FrameObjects
from ...datasets.ground_truth.masks import encode_masks
from ...engine.report import Totals
from ...errors import ConfigError, StateError
from ...evaluation.average_precision import IOU_TYPES, detection_ap
from ...evaluation.fidelity import detection_fidelity
from ..common.comparison import run_summary
from ..common.frame_entry import FrameEntry
from ..common.partial_run import partial_run
from .adapter import refuse_augmentation, upright_boxes
from .label_agreement import LabelAgreement, read_labels
from .predictor import convert_model, restore_model
from .sampler import refuse_cut_videos
from .video_dataset import LabelRules
from .video_run import VideoRun


class BlockCopyEvaluator(DatasetEvaluator):
    """Adds executed rate, MACs, speed-up and fidelity to the results of other evaluators.

    If the inputs have ground truth (``VideoFrameDataset(ann_file=...)``), it also computes COCO's
    average precision, or a segmentor's mean IoU and accuracies, for the block-sparse and the
    dense run.

    Args:
        run: The callable that is passed to ``inference_on_dataset`` as its model.
        fidelity_threshold: Score from which a dense detection has to be found.
        label_rules: How label images are read.

    Attributes:
        summary: After :meth:`evaluate`, all figures, from 0 to 1, in the main process, under the
            names in ``results.json``.
        entries: After :meth:`evaluate`, figures of each frame of all processes, in the main one.
        dataset: The dataset of the frames, if known; it knows which frames were skipped.
        skipped: What is wrong with frames that could not be read.
        partial: Why the run ended before its last frame.

    Examples:
        >>> run = VideoRun(model, bc.handle(model))
        >>> inference_on_dataset(run, loader, [BlockCopyEvaluator(run)])
    """

    def __init__(
        self, run: VideoRun, fidelity_threshold: float = 0.3, label_rules: LabelRules | None = None
    ) -> None:
        self.run = run
        self.threshold = fidelity_threshold
        self.label_rules = label_rules or LabelRules()
        self.summary: dict[str, Any] = {}
        self.entries: tuple[FrameEntry, ...] = ()
        self.dataset: Any = None
        self.skipped: list[str] = []
        self.partial: dict[str, Any] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self._objects: list[dict[str, Any]] = []
        self._labels: dict[str, LabelAgreement] = {}
        self._labelled = 0
        self.run.clear()

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Take one batch, whose dense outputs the run has kept."""
        dense = self.run.dense_outputs or [None] * len(inputs)
        for given, entry, found, wanted in zip(
            inputs, self.run.last_entries, outputs, dense, strict=True
        ):
            if "instances" in found:
                truth = given.get("ground_truth")
                size = (
                    int(found["instances"].image_size[0]),
                    int(found["instances"].image_size[1]),
                )
                self._objects.append(
                    {
                        "key": entry.key,
                        "blockcopy": frame_objects(found["instances"]),
                        "dense": None if wanted is None else frame_objects(wanted["instances"]),
                        "truth": None
                        if truth is None
                        else FrameObjects.from_instances(truth, size),
                    }
                )
            if "sem_seg" in found:
                self._compare_labels(given, found["sem_seg"], wanted and wanted["sem_seg"])

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """The figures of all processes.

        Returns:
            By task, in percent as in Detectron2: ``bbox``, ``segm``, ``sem_seg`` if there is
            ground truth, and ``blockcopy``. ``None`` in processes other than the main one.

        Raises:
            StateError: If a frame was evaluated twice.
        """
        entries = [entry for part in comm.gather(list(self.run.entries)) for entry in part]
        objects = [found for part in comm.gather(self._objects) for found in part]
        labels = comm.gather(self._labels)
        labelled = sum(comm.gather(self._labelled))
        parts = comm.gather(self.run.totals)
        if not comm.is_main_process():
            return None
        entries.sort(key=lambda entry: entry.key)
        objects.sort(key=lambda found: found["key"])
        keys = [entry.key for entry in entries]
        if len(set(keys)) != len(keys):
            raise StateError(
                "a frame was evaluated twice: a sampler repeats frames to fill up processes. Use "
                "build_video_test_loader."
            )
        self.entries = tuple(entries)
        self.summary = self._summary(entries, objects, _merged(labels), labelled, parts)
        return _in_percent(self.summary)

    def _compare_labels(self, given: Mapping[str, Any], found: Any, wanted: Any) -> None:
        """Count where classes agree, since the label maps of all frames would fill the memory."""
        classes = len(found)
        maps = {"blockcopy": found.argmax(0)}
        if wanted is not None:
            maps["dense"] = wanted.argmax(0)
            self._agreement("fidelity", classes).add(maps["blockcopy"], maps["dense"])
        path = given.get("label_image")
        if path is not None:
            self._labelled += 1
            truth = read_labels(path, self.label_rules)
            for name, labels in maps.items():
                agreement = self._agreement(name, classes)
                agreement.add(labels, truth, self.label_rules.ignore_index, path)

    def _agreement(self, name: str, classes: int) -> LabelAgreement:
        return self._labels.setdefault(name, LabelAgreement(classes))

    def _summary(
        self,
        entries: Sequence[Any],
        objects: Sequence[Mapping[str, Any]],
        labels: Mapping[str, LabelAgreement],
        labelled: int,
        parts: Sequence[Totals],
    ) -> dict[str, Any]:
        metrics = {
            name: _accuracy(name, objects, labels, len(entries), labelled)
            for name in (("dense", "blockcopy") if self.run.options.dense else ("blockcopy",))
        }
        return run_summary(
            entries,
            self.run.handle,
            parts,
            metrics,
            self._fidelity(objects, labels),
            self.dataset,
            self.skipped,
            self.partial,
        )

    def _fidelity(
        self, objects: Sequence[Mapping[str, Any]], labels: Mapping[str, LabelAgreement]
    ) -> tuple[dict[str, float] | None, str | None]:
        if not self.run.options.dense:
            return None, "the frames were not run dense"
        figures: dict[str, float] = {}
        reason = None
        if objects:
            figures = detection_fidelity(
                [found["blockcopy"] for found in objects],
                [found["dense"] for found in objects],
                self.threshold,
            )
            if all(value != value for value in figures.values()):
                reason = f"the dense run has no detection of score {self.threshold} or more"
            figures["score_threshold"] = self.threshold
        if "fidelity" in labels:
            found = labels["fidelity"].figures()
            figures |= {name: found[name] for name in ("mIoU", "aAcc")}
        return figures or None, reason


def inference_on_video(
    model: nn.Module,
    loader: Any,
    evaluators: Sequence[DatasetEvaluator | Callable[[VideoRun], DatasetEvaluator]] = (),
    config: BlockCopyConfig | None = None,
    fidelity_threshold: float = 0.3,
    label_rules: LabelRules | None = None,
    on_partial: Callable[[BlockCopyEvaluator], Any] | None = None,
    **options: Any,
) -> tuple[dict[str, Any], BlockCopyEvaluator]:
    """Evaluate a model on video, block-sparsely, and restore it afterwards.

    Args:
        model: A meta-architecture; it is in eval mode meanwhile.
        loader: A loader from :func:`.sampler.build_video_test_loader`.
        evaluators: Further evaluators, which get the block-sparse outputs, or functions that make
            one from the run.
        config: How to run it, by default ``BlockCopyConfig()``.
        fidelity_threshold: See :class:`BlockCopyEvaluator`.
        label_rules: See :class:`BlockCopyEvaluator`.
        on_partial: Called with the evaluator if an error or Ctrl-C ends the run after some
            frames. Its summary then covers those frames and says so (``partial``). The exception
            is raised again. Not called if there are several processes.
        **options: Options of :class:`.video_run.VideoRun`: ``dense``, ``warmup``, ...

    Returns:
        The results by task, and the evaluator, whose ``summary`` and ``run.entries`` have the rest.

    Raises:
        ConfigError: If the model runs test-time augmentation, or the loader cuts videos.
    """
    refuse_augmentation(model)
    refuse_cut_videos(loader)
    training = model.training
    model.eval()
    handle = convert_model(model, config or BlockCopyConfig())
    try:
        # One policy for all processes; without a seed each would have drawn its own.
        handle.policy.load_state_dict(comm.all_gather(handle.policy.state_dict())[0])
        run = VideoRun(model, handle, **options)
        own = BlockCopyEvaluator(run, fidelity_threshold, label_rules)
        others = [e if isinstance(e, DatasetEvaluator) else e(run) for e in evaluators]
        own.dataset = _dataset_of(loader)
        own.skipped = getattr(loader, "skipped", own.skipped)
        try:
            results = inference_on_dataset(run, loader, [*others, own])
        except (Exception, KeyboardInterrupt) as problem:
            if on_partial is not None and run.entries and comm.get_world_size() == 1:
                own.partial = partial_run(problem, len(run.entries), len(loader))
                own.evaluate()
                on_partial(own)
            raise
    finally:
        restore_model(model)
        model.train(training)
    return results, own


class BlockCopyCallbacks:
    """Converts a model while Detectron2's own evaluation loop runs, and restores it after.

    For evaluators that use nothing of this package. Streams are the ``video_id`` of the inputs.

    Args:
        model: The model that is passed to ``inference_on_dataset``.
        config: How to run it, by default ``BlockCopyConfig()``.
        loader: The loader of the loop, which is checked.

    Attributes:
        rates: Executed rate of each call so far.

    Raises:
        ConfigError: If the model runs test-time augmentation, or the loader cuts videos.

    Examples:
        >>> hook = BlockCopyCallbacks(model, BlockCopyConfig(block_size=128), loader)
        >>> inference_on_dataset(model, loader, evaluator, callbacks=hook.callbacks())
    """

    def __init__(
        self, model: nn.Module, config: BlockCopyConfig | None = None, loader: Any = None
    ) -> None:
        refuse_augmentation(model)
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model is a {type(model).__name__}, expected a torch.nn.Module.")
        refuse_cut_videos(loader)
        self.model = model
        self.config = config or BlockCopyConfig()
        self.rates: list[float] = []
        self._handle: Any = None

    def callbacks(self) -> dict[str, Callable[[], None]]:
        """The ``callbacks`` argument of ``inference_on_dataset``."""
        return {
            "on_start": self.start,
            "after_inference": self.note,
            "on_end": self.end,
        }

    def start(self) -> None:
        """Convert the model."""
        if self._handle is not None:  # the last loop failed before its end
            self.end()
        self._handle = convert_model(self.model, self.config)

    def note(self) -> None:
        """Note a call."""
        self.rates.append(self._handle.last.executed_rate)

    def end(self) -> None:
        """Restore the model."""
        restore_model(self.model)
        self._handle = None


def frame_objects(instances: Any) -> FrameObjects:
    """Detections of a frame in the form that evaluation keeps.

    Args:
        instances: Detectron2's ``Instances``, in pixels of the original frame.
    """
    masks = None
    if instances.has("pred_masks"):
        masks = encode_masks(instances.pred_masks)
    return FrameObjects(
        boxes=upright_boxes(instances),
        labels=instances.pred_classes,
        size=tuple(instances.image_size),
        scores=instances.scores,
        masks=masks,
    )


def _accuracy(
    name: str,
    objects: Sequence[Mapping[str, Any]],
    labels: Mapping[str, LabelAgreement],
    frames: int,
    labelled: int,
) -> dict[str, float]:
    """Figures of one of the runs, under the names of MMEngine's metrics."""
    annotated = [found for found in objects if found["truth"] is not None]
    figures = {
        "video/frames": float(frames),
        "video/annotated_frames": float(max(len(annotated), labelled)),
    }
    if annotated:
        truth = [found["truth"] for found in annotated]
        predictions = [found[name] for found in annotated]
        with_masks = all(
            any(len(f) for f in side) and all(f.masks is not None for f in side if len(f))
            for side in (truth, predictions)
        )
        for iou_type in IOU_TYPES if with_masks else IOU_TYPES[:1]:
            for key, value in detection_ap(truth, predictions, iou_type).items():
                figures[f"video/{iou_type}_{key}"] = value
    if name in labels:
        figures |= {f"video/{key}": value for key, value in labels[name].figures().items()}
    return figures


def _merged(parts: Sequence[Mapping[str, LabelAgreement]]) -> dict[str, LabelAgreement]:
    merged: dict[str, LabelAgreement] = {}
    for part in parts:
        for name, agreement in part.items():
            if name in merged:
                merged[name].counts += agreement.counts
            else:
                merged[name] = copy.deepcopy(agreement)
    return merged


def _dataset_of(loader: Any) -> Any:
    """The dataset of videos inside a loader and Detectron2's mapping."""
    dataset = getattr(loader, "dataset", None)
    while dataset is not None and not hasattr(dataset, "skipped_frames"):
        dataset = getattr(dataset, "_dataset", None)
    return dataset


def _in_percent(summary: Mapping[str, Any]) -> OrderedDict[str, dict[str, float]]:
    results: OrderedDict[str, dict[str, float]] = OrderedDict()
    for name, value in (summary["metrics"]["blockcopy"] or {}).items():
        task, _, figure = name.removeprefix("video/").rpartition("_")
        if task in IOU_TYPES or figure in ("mIoU", "aAcc", "mAcc"):
            results.setdefault(task or "sem_seg", {})[figure] = (
                float("nan") if value is None else 100 * value
            )
    own = {"executed_rate": 100 * (summary.get("executed_rate") or 0.0)}
    for name in ("macs_dense", "macs_blockcopy"):
        if summary.get(name) is not None:
            own[f"G{name}"] = summary[name] / 1e9
    if summary.get("speedup") is not None:
        own["speedup"] = summary["speedup"]
    for name, value in (summary["fidelity"] or {}).items():
        if name != "score_threshold":
            own[f"fidelity_{name}"] = float("nan") if value is None else 100 * value
    results["blockcopy"] = own
    return results

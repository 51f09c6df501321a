"""Detectors and segmentors that a config of MMDetection or MMSegmentation describes."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, load_checkpoint

from blockcopy_plugins.datasets.ground_truth import FrameObjects, LabelRules
from blockcopy_plugins.integrations.mmengine.task import task_of
from blockcopy_plugins.integrations.mmengine.video_config import (
    drop_pretrained,
    hook_of,
    read_config,
    set_weights,
)
from blockcopy_plugins.integrations.mmengine.video_dataloader import video_dataloader

from .answers import Answer, LabelMap
from .network import Frames, Network
from .plan import Clip, Model, Window


class ConfigNetwork(Network):
    """A whole detector or segmentor with its own test pipeline.

    Args:
        model: Its config, weights and changes of the config.

    Raises:
        ConfigError: If a file is missing or the config cannot be used.
    """

    def __init__(self, model: Model) -> None:
        self._config = read_config(model.source, dict(model.options))
        self.block_size = hook_of(self._config)["block_size"]
        weights = set_weights(self._config, model.weights)
        drop_pretrained(self._config.model)
        init_default_scope(self._config.get("default_scope") or "mmdet")
        self.module = MODELS.build(self._config.model).eval()
        load_checkpoint(self.module, weights, map_location="cpu")

    def frames(self, clip: Clip, window: Window, motion: bool = False) -> Frames:
        """See :meth:`Network.frames`; batches of one, of the config's dataloader."""
        # Another network may have set its own since.
        init_default_scope(self._config.get("default_scope") or "mmdet")
        start, stop = window
        count = None if stop is None else stop - start
        ann = [clip.ann] if clip.ann is not None else None
        loader = video_dataloader(self._config, [clip.path], ann, start, count)
        if motion:
            loader["dataset"]["motion"] = True
        return Runner.build_dataloader(loader)

    def run(self, frame: dict[str, Any]) -> Answer:
        """See :meth:`Network.run`."""
        (sample,) = self.module.test_step(frame)
        if "pred_instances" in sample:
            size = tuple(sample.ori_shape[:2])
            return FrameObjects.from_predictions(sample.pred_instances, size)
        labels = sample.pred_sem_seg.data[0].cpu().numpy()
        classes = max(2, len(sample.seg_logits.data))
        return LabelMap(labels.astype(np.uint8 if classes <= 256 else np.int16), classes)

    def truth(self, frame: dict[str, Any]) -> Answer | None:
        """See :meth:`Network.truth`."""
        (sample,) = frame["data_samples"]
        if "gt_sem_seg" in sample:
            labels = sample.gt_sem_seg.data[0].cpu().numpy()
            return LabelMap(labels, 0, self._ignored_label)
        instances = sample.metainfo.get("instances")
        if instances is None:
            return None
        return FrameObjects.from_instances(instances, tuple(sample.ori_shape[:2]))

    @property
    def _ignored_label(self) -> int:
        metric = task_of(self._config).default_metric(self._config, LabelRules())
        return metric["ignore_index"]

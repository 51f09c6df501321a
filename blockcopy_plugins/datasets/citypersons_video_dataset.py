"""Cityscapes' video clips with CityPersons' pedestrians."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blockcopy_plugins.datasets.citypersons_annotations import (
    Instances,
    annotated_persons,
    find_annotations,
)
from blockcopy_plugins.datasets.cityscapes_video_dataset import CityscapesVideoDataset
from blockcopy_plugins.datasets.ground_truth.annotations import VideoAnnotations, VideoReference
from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.registry import DATASETS


@DATASETS.register_module()
class CityPersonsVideoDataset(CityscapesVideoDataset):
    """Clips of Cityscapes with the boxes of CityPersons on their annotated frames.

    One class, ``pedestrian``. Riders, sitting persons, unusual postures, groups and regions without
    persons are instances with ``ignore_flag`` 1: they need not be found, as in the official
    evaluation. Each instance also has ``bbox_vis`` (x1, y1, x2, y2 of the visible part, px),
    ``height`` (of the whole body, px) and ``vis_ratio``.

    Args:
        data_root: Folder that contains ``leftImg8bit_sequence``.
        split: ``'train'`` or ``'val'``.
        ann_file: ``anno_SPLIT.mat`` of the public package or ``val_gt.json`` of its evaluation,
            also relative to ``data_root``. By default the one in ``data_root``: the folder
            ``gtBboxCityPersons`` of Cityscapes' download, else ``annotations/anno_SPLIT.mat``.
        labels: Read the ground truth. Without it, the ground truth only shows where clips are; if
            there is none, ``gtFine`` or ``leftImg8bit`` will do.
        others: See `CityscapesVideoDataset`, which has all of them except ``task``.

    Raises:
        ConfigError: If an argument is out of range, or something is missing: the message names it,
            the package that has it, and where it was looked for.
    """

    METAINFO = {"classes": ("pedestrian",), "palette": [[220, 20, 60]]}

    def __init__(
        self,
        data_root: str = "data/cityscapes/",
        split: str = "val",
        ann_file: str | None = None,
        labels: bool = True,
        pipeline: Sequence[Mapping[str, Any] | Callable] = (),
        **others: Any,
    ) -> None:
        if "task" in others:
            raise ConfigError("CityPersonsVideoDataset has no task; it is for detection of persons")
        self.ann_file_given = ann_file
        self._persons: Instances = {}
        super().__init__(
            data_root=data_root, split=split, labels=labels, pipeline=pipeline, **others
        )

    @classmethod
    def metainfo_of(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """See `VideoFrameDataset.metainfo_of`."""
        return dict(cls.METAINFO)

    def _annotated_frames(self, root: str) -> tuple[list[str], str]:
        try:
            path = find_annotations(root, self.split, self.ann_file_given)
        except ConfigError:
            if self.labels or self.ann_file_given:
                raise
            return super()._annotated_frames(root)
        self._persons = annotated_persons(path, self.split, self.cities)
        return list(self._persons), path

    def _find_label_images(self, references: Sequence[VideoReference]) -> list[dict[int, str]]:
        return [{} for _ in references]

    def _read_annotations(
        self, references: Sequence[VideoReference]
    ) -> list[VideoAnnotations | None]:
        if not self.labels:
            return [None] * len(references)
        return [
            VideoAnnotations(frames={clip.annotated: self._persons[clip.name]}, complete=False)
            for clip in self.clips
        ]

"""Pipeline transform that loads the label image of a frame, where it has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS

from blockcopy_plugins.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadFrameLabels(BaseTransform):
    """Loads label images by the model's own loader; frames without one pass.

    Optional keys: ``seg_map_path``, and with it what the loader needs.

    Added keys: those of the loader (``gt_seg_map``).

    Args:
        loader: The config of the model's ``LoadAnnotations``.
    """

    def __init__(self, loader: Mapping[str, Any]) -> None:
        self.loader = MMENGINE_TRANSFORMS.build(dict(loader))

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Load the label image that ``results`` names, if it names one.

        Args:
            results: See the class.

        Returns:
            ``results`` with the added keys.
        """
        return self.loader(results) if "seg_map_path" in results else results

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.loader!r})"

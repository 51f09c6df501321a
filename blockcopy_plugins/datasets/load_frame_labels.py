"""Pipeline transform that loads the label image of a frame, if it has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.registry import TRANSFORMS

# Errors of image readers: Pillow also raises SyntaxError for a broken PNG; OpenCV may return None.
_DAMAGED = (OSError, ValueError, SyntaxError, AttributeError, TypeError, cv2.error)


@TRANSFORMS.register_module()
class LoadFrameLabels(BaseTransform):
    """Loads label images with the model's own loader; frames without one pass through.

    Optional keys: ``seg_map_path``, and with it the keys that the loader needs.

    Added keys: those of the loader (``gt_seg_map``).

    Args:
        loader: The config of the model's ``LoadAnnotations``.
    """

    def __init__(self, loader: Mapping[str, Any]) -> None:
        self.loader = MMENGINE_TRANSFORMS.build(dict(loader))

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Load the label image that ``results`` names, if it names one.

        Returns:
            ``results`` with the added keys.

        Raises:
            ConfigError: If the label image cannot be read.
        """
        if "seg_map_path" not in results:
            return results
        path = results["seg_map_path"]
        try:
            return self.loader(results)
        except _DAMAGED as error:
            said = " ".join(str(error).split())
            raise ConfigError(
                f"the label image {path!r} cannot be read ({type(error).__name__}: {said}). It is "
                "cut off, corrupt or not an image: replace or remove it; not every frame needs one."
            ) from error

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.loader!r})"

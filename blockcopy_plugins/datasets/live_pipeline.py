"""Turns a loaded picture into an input of the model, by the model's own test pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope

from blockcopy_plugins.datasets.packed_frame import check_packed
from blockcopy_plugins.datasets.pipeline import adapt_pipeline


class LivePipeline:
    """A test pipeline without the loading of the picture.

    Args:
        pipeline: The transforms, as configs or callables.
        scope: Where names without a scope are looked up.

    Raises:
        ConfigError: If the pipeline loads pictures in a way that frames of videos do not support.
    """

    def __init__(self, pipeline: Sequence[Mapping[str, Any] | Callable], scope: str) -> None:
        with DefaultScope.overwrite_default_scope(scope):
            transforms = adapt_pipeline(pipeline, annotated=False, has_masks=False)
            self._transforms = Compose([_without_loading(t) for t in transforms])
        self._lock = Lock()

    def __call__(self, image: np.ndarray, index: int, name: str) -> tuple[Any, Any]:
        """Prepare a frame.

        Args:
            image: uint8, shape (H, W, 3), BGR.
            index: Number of the frame in its source.
            name: The source's name.

        Returns:
            ``(inputs, data_sample)``: uint8 tensor (3, h, w) and its data sample.

        Raises:
            ConfigError: If the pipeline gives something else.
        """
        size = image.shape[:2]
        # Transforms may keep something of a picture, and the next one is prepared in a thread.
        with self._lock:
            packed = self._transforms(
                {
                    "img": image,
                    "img_shape": size,
                    "ori_shape": size,
                    "height": size[0],
                    "width": size[1],
                    "img_id": index,
                    "img_path": f"{name}#{index:06d}",
                }
            )
        check_packed(packed)
        packed["data_samples"].set_metainfo({"frame_number": index, "video_name": name})
        return packed["inputs"], packed["data_samples"]


class _Given:
    """Replaces the loading of a picture: the picture is already there."""

    def __init__(self, to_float32: bool) -> None:
        self.to_float32 = to_float32

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        if self.to_float32:
            results["img"] = results["img"].astype(np.float32)
        return results


def _without_loading(transform: Any) -> Any:
    kind = transform.get("type") if isinstance(transform, dict) else None
    if kind == "blockcopy_plugins.LoadVideoFrame":
        return _Given(transform["to_float32"])
    # InferencerLoader, which the frameworks' inferencers write into the configs of their models,
    # takes a loaded picture as it is.
    return transform

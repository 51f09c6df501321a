"""Reads MMEngine's configs, of MMDetection and MMSegmentation alike, without weights."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from mmengine.utils import import_modules_from_strings
from torch import Tensor, nn

from ...errors import ConfigError
from ..framework import ConfigModel, Framework
from .video_config import drop_pretrained, read_config

DEFAULT_SIZE = (512, 1024)
"""Height and width of a frame, px, if the config does not say to what size it resizes images."""


class MMEngine(Framework):
    """Configs of MMEngine; the models that they build are MMDetection's and MMSegmentation's."""

    def model_of_config(self, path: str) -> ConfigModel:
        """See :meth:`Framework.model_of_config`."""
        config = read_config(path)
        drop_pretrained(config.model)
        if config.get("custom_imports"):
            import_modules_from_strings(**config.custom_imports)
        # Frameworks register their modules when their scope is first used.
        init_default_scope(config.get("default_scope") or "mmengine")
        try:
            model = MODELS.build(config.model).eval()
        except (KeyError, TypeError, ValueError, AssertionError, ImportError) as error:
            raise ConfigError(
                f"the config's model cannot be built: {type(error).__name__}: {error}"
            ) from error
        return ConfigModel(model, config.model.type, frame_size(config))

    def call(self, model: nn.Module, frame: Tensor) -> Any:
        """See :meth:`Framework.call`; as a data loader does in a test."""
        samples = [data_sample(tuple(frame.shape[2:])) for _ in frame]
        return model.test_step(dict(inputs=[*(255 * frame).byte()], data_samples=samples))


def frame_size(config: Config) -> tuple[int, int]:
    """Height and width that the config's test pipeline resizes images to, px.

    Returns:
        The size, or :data:`DEFAULT_SIZE` if the pipeline does not say.
    """
    loader = config.get("test_dataloader") or {}
    pipeline = (loader.get("dataset") or {}).get("pipeline") or config.get("test_pipeline") or []
    for step in pipeline:
        scale = step.get("scale") or step.get("img_scale")
        if scale and not isinstance(scale[0], (list, tuple)):
            width, height = max(scale), min(scale)
            return int(height), int(width)
    return DEFAULT_SIZE


def data_sample(size: tuple[int, int]) -> BaseDataElement:
    """A pipeline's data sample of an image of ``size`` that was neither resized nor padded."""
    info = dict(
        img_shape=size,
        ori_shape=size,
        pad_shape=size,
        batch_input_shape=size,
        scale_factor=(1.0, 1.0),
        flip=False,
        img_path="",
        img_id=0,
    )
    return BaseDataElement(metainfo=info)


FRAMEWORK = MMEngine()

"""What a config's model would do on blocks, found by running it once with random weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from mmengine.utils import import_modules_from_strings
from torch import nn

from ...api import blockcopy_
from ...config import BlockCopyConfig
from ...engine.convert import report, restore_
from ...engine.report import Report
from ...errors import ConfigError
from .video_config import drop_pretrained

DEFAULT_SIZE = (512, 1024)
"""Height and width of a frame, px, where the config does not say how large it makes images."""


def build_model(config: Config) -> nn.Module:
    """The config's model with random weights, in eval mode.

    Args:
        config: A whole config; it stays as it is.

    Raises:
        ConfigError: If it cannot be built.
    """
    model = copy.deepcopy(config.model)
    drop_pretrained(model)
    if config.get("custom_imports"):
        import_modules_from_strings(**config.custom_imports)
    # Frameworks register their modules when their scope is first asked for.
    init_default_scope(config.get("default_scope") or "mmengine")
    try:
        return MODELS.build(model).eval()
    except (KeyError, TypeError, ValueError, AssertionError, ImportError) as error:
        raise ConfigError(
            f"the config's model cannot be built: {type(error).__name__}: {error}"
        ) from error


def frame_size(config: Config) -> tuple[int, int]:
    """Height and width that the config's test pipeline resizes images to, px.

    Args:
        config: A whole config.

    Returns:
        The size, or :data:`DEFAULT_SIZE` where the pipeline does not tell.
    """
    loader = config.get("test_dataloader") or {}
    pipeline = (loader.get("dataset") or {}).get("pipeline") or config.get("test_pipeline") or []
    for step in pipeline:
        scale = step.get("scale") or step.get("img_scale")
        if scale and not isinstance(scale[0], (list, tuple)):
            width, height = max(scale), min(scale)
            return int(height), int(width)
    return DEFAULT_SIZE


def survey(model: nn.Module, size: tuple[int, int], block_size: int) -> Report:
    """Run one fully executed frame of noise and report what ran on blocks.

    Args:
        model: A detector or segmentor of :func:`build_model`.
        size: Height and width of the frame, px.
        block_size: In px.

    Returns:
        The report of that frame; the model is as it was.
    """
    data = _frame(size)
    blockcopy_(model, BlockCopyConfig(block_size=block_size, policy="all"))
    try:
        with torch.no_grad():
            model.test_step(data)
        return report(model)
    finally:
        restore_(model)


def _frame(size: tuple[int, int]) -> dict[str, Any]:
    image = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(0))
    return dict(inputs=[image.to(torch.uint8)], data_samples=[data_sample(size)])


def data_sample(size: tuple[int, int]) -> BaseDataElement:
    """What a pipeline says of an image of ``size`` that it neither resized nor padded."""
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

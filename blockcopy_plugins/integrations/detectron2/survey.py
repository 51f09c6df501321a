"""A config's model and frame size, for what is found out about a model before it has weights."""

from __future__ import annotations

from torch import nn

from .model_config import ModelConfig

DEFAULT_SIZE = (800, 1333)
"""Height and width of a frame, px, where the config does not say how large it makes images."""


def build_model(path: str) -> tuple[nn.Module, str, tuple[int, int]]:
    """The model of a config with random weights, its name, and the size of its images.

    Args:
        path: A YAML file or a lazy config.

    Returns:
        The model in eval mode, the name of its meta-architecture, and the height and width that its
        test images are resized to at most, px.

    Raises:
        ConfigError: If the config cannot be read.
    """
    source = ModelConfig.of(path)
    size = DEFAULT_SIZE
    for step in source.augmentations():
        short, long = getattr(step, "short_edge_length", None), getattr(step, "max_size", None)
        if short:
            size = (int(short[0]), int(min(long or DEFAULT_SIZE[1], 2 * short[0])))
    return source.build(""), source.name, size

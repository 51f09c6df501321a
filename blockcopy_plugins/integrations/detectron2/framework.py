"""Which models of Detectron2 are converted, and how its configs are read."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...engine.adapter import ModelAdapter
from ..framework import ConfigModel, Framework
from .adapter import MetaArchAdapter
from .model_config import ModelConfig

DEFAULT_SIZE = (800, 1333)
"""Height and width of a frame, px, if the config does not say to what size it resizes images."""


class Detectron2(Framework):
    """Models of Detectron2."""

    def adapter(self, model: nn.Module) -> ModelAdapter | None:
        """A meta-architecture, by its parts."""
        return MetaArchAdapter(model) if MetaArchAdapter.fits(model) else None

    def model_of_config(self, path: str) -> ConfigModel:
        """See :meth:`Framework.model_of_config`; for a YAML file or a lazy config."""
        source = ModelConfig.of(path)
        size = DEFAULT_SIZE
        for step in source.augmentations():
            short, long = getattr(step, "short_edge_length", None), getattr(step, "max_size", None)
            if short:
                size = (int(short[0]), int(min(long or DEFAULT_SIZE[1], 2 * short[0])))
        return ConfigModel(source.build(""), source.name, size)

    def call(self, model: nn.Module, frame: Tensor) -> Any:
        """See :meth:`Framework.call`; with the list of dicts that a meta-architecture takes."""
        height, width = (int(length) for length in frame.shape[2:])
        return model([{"image": 255 * x, "height": height, "width": width} for x in frame])


FRAMEWORK = Detectron2()

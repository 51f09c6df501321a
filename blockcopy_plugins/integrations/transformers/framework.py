"""The models and pipelines of transformers that are converted, and built by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor, nn
from transformers import AutoConfig, Pipeline, PreTrainedModel

from ...engine.adapter import ModelAdapter
from ...engine.convert import handle
from ...errors import ConfigError
from ..framework import Framework
from .adapter import PixelValuesAdapter


class Transformers(Framework):
    """Models that take ``pixel_values``, and pipelines around them."""

    def adapter(self, model: nn.Module) -> ModelAdapter | None:
        """A model of the package, by its base class."""
        if not isinstance(model, PreTrainedModel):
            return None
        if getattr(model, "main_input_name", "pixel_values") != "pixel_values":
            raise ConfigError(
                f"{type(model).__name__} takes {model.main_input_name}, expected a model that "
                "takes pixel_values, the frames of a video. Convert the part of it that does "
                "(often model.vision_model or model.backbone)."
            )
        return PixelValuesAdapter(model.config)

    def modules(self, owner: object) -> Sequence[nn.Module] | None:
        """The model of a pipeline."""
        return (owner.model,) if isinstance(owner, Pipeline) else None

    def build(self, name: str) -> nn.Module:
        """See :meth:`Framework.build`.

        Args:
            name: Folder or file of a configuration, whose ``architectures`` names the class; or a
                class of the package, which is built from its default configuration.
        """
        if Path(name).exists():
            config = AutoConfig.from_pretrained(name)
            names = config.architectures or ["AutoModel"]
        else:
            names = [name]
            kind = getattr(getattr(transformers, name, None), "config_class", None)
            if kind is None:
                raise ConfigError(
                    f"transformers:{name} is neither the path of a configuration nor a class of "
                    "the package that has one, as SegformerForSemanticSegmentation has."
                )
            config = kind()
        _without_weights(config)
        kind = getattr(transformers, names[0])
        model = kind.from_config(config) if names[0].startswith("Auto") else kind(config)
        return model.eval()

    def call(self, model: nn.Module, frame: Tensor) -> Any:
        """See :meth:`Framework.call`."""
        return model(pixel_values=frame)

    def attach(self, owner: object, modules: Sequence[nn.Module]) -> None:
        """Take a pipeline's images for the frames of one video, in order."""
        if isinstance(owner, Pipeline):
            handle(modules[0]).adapter.in_sequence = True


FRAMEWORK = Transformers()


def _without_weights(config: Any) -> None:
    """Make sure that a backbone inside has no pretrained weights either."""
    if getattr(config, "use_pretrained_backbone", False):
        config.use_pretrained_backbone = False
    inner = getattr(config, "backbone_config", None)
    if inner is not None and getattr(inner, "use_pretrained_backbone", False):
        inner.use_pretrained_backbone = False

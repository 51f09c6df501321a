"""What of transformers is converted."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers import Pipeline, PreTrainedModel

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

    def attach(self, owner: object, modules: Sequence[nn.Module]) -> None:
        """A pipeline's images are frames of one video, in their order."""
        if isinstance(owner, Pipeline):
            handle(modules[0]).adapter.in_sequence = True


FRAMEWORK = Transformers()

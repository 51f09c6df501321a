"""The models of torchvision that are converted, and built by name."""

from __future__ import annotations

from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, list_models

from ...engine.adapter import ModelAdapter
from ...errors import ConfigError
from ..framework import Framework
from .adapter import DetectionAdapter


class Torchvision(Framework):
    """Models of torchvision; classifiers and segmentors take tensors and need nothing else."""

    def adapter(self, model: nn.Module) -> ModelAdapter | None:
        """A detector, by the transform that it passes its images to."""
        return DetectionAdapter(model) if DetectionAdapter.fits(model) else None

    def build(self, name: str) -> nn.Module:
        """See :meth:`Framework.build`: ``'retinanet_resnet50_fpn'``."""
        if name not in list_models():
            raise ConfigError(
                f"torchvision has no model {name!r}; torchvision.models.list_models() names them."
            )
        backbone = dict(weights_backbone=None) if _has_backbone(name) else {}
        return get_model(name, weights=None, **backbone).eval()

    def call(self, model: nn.Module, frame: Tensor) -> Any:
        """See :meth:`Framework.call`: detectors take a list of images."""
        return model(list(frame.unbind(0)) if DetectionAdapter.fits(model) else frame)


FRAMEWORK = Torchvision()


def _has_backbone(name: str) -> bool:
    modules = (torchvision.models.detection, torchvision.models.segmentation)
    return any(name in list_models(module=module) for module in modules)

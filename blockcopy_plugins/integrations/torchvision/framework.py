"""What of torchvision is converted."""

from __future__ import annotations

from torch import nn

from ...engine.adapter import ModelAdapter
from ..framework import Framework
from .adapter import DetectionAdapter


class Torchvision(Framework):
    """Models of torchvision; classifiers and segmentors take tensors and need nothing of it."""

    def adapter(self, model: nn.Module) -> ModelAdapter | None:
        """A detector, by the transform that it gives its images to."""
        return DetectionAdapter(model) if DetectionAdapter.fits(model) else None


FRAMEWORK = Torchvision()

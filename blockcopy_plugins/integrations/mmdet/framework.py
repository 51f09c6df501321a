"""Which models of MMDetection are converted."""

from __future__ import annotations

from torch import nn

from ...engine.adapter import ModelAdapter
from ..mmengine.inferencer_framework import InferencerFramework
from .adapter import DetectorAdapter
from .tracker_adapter import TrackerAdapter


class MMDetection(InferencerFramework):
    """Models of MMDetection."""

    def adapter(self, model: nn.Module) -> ModelAdapter | None:
        """A detector or a tracker, by its base class."""
        if DetectorAdapter.fits(model):
            return DetectorAdapter()
        return TrackerAdapter(model) if TrackerAdapter.fits(model) else None


FRAMEWORK = MMDetection()

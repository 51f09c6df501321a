"""The models of MMSegmentation that are converted."""

from __future__ import annotations

from torch import nn

from ...engine.adapter import ModelAdapter
from ..mmengine.inferencer_framework import InferencerFramework
from .adapter import SegmentorAdapter, refuse_windows


class MMSegmentation(InferencerFramework):
    """Models of MMSegmentation."""

    def adapter(self, model: nn.Module) -> ModelAdapter | None:
        """A segmentor, by its base class."""
        return SegmentorAdapter(model) if SegmentorAdapter.fits(model) else None

    def check_backbone(self, model: nn.Module) -> None:
        """See :meth:`Framework.check_backbone`: windows are not frames."""
        refuse_windows(model)


FRAMEWORK = MMSegmentation()

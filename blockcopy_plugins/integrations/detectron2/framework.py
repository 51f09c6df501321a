"""What of Detectron2 is converted."""

from __future__ import annotations

from torch import nn

from ...engine.adapter import ModelAdapter
from ..framework import Framework
from .adapter import MetaArchAdapter


class Detectron2(Framework):
    """Models of Detectron2."""

    def adapter(self, model: nn.Module) -> ModelAdapter | None:
        """A meta-architecture, by its parts."""
        return MetaArchAdapter(model) if MetaArchAdapter.fits(model) else None


FRAMEWORK = Detectron2()

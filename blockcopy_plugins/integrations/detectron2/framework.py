"""What of Detectron2 is converted."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...engine.adapter import ModelAdapter
from ..framework import Framework
from .adapter import MetaArchAdapter


class Detectron2(Framework):
    """Models of Detectron2."""

    def adapter(self, model: nn.Module) -> ModelAdapter | None:
        """A meta-architecture, by its parts."""
        return MetaArchAdapter(model) if MetaArchAdapter.fits(model) else None

    def call(self, model: nn.Module, frame: Tensor) -> Any:
        """See :meth:`Framework.call`; with the list of dicts that a meta-architecture takes."""
        height, width = (int(length) for length in frame.shape[2:])
        return model([{"image": 255 * x, "height": height, "width": width} for x in frame])


FRAMEWORK = Detectron2()

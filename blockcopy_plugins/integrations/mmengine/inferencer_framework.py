"""Frameworks whose models run in inferencers of MMEngine's kind."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.infer import BaseInferencer
from torch import nn

from ...engine.convert import handle
from ..framework import Framework


class InferencerFramework(Framework):
    """Knows the framework's inferencers: what they are given are frames of one video."""

    def modules(self, owner: object) -> Sequence[nn.Module] | None:
        """The model of an inferencer."""
        return (owner.model,) if isinstance(owner, BaseInferencer) else None

    def attach(self, owner: object, modules: Sequence[nn.Module]) -> None:
        """An inferencer's images are frames of one video, in their order."""
        if isinstance(owner, BaseInferencer):
            handle(modules[0]).adapter.in_sequence = True

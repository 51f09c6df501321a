"""Base of the frameworks whose inferencers are MMEngine's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.infer import BaseInferencer
from torch import Tensor, nn

from ...engine.convert import handle
from ..framework import Framework


class InferencerFramework(Framework):
    """Knows the framework's inferencers, whose images are the frames of one video."""

    def modules(self, owner: object) -> Sequence[nn.Module] | None:
        """The model of an inferencer."""
        return (owner.model,) if isinstance(owner, BaseInferencer) else None

    def attach(self, owner: object, modules: Sequence[nn.Module]) -> None:
        """Take an inferencer's images for the frames of one video, in order."""
        if isinstance(owner, BaseInferencer):
            handle(modules[0]).adapter.in_sequence = True

    def call(self, model: nn.Module, frame: Tensor) -> Any:
        """See :meth:`Framework.call`; with data samples of a picture that was not resized."""
        from .framework import data_sample

        samples = [data_sample(tuple(frame.shape[2:])) for _ in frame]
        return model(frame, samples, mode="predict")

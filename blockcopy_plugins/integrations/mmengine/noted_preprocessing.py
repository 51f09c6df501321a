"""Preprocessors of MMEngine's models, which normalise and stack pictures in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import ImgDataPreprocessor
from torch import Tensor, nn

from ...ops import library
from ..common.noted_picture import NotedPicture, plain
from ..common.rebound_methods import StandIn

# Whose preprocessors are known to do nothing but make tensors of pictures.
_FRAMEWORKS = ("mmengine", "mmdet", "mmseg")


@dataclass(eq=False)
class NotedPreprocessing(StandIn):
    """Replaces the forward of a preprocessor: the same batch, bit for bit."""

    def replacement(self, data: Any, training: bool = False) -> Any:
        """See ``forward`` of the preprocessor's class."""
        inputs = data.get("inputs") if isinstance(data, dict) else None
        # A device takes the bytes and does the rest in almost no time.
        on_host = self.owner.device.type == "cpu"
        if training or not on_host or not _are_served(inputs):
            return self.original(data, training)
        pictures = type(inputs)(map(NotedPicture.of, inputs))
        return plain(self.original({**data, "inputs": pictures}, training))


def _are_served(inputs: Any) -> bool:
    return type(inputs) in (list, tuple) and all(
        type(x) is Tensor and x.dim() == 3 and x.dtype == torch.uint8 and x.device.type == "cpu"
        for x in inputs
    )


def note_preprocessing(model: nn.Module) -> Iterator[StandIn]:
    """Let the preprocessor of a model work in one pass, if it is one of the framework's own.

    Yields:
        An object whose ``remove()`` undoes it.
    """
    preprocessor = getattr(model, "data_preprocessor", None)
    if (
        isinstance(preprocessor, ImgDataPreprocessor)
        and "forward" not in preprocessor.__dict__
        and type(preprocessor).forward.__module__.partition(".")[0] in _FRAMEWORKS
        and library.has_kernel("batch_pictures", "cpu")
    ):
        yield NotedPreprocessing(model, preprocessor, "forward").put()

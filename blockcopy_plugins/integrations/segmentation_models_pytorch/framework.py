"""Builds models of segmentation_models_pytorch by name; they take tensors."""

from __future__ import annotations

import segmentation_models_pytorch as smp
from torch import nn

from ...errors import ConfigError
from ..framework import Framework


class SegmentationModels(Framework):
    """Models of segmentation_models_pytorch."""

    def build(self, name: str) -> nn.Module:
        """See :meth:`Framework.build`: ``'unet/resnet34'``, decoder and encoder."""
        decoder, _, encoder = name.partition("/")
        options = dict(encoder_name=encoder) if encoder else {}
        try:
            return smp.create_model(decoder, encoder_weights=None, classes=19, **options).eval()
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"segmentation_models_pytorch has no model {name!r}: {error}. Give "
                "architecture/encoder, as in 'unet/resnet34'."
            ) from error


FRAMEWORK = SegmentationModels()

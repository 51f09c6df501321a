"""Builds models of timm by name; they take tensors and need nothing else."""

from __future__ import annotations

import timm
from torch import nn

from ...errors import ConfigError
from ..framework import Framework


class Timm(Framework):
    """Models of timm."""

    def build(self, name: str) -> nn.Module:
        """See :meth:`Framework.build`: ``'resnet50'``, or ``'resnet50/features'`` for its maps."""
        name, _, features = name.partition("/")
        if not timm.is_model(name):
            near = ", ".join(timm.list_models(f"{name.partition('_')[0]}*")[:9]) or "none like it"
            raise ConfigError(f"timm has no model {name!r}; it has {near}.")
        options = dict(features_only=True) if features == "features" else {}
        return timm.create_model(name, pretrained=False, **options).eval()


FRAMEWORK = Timm()

"""A model of Ultralytics and the copies of it that predictors run."""

from __future__ import annotations

import weakref
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...engine.convert import detached, handle
from .source import BatchSource


class Copies:
    """A converted model and the copies of it that ``predict`` and ``track`` make.

    A predictor of Ultralytics runs a deep copy of ``yolo.model`` with fused norms, and makes a new
    one when an option changes. What is asked of one of them is meant for the one that runs.

    Args:
        model: The model that was converted.

    Attributes:
        source: Knows whose pictures the predictor runs; ``None`` if no predictor reports to it.
        parent: The copies that the model itself may belong to.
    """

    def __init__(self, model: nn.Module) -> None:
        self._models = [weakref.ref(model)]
        self._latest: weakref.ref[nn.Module] | None = None
        self.source: BatchSource | None = None
        self.parent: Copies | None = None

    @property
    def original(self) -> nn.Module | None:
        """The model that the others are copies of."""
        return self._models[0]()

    def copied(self, model: nn.Module, memo: dict[int, Any]) -> Copies:
        """The copies of a deep copy of the model.

        Args:
            model: The copy.
            memo: As in ``__deepcopy__``.
        """
        if id(self) not in memo:
            other = memo[id(self)] = Copies(model)
            other.parent, other.source = self, deepcopy(self.source, memo)
        return memo[id(self)]

    def add(self, model: nn.Module) -> None:
        """Add a copy of the model."""
        if all(model is not known for known in self.modules()):
            self._models.append(weakref.ref(model))

    def ran(self, model: nn.Module) -> None:
        """Note that this copy runs."""
        self._latest, self.parent = weakref.ref(model), None

    def modules(self) -> list[nn.Module]:
        """The copies that still exist, the one that ran last first."""
        found = [model for ref in self._models if (model := ref()) is not None]
        latest = None if self._latest is None else self._latest()
        return sorted(found, key=lambda model: model is not latest)


@dataclass
class FusedOnBlocks:
    """Replaces a converted model's ``fuse``, which replaces modules.

    Attributes:
        model: The model.
    """

    model: nn.Module

    def __call__(self, *args, **kwargs):
        """Fuse the norms into the convolutions, and attach the engine's hooks again."""
        with detached(self.model):
            self.model.fuse(*args, **kwargs)
        adapter = handle(self.model).adapter
        if adapter.copies.parent is not None:
            # Predictors fuse what they have copied.
            adapter.copies = adapter.copies.parent
            adapter.copies.add(self.model)
        return self.model

    def remove(self) -> None:
        """Restore the model's own method."""
        self.model.__dict__.pop("fuse", None)

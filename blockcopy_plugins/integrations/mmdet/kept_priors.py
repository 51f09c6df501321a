"""Anchors and points of MMDetection's heads, computed once for maps of one size."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from ..common.rebound_methods import StandIn

_METHOD = "grid_priors"


@dataclass(eq=False)
class KeptPriors(StandIn):
    """Replaces ``grid_priors`` of one generator, which returns the same in each frame.

    They are computed again for maps of another size, when an attribute of the generator was
    replaced, and when they have been written to.
    """

    _key: Hashable = None
    _of: tuple = ()
    _priors: list[Tensor] = field(default_factory=list)
    _versions: list[int] = field(default_factory=list)

    def replacement(self, featmap_sizes: Sequence, *args, **kwargs) -> Any:
        """See ``grid_priors`` of the generator's class."""
        sizes = tuple(tuple(map(int, size)) for size in featmap_sizes)
        key = (sizes, args, tuple(sorted(kwargs.items())))
        if key != self._key or not self._are_as_they_were():
            # In a frame's inference mode, writes are not counted.
            with torch.inference_mode(False), torch.no_grad():
                priors = self.original(featmap_sizes, *args, **kwargs)
            if not all(type(each) is Tensor for each in priors):
                return priors
            self._key, self._priors, self._of = key, list(priors), self._attributes()
            self._versions = [each._version for each in self._watched()]
        return list(self._priors)

    def _are_as_they_were(self) -> bool:
        now = self._attributes()
        same = len(now) == len(self._of) and all(map(is_, now, self._of))
        return same and self._versions == [each._version for each in self._watched()]

    def _attributes(self) -> tuple:
        return tuple(value for name, value in vars(self.owner).items() if name != self.name)

    def _watched(self) -> list[Tensor]:
        own = getattr(self.owner, "base_anchors", None) or ()
        return [*self._priors, *(each for each in own if not each.is_inference())]


def keep_priors(model: nn.Module) -> Iterator[StandIn]:
    """Let the heads of a detector keep their priors.

    Yields:
        Objects whose ``remove()`` undoes it.
    """
    for module in nn.Module.modules(model):
        generator = module.__dict__.get("prior_generator")
        if hasattr(type(generator), _METHOD) and _METHOD not in vars(generator):
            yield KeptPriors(model, generator, _METHOD).put()

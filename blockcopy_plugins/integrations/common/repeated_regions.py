"""Results of region heads, taken from the last frame for regions whose features are the same.

A head computes each region by itself. Proposals over blocks that have not run since the last frame
come out bit for bit as they were there, and so do the features that RoIAlign reads below them. What
is compared is those features, so that it does not matter why they are the same. The result stays
that of the frame in which it was computed: rounding, which may depend on the number of regions in a
product of matrices, does not add up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ...engine.conv.weight_watch import WeightSample
from ...engine.convert import handle
from .rebound_methods import StandIn

# Fewer regions, or fewer values of all of them, are not worth looking at.
_LEAST = 16
_LEAST_VALUES = 1_000_000
# Below this share of repeated regions, taking the others apart costs more than it saves.
_LEAST_SHARE = 1 / 16
# Values of a region by which it is looked up.
_SAMPLED = 32
# Groups of streams that are remembered.
_MOST = 4
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
_BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


@dataclass
class _LastFrame:
    features: Tensor
    keys: Tensor
    results: list[Tensor]
    weights: list[tuple[Tensor, int]]
    samples: list[WeightSample]


@dataclass(eq=False)
class RepeatedRegions(StandIn):
    """Replaces a method that computes something for each of some regions.

    Whether it does is tried: in the 1st, 2nd, 4th, 8th, ... call all regions are computed, and a
    few of them again by themselves. If their results differ, the method is left alone from then on.
    """

    def __post_init__(self) -> None:
        self._last: OrderedDict[tuple[int, ...], _LastFrame] = OrderedDict()
        self._calls = 0
        self._is_left_alone = False

    def __reduce__(self):
        # What is remembered belongs to this model's streams.
        return type(self), (self.model, self.owner, self.name)

    def replacement(self, features: Tensor, *args, **kwargs) -> Any:
        """Compute the regions ``(K, ...)`` that differ from those of the last frame."""
        frame = handle(self.model).converted.active.frame
        if frame is None or args or kwargs or not self._is_served(features):
            return self.original(features, *args, **kwargs)
        slots = tuple(frame.slots)
        last, weights = self._last.pop(slots, None), self._weights()
        if weights is None:
            return self.original(features)
        keys = _keys_of(features)
        self._calls += 1
        is_trial = self._calls & (self._calls - 1) == 0
        pairs = None
        may_repeat = not (is_trial or all(frame.full) or last is None)
        if may_repeat and _are_same(weights, last):
            pairs = _repeated(features, keys, last)
        if pairs is None:
            results = self.original(features)
        else:
            results = self._complete(features, *pairs, last)
        leaves = tree_flatten(results)[0]
        if not all(type(x) is Tensor and x.shape[:1] == features.shape[:1] for x in leaves):
            self._is_left_alone = True
        elif is_trial and not self._is_of_each(features, keys, leaves):
            self._is_left_alone = True
        else:
            kept = [each.clone() for each in leaves]
            if last is not None and _are_same(weights, last):
                samples = last.samples
            else:
                samples = [WeightSample(weight) for weight, _ in weights]
            self._last[slots] = _LastFrame(features, keys, kept, weights, samples)
            if len(self._last) > _MOST:
                self._last.popitem(last=False)
        if self._is_left_alone:
            self._last.clear()
        return results

    def _is_served(self, features: Any) -> bool:
        return (
            not self._is_left_alone
            and type(features) is Tensor
            and features.dtype in _BITS
            and features.device.type == "cpu"
            and features.dim() > 1
            and len(features) >= _LEAST
            and features.numel() >= _LEAST_VALUES
            and features.is_contiguous()
            and not torch.is_grad_enabled()
        )

    def _weights(self) -> list[tuple[Tensor, int]] | None:
        """Weights with their versions; None if writes to them go unnoticed."""
        found = [*nn.Module.parameters(self.owner), *nn.Module.buffers(self.owner)]
        if any(each.is_inference() for each in found):
            return None
        return [(each, each._version) for each in found]

    def _is_of_each(self, features: Tensor, keys: Tensor, leaves: list[Tensor]) -> bool:
        """Whether a few regions by themselves have the same results, and stay what they were."""
        some = torch.arange(0, len(features), len(features) // 5)
        again = tree_flatten(self.original(features[some]))[0]
        for one, all_ in zip(again, leaves, strict=True):
            most = _TOLERANCE[features.dtype] * all_.abs().max()
            if not bool(((one - all_[some]).abs() <= most).all()):
                return False
        return torch.equal(_keys_of(features), keys)

    def _complete(self, features: Tensor, new: Tensor, old: Tensor, last: _LastFrame) -> Any:
        """Compute all regions but ``new``, whose results are those of ``old`` in the last frame."""
        is_other = torch.ones(len(features), dtype=torch.bool)
        is_other[new] = False
        # One at least, for the form of the results.
        is_other[-1] = True
        computed, form = tree_flatten(self.original(features[is_other]))
        joined = []
        for one, before in zip(computed, last.results, strict=True):
            out = one.new_empty(len(features), *one.shape[1:])
            out[new] = before[old]
            out[is_other] = one
            joined.append(out)
        return tree_unflatten(joined, form)


def _keys_of(features: Tensor) -> Tensor:
    """A number for each region, int64; the same for the same features."""
    rows = features.flatten(1)
    places = torch.arange(_SAMPLED) * rows.shape[1] // _SAMPLED
    bits = rows[:, places].view(_BITS[features.dtype]).long()
    # Odd numbers, far from each other; products wrap around.
    return (bits * (2 * places * 0x9E3779B1 + 1)).sum(1)


def _are_same(weights: list[tuple[Tensor, int]], last: _LastFrame) -> bool:
    pairs = zip(weights, last.weights, strict=False)
    same = all(a is b and version == before for (a, version), (b, before) in pairs)
    if not same or len(weights) != len(last.weights):
        return False
    # Writes that torch does not count show in the values.
    return all(sample.is_the_same() for sample in last.samples)


def _repeated(features: Tensor, keys: Tensor, last: _LastFrame) -> tuple[Tensor, Tensor] | None:
    """Places of the regions whose features are the same, here and there; None if they are few."""
    # Who writes all frames' features to the same memory has written over those of the last one.
    if features.untyped_storage().data_ptr() == last.features.untyped_storage().data_ptr():
        return None
    known, order = last.keys.sort()
    found = torch.searchsorted(known, keys).clamp_max(len(known) - 1)
    new = (known[found] == keys).nonzero()[:, 0]
    old = order[found[new]]
    # Bits: zeros of either sign count as different.
    bits = _BITS[features.dtype]
    here, there = (x.view(bits).unbind(0) for x in (features, last.features))
    same = [torch.equal(here[i], there[j]) for i, j in zip(new.tolist(), old.tolist(), strict=True)]
    same = torch.tensor(same, dtype=torch.bool)
    if int(same.sum()) < _LEAST_SHARE * len(features):
        return None
    return new[same], old[same]


def repeat_regions(model: nn.Module, methods: Iterable[tuple[nn.Module, str]]) -> Iterator[StandIn]:
    """Let methods of a model's heads compute only regions that have changed.

    Args:
        model: The model.
        methods: Heads, and the names of the methods.

    Yields:
        Objects whose ``remove()`` undoes it.
    """
    for head, name in methods:
        if name not in head.__dict__:
            yield RepeatedRegions(model, head, name).put()

"""Weights in the layout of the package's own kernels, kept from frame to frame."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..torch_internals import no_modes, version_of
from .weight_watch import WeightSample, WeightWatch, are_as_seen

_Key = tuple[int, Hashable]


@dataclass(frozen=True)
class Columns:
    """Some columns of the weight of a linear layer, as a convolution's.

    Attributes:
        first: The first of them.
        end: The one after the last.
    """

    first: int
    end: int

    def of(self, weight: Tensor) -> Tensor:
        """A view ``(features_out, columns, 1, 1)`` of ``(features_out, features)``."""
        return weight[:, self.first : self.end, None, None]


@dataclass(eq=False)
class PreparedWeight:
    """A weight as kernels take it.

    Attributes:
        weight: The weight.
        version: Its version when it was laid out.
        memory: Its address at that time.
        packed: What was made of it: uint8 ``(bytes,)`` in the kernels' layout, or another weight.
        watch: Sees writes that do not change the version.
        sample: Sees some of them at once, where what was made is another weight.
        dropped: Whether it has been given up.
    """

    weight: weakref.ref[Tensor]
    version: int
    memory: int
    packed: Tensor
    watch: WeightWatch
    sample: WeightSample | None = None
    dropped: bool = False

    def is_current(self) -> bool:
        """Whether the weight is unchanged, as far as can be seen."""
        weight = self.weight()
        return (
            not self.dropped
            and weight is not None
            and self.version == version_of(weight)
            and self.memory == weight.data_ptr()
            and (self.sample is None or self.sample.is_the_same())
        )


class PreparedWeights:
    """The prepared weights of a model.

    Args:
        prepare: ``prepare(weight, how)`` makes of a weight what kernels take.

    Attributes:
        times_dropped: How often some were given up.
    """

    def __init__(self, prepare: Callable[[Tensor, Hashable], Tensor]) -> None:
        self._prepare = prepare
        self.times_dropped = 0
        self._kept: dict[_Key, PreparedWeight] = {}
        self._turns: list[_Key] = []

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: tuple[Tensor, Hashable]) -> bool:
        weight, how = key
        return (id(weight), how) in self._kept

    def of(self, weight: Tensor, how: Hashable) -> Tensor:
        """What kernels take for a weight.

        Args:
            weight: The weight.
            how: See the class.
        """
        key = (id(weight), how)
        found = self._kept.get(key)
        if found is None or found.weight() is not weight or not found.is_current():
            # Not part of the frame: modes that record or count its ops must not see this.
            with no_modes(), torch.inference_mode(False), torch.no_grad():
                packed = self._prepare(weight, how)
            # It lives as long as the weight.
            reference = weakref.ref(weight, _Forget(self._kept, key))
            watch = WeightWatch(weight)
            sample = WeightSample(weight) if isinstance(packed, nn.Parameter) else None
            seen = version_of(weight), weight.data_ptr()
            found = PreparedWeight(reference, *seen, packed, watch, sample)
            self._kept[key] = found
        return found.packed

    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [found.packed for found in self._kept.values()]

    def among(self, tensors: Iterable[Tensor]) -> WeightsInUse:
        """Those whose prepared layout is among some tensors."""
        asked = set(map(id, tensors))
        return WeightsInUse(self, [p for p in self._kept.values() if id(p.packed) in asked])

    def look_at_one(self) -> None:
        """Check the next weight for writes; called once a frame, so that each has its turn."""
        if not self._turns:
            self._turns.extend(self._kept)
        if not self._turns:
            return
        key = self._turns.pop()
        found = self._kept.get(key)
        if found is not None and not found.watch.next_part_is_the_same():
            found.dropped = True
            self.times_dropped += 1
            del self._kept[key]

    def clear(self) -> None:
        """Give all of them back."""
        for found in self._kept.values():
            found.dropped = True
        self.times_dropped += 1
        self._kept.clear()


class WeightsInUse:
    """Some prepared weights, which are looked at together.

    Args:
        kept: All of the model.
        used: Some of them.
    """

    def __init__(self, kept: PreparedWeights, used: Sequence[PreparedWeight]) -> None:
        self._kept = kept
        self._used = used
        self._times_dropped = -1
        self._weights = tuple(prepared.weight for prepared in used)
        self._seen = [number for p in used for number in (p.version, p.memory)]
        self._samples = [prepared.sample for prepared in used if prepared.sample is not None]

    def are_current(self) -> bool:
        """Whether all weights are unchanged, see :meth:`PreparedWeight.is_current`."""
        if self._times_dropped != self._kept.times_dropped:
            if any(prepared.dropped for prepared in self._used):
                return False
            self._times_dropped = self._kept.times_dropped
        are_same = all(sample.is_the_same() for sample in self._samples)
        return are_same and are_as_seen(self._weights, self._seen)


@dataclass
class _Forget:
    """Drops what was prepared for a weight that no longer exists."""

    prepared: dict[_Key, PreparedWeight]
    key: _Key

    def __call__(self, reference: weakref.ref) -> None:
        found = self.prepared.get(self.key)
        if found is not None and found.weight is reference:
            del self.prepared[self.key]

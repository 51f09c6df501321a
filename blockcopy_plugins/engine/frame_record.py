"""The record of the last call of a converted model."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from ..host_transfer import HostReads, to_host
from ..policy.guards import GuardCounts
from .frame.counts import FrameCounts


class Scalars:
    """Figures by name, some of which may still be on the device.

    Args:
        values: Numbers, and 0-dim tensors for those that the host does not know yet.
        reads: Brings the latter with the next frame.
    """

    def __init__(self, values: Mapping[str, float | Tensor], reads: HostReads) -> None:
        self._values = dict(values)
        self._unknown: dict[str, Tensor] = {}
        for name, value in self._values.items():
            if isinstance(value, Tensor) and value.device.type != "cpu" and value.numel() == 1:
                self._unknown[name] = value
                reads.add(value, partial(self._take, name))

    @property
    def known(self) -> bool:
        """Whether all of them are in host memory."""
        return not self._unknown

    def floats(self) -> dict[str, float]:
        """All of them; if one is not known yet, this waits for the device."""
        for name, value in zip(
            list(self._unknown), to_host(list(self._unknown.values())), strict=True
        ):
            self._take(name, value)
        return self._values

    def _take(self, name: str, value: Tensor) -> None:
        self._values[name] = value.item()
        self._unknown.pop(name, None)


@dataclass(frozen=True)
class FrameRecord:
    """What happened in one call of a converted model.

    Attributes:
        streams: Stream of each image.
        grid: bool ``(N, GH, GW)``, the blocks that were executed, on the frame's device.
        host_grid: The same in host memory.
        counts: MACs and densified ops.
        figures: What the policy reports for logs, see :attr:`scalars`.
        size: ``(H, W)`` of the frame, px.
        seconds: Wall time of ``policy`` (choice and learning) and ``model`` on the host: it does
            not include what a GPU has yet to do; waiting for that counts as the policy's.
        guards: What the guards did, ``None`` if there are none.
        twice: bool ``(N, GH, GW)`` in host memory, blocks that ran a second time in the same call,
            to compare (:meth:`~blockcopy_plugins.policy.Policy.compares`); ``None`` if none did.
    """

    streams: tuple[Hashable, ...]
    grid: Tensor
    host_grid: Tensor
    counts: FrameCounts
    figures: Scalars
    size: tuple[int, int]
    seconds: dict[str, float] = field(default_factory=dict)
    guards: GuardCounts | None = None
    twice: Tensor | None = None

    @property
    def executed_rate(self) -> float:
        """Executed blocks / all blocks; blocks that ran twice count twice."""
        rates = self.rates
        return sum(rates) / len(rates)

    @property
    def rates(self) -> list[float]:
        """The executed rate of each image."""
        rates = self.host_grid.flatten(1).float().mean(1)
        if self.twice is not None:
            rates = rates + self.twice.flatten(1).float().mean(1)
        return rates.tolist()

    @property
    def scalars(self) -> dict[str, float]:
        """What the policy reports for logs.

        On a GPU, some of it reaches the host with the next frame: reading it earlier (see
        :attr:`scalars_known`) waits for the device.
        """
        return self.figures.floats()

    @property
    def scalars_known(self) -> bool:
        """Whether :attr:`scalars` can be read without waiting for the device."""
        return self.figures.known

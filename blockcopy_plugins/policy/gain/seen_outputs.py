"""What the outputs of a frame show about its blocks: it is remembered and learned from.

If the policy decides on the host and the network runs on a device, this happens a frame later.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blockcopy_plugins.host_transfer import upload
from blockcopy_plugins.ops.block_gain import remember_gain
from blockcopy_plugins.policy.information_gain import OutputChange

from .look import Look
from .memory import GAIN_FLOOR, LOG_GAIN, SURPRISE_STEP, StreamMemory
from .ridge import OnlineRidge


@dataclass(eq=False)
class SeenOutputs:
    """Adds what outputs show to the memories of a frame's streams.

    Attributes:
        look: The frame's look.
        grid: bool ``(N, GH, GW)``, the executed blocks, where the policy decides.
        executed: Number of executed blocks of each image.
        changes: The change of each image's output; None if it shows nothing new.
        committed: The memories that the frame has left, to which this is added.
        memories: Those of all streams: one that is no longer in it was reset, or taken back.
        ridge: Learns; None if it does not.
    """

    look: Look
    grid: Tensor
    executed: Sequence[int]
    changes: Sequence[OutputChange | None]
    committed: Sequence[StreamMemory]
    memories: dict[Hashable, StreamMemory]
    ridge: OnlineRidge | None

    def see(self) -> None:
        """Take the values; if they are on a device and the policy on the host, once they arrive."""
        context = self.look.context
        said = [change for change in self.changes if change is not None]
        if all(change.shown.device == context.device for change in said):
            self._take([(None, None) if c is None else (c.gain, c.shown) for c in self.changes])
            return
        values = torch.stack([_values(change) for change in said])
        if context.device.type != "cpu":
            self(upload(values, context.device))
            return
        for image, memory in enumerate(self.committed):
            memory.maps = self._maps(image, None, None)
        context.read(values, self)

    def __call__(self, values: Tensor) -> None:
        """Take values that came from a device.

        Args:
            values: float32 ``(n, 3, GH, GW)`` where the policy decides: for each image whose output
                shows anything, its gain and what it shows.
        """
        rows = iter(values)
        said: list[tuple[Tensor | None, Tensor | None]] = []
        for change in self.changes:
            row = None if change is None else next(rows)
            gain = None if row is None or change.gain is None else row[0]
            said.append((gain, None if row is None else row[1:]))
        self._take(said)

    def _take(self, said: Sequence[tuple[Tensor | None, Tensor | None]]) -> None:
        learned = False
        streams = self.look.context.streams
        for image, (stream, memory) in enumerate(zip(streams, self.committed, strict=True)):
            if self.memories.get(stream) is not memory:
                continue
            gain, shown = said[image]
            memory.maps = self._maps(image, gain, shown)
            if gain is not None and self.ridge is not None:
                self.ridge.learn(
                    self.look.found.features[image].flatten(0, 1),
                    memory.maps[LOG_GAIN].flatten(),
                    self.grid[image].flatten(),
                    self.executed[image],
                )
                learned = True
        if learned:
            self.ridge.solve()

    def _maps(self, image: int, gain: Tensor | None, shown: Tensor | None) -> Tensor:
        """The maps of an image's blocks as they are now, float32 ``(6, GH, GW)``."""
        look, change = self.look, self.changes[image]
        return remember_gain(
            look.maps[image],
            self.grid[image],
            look.found.change[image],
            look.found.expected[image],
            look.weights,
            gain,
            shown,
            # If there is no memory, everything was looked at.
            shown is not None and (change.everywhere or gain is None),
            GAIN_FLOOR,
            SURPRISE_STEP,
        )


def _values(change: OutputChange) -> Tensor:
    gain = torch.zeros_like(change.shown[0]) if change.gain is None else change.gain
    return torch.cat((gain[None], change.shown))

"""Takes back a frame whose outputs turn out not to have been finite.

On a device this is known a frame later: asking at once would mean waiting.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from torch import Tensor

from blockcopy_plugins.policy.information_gain import outputs_not_finite

from .memory import StreamMemory
from .ridge import OnlineRidge


class OutputProof:
    """The knowledge from before a frame, kept until its outputs are known to have been finite.

    Args:
        memories: Those of all streams; changed if the frame is taken back.
        streams: The frame's streams.
        ridge: The regression, changed likewise.
    """

    def __init__(
        self,
        memories: dict[Hashable, StreamMemory],
        streams: Sequence[Hashable],
        ridge: OnlineRidge,
    ) -> None:
        self._memories = memories
        self._before = {stream: memories.get(stream) for stream in streams}
        self._after: dict[Hashable, StreamMemory | None] = {}
        self._ridge = ridge
        # They are replaced, never written to.
        self._sums = (ridge.products, ridge.targets, ridge.weights)

    def committed(self) -> None:
        """Note that the frame has been remembered."""
        self._after = {stream: self._memories.get(stream) for stream in self._before}

    def __call__(self, finite: Tensor) -> None:
        """Take the frame back unless all its outputs were finite.

        Args:
            finite: bool ``(N,)`` in host memory.

        Raises:
            FrameError: If one of them was not.
        """
        bad = [s for s, good in zip(self._before, finite.tolist(), strict=True) if not good]
        if not bad:
            return
        for stream, memory in self._before.items():
            if self._memories.get(stream) is not self._after[stream]:
                continue  # It was reset in between.
            if memory is None:
                self._memories.pop(stream, None)
            else:
                self._memories[stream] = memory
        self._ridge.products, self._ridge.targets, self._ridge.weights = self._sums
        raise outputs_not_finite(bad)

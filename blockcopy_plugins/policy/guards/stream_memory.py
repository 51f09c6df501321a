"""Guards' memory of each stream: one tensor of constant size, on the frames' device."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import Tensor


class StreamMemory:
    """A tensor for each stream, read and written for the streams of a batch at once.

    Streams may come, go and change places between batches. Unless they do, a written tensor is read
    again as it is, without a copy.
    """

    def __init__(self) -> None:
        # A batch as it was written, and each stream's place in it.
        self._places: dict[Hashable, tuple[Tensor, int]] = {}

    def read(
        self,
        streams: Sequence[Hashable],
        shape: Sequence[int],
        fill: float,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Tensor:
        """Return the remembered tensors; do not write to them.

        Args:
            streams: N ids.
            shape: Shape of the tensor of one stream.
            fill: Value for streams without a memory: new ones, and those whose tensor had another
                shape or device.
            dtype: The result's dtype.
            device: The result's device.

        Returns:
            ``(N, *shape)``.
        """
        shape = tuple(shape)
        found = [self._places.get(stream) for stream in streams]
        batch = found[0][0] if found[0] is not None else None
        if batch is not None and batch.shape == (len(found), *shape) and batch.device == device:
            if all(p is not None and p[0] is batch and p[1] == i for i, p in enumerate(found)):
                return batch
        unknown = torch.full(shape, fill, dtype=dtype, device=device)
        rows = []
        for place in found:
            row = unknown if place is None else place[0][place[1]]
            rows.append(row if row.shape == shape and row.device == device else unknown)
        return torch.stack(rows)

    def write(self, streams: Sequence[Hashable], values: Tensor) -> None:
        """Remember ``values``, ``(N, *shape)``, which nobody may write to any more."""
        for index, stream in enumerate(streams):
            self._places[stream] = (values, index)

    def forget(self, streams: Iterable[Hashable] | None = None) -> None:
        """Forget streams; None forgets all."""
        if streams is None:
            self._places.clear()
            return
        for stream in streams:
            self._places.pop(stream, None)

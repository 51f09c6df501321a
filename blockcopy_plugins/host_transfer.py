"""Transfers between the host and a device: one per frame to the host, small ones the other way.

On a GPU, each read of a value waits until all work before it is done. Everything that the host must
know about a frame is therefore transferred at once, and processed in host memory; values that the
host knows are brought to the device without waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Then = Callable[[Tensor], None]
"""What to do with a value once it is in host memory."""


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Bring tensors to host memory, in one transfer from each device that they are on.

    This waits for the device. Nothing else in a frame has to wait.

    Args:
        tensors: Of any shapes and dtypes.

    Returns:
        The same in host memory, in their order; tensors that were there already are not copied.
    """
    found = list(tensors)
    for device in {value.device for value in tensors if value.device.type != "cpu"}:
        there = [i for i, value in enumerate(tensors) if value.device == device]
        if len(there) == 1:
            found[there[0]] = tensors[there[0]].detach().to("cpu")
            continue
        # As bytes, wide items first: each then begins at a multiple of its own width.
        there.sort(key=lambda i: -tensors[i].element_size())
        flat = [tensors[i].detach().contiguous().view(-1).view(torch.uint8) for i in there]
        pieces = torch.cat(flat).to("cpu").split([len(piece) for piece in flat])
        for i, piece in zip(there, pieces, strict=True):
            found[i] = piece.view(tensors[i].dtype).view(tensors[i].shape)
    return found


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Bring a small tensor to a device without waiting for it.

    Args:
        values: In host memory, or on the device already.
        device: Where it is needed.

    Returns:
        ``values`` itself if it is there.
    """
    if values.device == device:
        return values
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def upload_into(target: Tensor, values: Tensor) -> None:
    """Write host memory into a tensor without waiting for its device.

    Args:
        target: Any tensor.
        values: A small tensor in host memory, of its shape.
    """
    if target.device.type == "cuda":
        values = values.pin_memory()
    target.copy_(values, non_blocking=True)


class HostReads:
    """Values on a device that the host wants, until the next frame's transfer brings them.

    Values requested while a frame's blocks are chosen come with that frame's grid. Values requested
    after that (from the frame's results) come with the grid of the next frame. A frame is a
    ``with`` block; if it fails, the values that it requested are no longer wanted.
    """

    def __init__(self) -> None:
        self._wanted: list[tuple[Tensor, Then]] = []
        self._carried: list[tuple[Tensor, Then]] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, failure: type[BaseException] | None, *error: object) -> None:
        if failure is None:
            self._carried += self._wanted
        self._wanted = []

    def add(self, value: Tensor, then: Then) -> None:
        """Request a value.

        Args:
            value: Any small tensor that is not written to any more.
            then: Called with the value in host memory. A bound method or a partial of one rather
                than a closure, so that a deep copy of the model informs the copied policy.
        """
        self._wanted.append((value, then))

    def bring(self, value: Tensor) -> Tensor:
        """Transfer a value and all requested ones, and hand the requested ones on.

        Args:
            value: Such as a grid, on any device.

        Returns:
            A copy in host memory.

        Raises:
            Exception: The first error that a receiver raises, after all have got their values.
        """
        wanted = self._carried + self._wanted
        self._carried, self._wanted = [], []
        host, *values = to_host([value, *(wished for wished, _ in wanted)])
        failure = None
        for (_, then), found in zip(wanted, values, strict=True):
            try:
                then(found)
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return host.clone() if host is value else host

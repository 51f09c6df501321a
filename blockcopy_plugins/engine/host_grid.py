"""The one transfer of a frame from the device to the host, and small ones the other way.

On a GPU each read of a value waits until all work before it is done. What the host has to know of a
frame (how many blocks are executed and where, whether the picture is finite) is therefore read at
once, here, and worked on in host memory.
"""

from __future__ import annotations

import torch
from torch import Tensor


def read_grid(grid: Tensor, finite: Tensor | None = None) -> tuple[Tensor, bool]:
    """Bring a grid to the host. This waits for the device, and nothing else of a frame has to.

    Args:
        grid: bool ``(N, GH, GW)`` on any device.
        finite: bool scalar that is wanted too, on the same device.

    Returns:
        A copy of the grid in host memory, and the value of ``finite`` (True if it is ``None``).
    """
    if finite is None:
        return grid.to("cpu", copy=True), True
    both = torch.cat([grid.flatten(), finite.reshape(1)]).to("cpu", copy=True)
    return both[:-1].view(grid.shape), bool(both[-1])


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Bring host memory to a device without waiting for it.

    Args:
        values: A small tensor in host memory.
        device: Where it is needed.

    Returns:
        ``values`` itself if that is the host.
    """
    if device.type != "cuda":
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

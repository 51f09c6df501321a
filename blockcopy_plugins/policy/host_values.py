"""What the host must know of a frame; on a device everything that it waits for is read here."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from blockcopy_plugins.policy.base import PolicyContext


def host_first(context: PolicyContext) -> tuple[bool, ...]:
    """Return for each image whether it is the first of its stream."""
    known = getattr(context, "host_first", None)
    return tuple(context.first.tolist()) if known is None else known


def host_counts(grid: Tensor, context: PolicyContext) -> list[int]:
    """Return the executed blocks of each image.

    Args:
        grid: bool ``(N, GH, GW)``, what was executed.
        context: Of the call.
    """
    bring = getattr(context, "host_grid", None)
    host = grid.cpu() if bring is None else bring(grid)
    return host.flatten(1).sum(1).tolist()


def read(context: PolicyContext, value: Tensor, then: Callable[[Tensor], None]) -> None:
    """Have a small tensor brought to the host, and ``then`` called with it.

    Where the engine offers it, it comes with the one read of the grid, before the network runs.
    """
    bring = getattr(context, "read", None)
    if bring is None:
        then(value.cpu())
    else:
        bring(value, then)


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Bring host memory to a device without waiting for it."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)

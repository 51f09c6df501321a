"""A policy made from a plain function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from blockcopy_plugins.errors import ConfigError, GridError
from blockcopy_plugins.host_transfer import upload

from .base import Policy, PolicyContext


class CallablePolicy(Policy):
    """Lets a function dictate the grid.

    Args:
        function: ``f(frame, context) -> grid``; frame ``(N, 3, H, W)``, context a
            :class:`PolicyContext`, grid bool ``(N, GH, GW)`` on any device.

    Raises:
        ConfigError: If ``function`` cannot be called.
    """

    def __init__(self, function: Callable[[Tensor, PolicyContext], Tensor]) -> None:
        if not callable(function):
            raise ConfigError(
                f"function must be callable as f(frame, context) -> grid, found {function!r}"
            )
        self.function = function

    def select(self, frame: Tensor, context: PolicyContext) -> Tensor:
        """Ask the function.

        Raises:
            GridError: If its answer is not a bool tensor of shape ``context.grid_shape``, or it has
                written to the frame, which the model is about to read.
        """
        before = _version_of(frame)
        grid = self.function(frame, context)
        if _version_of(frame) != before:
            raise GridError(
                "the policy function has written to the frame, which is what the model reads, too; "
                "let it work on frame.clone()"
            )
        if not isinstance(grid, Tensor):
            raise GridError(
                f"the policy function must return a bool tensor {tuple(context.grid_shape)}, found "
                f"{type(grid).__name__}"
            )
        if grid.dtype != torch.bool or tuple(grid.shape) != tuple(context.grid_shape):
            raise GridError(
                f"the policy function must return bool {tuple(context.grid_shape)}, found "
                f"{grid.dtype} {tuple(grid.shape)}"
            )
        return upload(grid, frame.device)


def _version_of(frame: Tensor) -> int | None:
    # Writes to a tensor that was made in inference mode are not counted.
    return None if frame.is_inference() else frame._version

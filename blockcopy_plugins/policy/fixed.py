"""Policies that do not look at the picture: all, none, random and a grid given once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blockcopy_plugins.errors import ConfigError, GridError
from blockcopy_plugins.host_transfer import upload

from .base import Policy, PolicyContext, check_rate
from .task_output import TaskOutputs


class AllPolicy(Policy):
    """Executes every block of every frame: the dense network, run by the sparse engine."""

    def select(self, frame: Tensor, context: PolicyContext) -> Tensor:
        """Return a grid of ones."""
        return torch.ones(context.grid_shape, dtype=torch.bool, device=frame.device)


class NonePolicy(Policy):
    """Executes nothing; the engine still executes the first frame of a stream fully."""

    def select(self, frame: Tensor, context: PolicyContext) -> Tensor:
        """Return a grid of zeros."""
        return torch.zeros(context.grid_shape, dtype=torch.bool, device=frame.device)


class RandomPolicy(Policy):
    """Executes each block with the same probability.

    It draws from its own generator, so the user's random numbers and the policy's do not disturb
    each other. A frame that failed and is tried again gets the same grid.

    Args:
        rate: The probability, 0 to 1. Default: 0.5.
        seed: Seed of the generator; None takes one from the operating system.

    Raises:
        ConfigError: If ``rate`` is not a number from 0 to 1.
    """

    def __init__(self, rate: float = 0.5, seed: int | None = None) -> None:
        self.rate = check_rate("rate", rate)
        self._generator = make_generator(seed)
        self._committed = self._generator.get_state()
        self._drawn: tuple[PolicyContext, Tensor] | None = None

    def select(self, frame: Tensor, context: PolicyContext) -> Tensor:
        """Draw a grid."""
        self._generator.set_state(self._committed)
        drawn = torch.rand(context.grid_shape, generator=self._generator)
        self._drawn = (context, drawn)
        return upload(drawn < self.rate, frame.device)

    def scores(self, frame: Tensor, context: PolicyContext) -> Tensor | None:
        """Return the draws, the smallest first: the order in which a higher rate would execute."""
        drawn = self._drawn
        return -drawn[1] if drawn is not None and drawn[0] is context else None

    def feedback(
        self, frame: Tensor, grid: Tensor, outputs: TaskOutputs, context: PolicyContext
    ) -> dict[str, float | Tensor]:
        """Advance to the next random numbers."""
        self._committed = self._generator.get_state()
        return super().feedback(frame, grid, outputs, context)


class StaticPolicy(Policy):
    """Executes the same blocks in every frame.

    Args:
        grid: bool ``(GH, GW)`` for every image, or ``(N, GH, GW)`` for each image of the batch; a
            tensor or nested sequences of bool or 0/1. It is copied.

    Raises:
        ConfigError: If it is not such a grid.
    """

    def __init__(self, grid: Tensor | Sequence) -> None:
        try:
            values = torch.as_tensor(grid)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"grid must be a bool tensor or nested lists (GH, GW) or (N, GH, GW): {error}"
            ) from error
        if values.dim() not in (2, 3) or 0 in values.shape:
            raise ConfigError(
                f"grid must have shape (GH, GW) or (N, GH, GW), found {tuple(values.shape)}"
            )
        if not bool(((values == 0) | (values == 1)).all()):
            raise ConfigError("grid must hold only True and False (or 1 and 0)")
        self.grid = values.bool().clone()

    def select(self, frame: Tensor, context: PolicyContext) -> Tensor:
        """Return the grid.

        Raises:
            GridError: If the grid given does not fit the frame's.
        """
        if self.grid.shape[-2:] != tuple(context.grid_shape[1:]) or (
            self.grid.dim() == 3 and self.grid.shape[0] != context.grid_shape[0]
        ):
            raise GridError(
                f"the static grid has shape {tuple(self.grid.shape)}, but frames of this size at "
                f"{context.block_size}-px blocks have a grid {tuple(context.grid_shape)}; give a "
                f"grid of shape {tuple(context.grid_shape[1:])}"
            )
        # A copy: the receiver may write to it.
        return upload(self.grid, frame.device).expand(context.grid_shape).clone()


def make_generator(seed: int | None) -> torch.Generator:
    """Return a CPU generator; ``seed=None`` seeds it from the operating system.

    Raises:
        ConfigError: If ``seed`` is neither None nor an integer.
    """
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise ConfigError(f"seed must be None or an integer, found {seed!r}")
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator

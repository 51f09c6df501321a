"""All guards of a converted model, as one."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blockcopy_plugins.errors import ConfigError, GridError
from blockcopy_plugins.policy.base import Policy, PolicyContext

from .base import Guard


@dataclass(frozen=True)
class GuardCounts:
    """The effect of guards on one frame or more, in blocks.

    Blocks of first frames, which are executed fully anyway, are in none of the counts.

    Attributes:
        names: The guards' names.
        blocks: int64 ``(3, guards)``, on any device: blocks that each demanded; blocks that it
            added, which neither the policy nor an earlier guard had chosen; and blocks that it took
            from the policy's choice.
    """

    names: tuple[str, ...]
    blocks: Tensor

    def __add__(self, other: GuardCounts) -> GuardCounts:
        return GuardCounts(self.names, self.blocks + other.blocks.to(self.blocks.device))


class GuardSet:
    """Joins guards: a block that one forbids, none may demand.

    Used by the engine, for each call of the model, in the order :meth:`demand`, :meth:`adjust`,
    :meth:`commit`.

    Args:
        guards: In the order in which they adjust a grid. They are copied, since each keeps memory
            of the streams of one model.
    """

    def __init__(self, guards: Sequence[Guard] = ()) -> None:
        self.guards = tuple(copy.deepcopy(guard) for guard in guards)
        self.names = tuple(guard.name for guard in self.guards)
        # Demanded and added blocks of the frame that was adjusted last, guard by guard.
        self._counts: GuardCounts | None = None
        self._demands: list[tuple[Tensor | None, Tensor | None]] = []
        # Frame size and block size for which a policy's budget was found to be large enough.
        self._checked: tuple | None = None

    def __len__(self) -> int:
        return len(self.guards)

    def demand(self, frame: Tensor, context: PolicyContext) -> PolicyContext:
        """Ask the guards.

        Args:
            frame: ``(N, 3, H, W)``.
            context: The call's context.

        Returns:
            The context with ``required`` and ``forbidden`` filled in; as it was if there are no
            guards.

        Raises:
            GridError: If a guard gives anything but bool grids of the context's shape.
            ConfigError: If a guard does not fit the frame.
        """
        self._demands, self._counts = [], None
        if not self.guards:
            return context
        for guard in self.guards:
            demanded, forbidden = guard.demand(frame, context)
            self._demands.append(
                (_check(demanded, guard, context), _check(forbidden, guard, context))
            )
        required = _any([demanded for demanded, _ in self._demands])
        forbidden = _any([forbidden for _, forbidden in self._demands])
        if required is not None and forbidden is not None:
            required = required & ~forbidden
        context = replace(context, required=required, forbidden=forbidden)
        context.read_demands()
        return context

    def adjust(self, grid: Tensor, frame: Tensor, context: PolicyContext) -> Tensor:
        """Extend a policy's choice so that the guards' promises hold.

        Args:
            grid: bool ``(N, GH, GW)``, the policy's choice, on the frame's device.
            frame: ``(N, 3, H, W)``.
            context: The one that :meth:`demand` returned.

        Returns:
            bool ``(N, GH, GW)``, the blocks to run; none of streams' first frames, which the engine
            executes fully.

        Raises:
            GridError: If a guard returns anything but a bool grid of the same shape.
        """
        if not self.guards:
            return grid
        counted = ~context.first[:, None, None]
        taken = grid & counted
        if context.forbidden is not None:
            counted = counted & ~context.forbidden
        have = taken & counted
        own = have if context.required is None else have & ~context.required
        none = torch.zeros_like(have)
        rows = []
        for guard, (demanded, forbidden) in zip(self.guards, self._demands, strict=True):
            asked = none if demanded is None else demanded & counted
            grown = guard.adjust(own, frame, context)
            if grown is not own:
                grown = _check(grown, guard, context) & counted
                asked, own = asked | (grown & ~own), own | grown
            lost = none if forbidden is None else taken & forbidden
            rows += [asked, asked & ~have, lost]
            have, taken = have | asked, taken & ~lost
        blocks = torch.stack(rows).flatten(1).sum(1).view(-1, 3).T
        self._counts = GuardCounts(self.names, blocks)
        return have

    def commit(self, grid: Tensor, context: PolicyContext) -> GuardCounts | None:
        """Let the guards learn from a frame that has run.

        Args:
            grid: bool ``(N, GH, GW)``, the executed blocks.
            context: The one that :meth:`demand` returned.

        Returns:
            The guards' effect on it; None if there are none.
        """
        for guard in self.guards:
            guard.commit(grid, context)
        counts, self._counts = self._counts, None
        return counts

    def reset(self, streams: Iterable[Hashable] | None = None) -> None:
        """Forget streams; None forgets all."""
        streams = None if streams is None else list(streams)
        for guard in self.guards:
            guard.reset(streams)

    def least_rate(
        self, frame_size: tuple[int, int], block_size: int
    ) -> tuple[float, list[tuple[str, float]]]:
        """Return the executed rate that the guards need, whatever a policy chooses.

        It does not include blocks that depend on the video (cuts) or on the policy's choice.

        Args:
            frame_size: ``(H, W)`` of the network's input in pixels.
            block_size: Side of a block in pixels.

        Returns:
            The rate, a mean over many frames, and for each guard its name and the rate that it
            would need alone. Guards share blocks, so the sum may be larger.

        Raises:
            ConfigError: If a guard does not fit the frame.
        """
        if not self.guards:
            return 0.0, []
        shape = [-(-side // block_size) for side in frame_size]
        least, most = torch.zeros(shape), torch.ones(shape)
        each = []
        for guard in self.guards:
            low, high = guard.rate_bounds(frame_size, block_size)
            each.append(torch.as_tensor(low, dtype=torch.float32).expand(shape))
            least = torch.maximum(least, each[-1])
            most = torch.minimum(most, torch.as_tensor(high, dtype=torch.float32))
        rates = [torch.minimum(one, most).mean().item() for one in each]
        return torch.minimum(least, most).mean().item(), list(zip(self.names, rates, strict=True))

    def check_budget(self, policy: Policy, frame_size: tuple[int, int], block_size: int) -> None:
        """Refuse guards that need more than the policy's budget.

        A policy whose target is an aim rather than a budget (:attr:`Policy.enforces_target`) is not
        checked.

        Args:
            policy: The policy.
            frame_size: ``(H, W)`` of the network's input in pixels.
            block_size: Side of a block in pixels.

        Raises:
            ConfigError: If they need more, or a guard does not fit the frame.
        """
        key = (tuple(frame_size), block_size)
        if not self.guards or self._checked == key or not policy.enforces_target:
            return
        target = getattr(policy, "target", None)
        needed, each = self.least_rate(frame_size, block_size)
        if target is not None and needed > target + 1e-6:
            asked = ", ".join(f"{name} {rate:.1%}" for name, rate in each if rate > 0)
            raise ConfigError(
                f"{type(policy).__name__}(target={target:g}) may execute {target:.1%} of the "
                f"blocks, but its guards need {needed:.1%} of those of a frame of "
                f"{frame_size[1]}x{frame_size[0]} px: {asked}. Raise the target, or ask less of "
                "the guards"
            )
        self._checked = key


def _check(grid: Tensor | None, guard: Guard, context: PolicyContext) -> Tensor | None:
    if grid is None:
        return None
    found = f"{grid.dtype} {tuple(grid.shape)}" if isinstance(grid, Tensor) else repr(grid)
    if not isinstance(grid, Tensor) or (grid.dtype, tuple(grid.shape)) != (
        torch.bool,
        tuple(context.grid_shape),
    ):
        raise GridError(
            f"guard {guard.name} gave {found}, expected a bool tensor {tuple(context.grid_shape)} "
            "for (N, GH, GW)"
        )
    return grid


def _any(grids: Sequence[Tensor | None]) -> Tensor | None:
    joined = None
    for grid in grids:
        if grid is not None:
            joined = grid if joined is None else joined | grid
    return joined

"""The interface of guards: promises that hold whatever a policy says."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from torch import Tensor

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy.base import PolicyContext


class Guard:
    """Base class of all guards.

    For each call of the model, the guards first say what they :meth:`demand`, then the policy
    chooses, then guards may :meth:`adjust` its choice; once the network has run, they
    :meth:`commit`. A frame that fails in between commits nothing, and the same frame again gets the
    same answers: a guard's memory of a stream is written only in :meth:`commit`.

    All tensors are on the frame's device. Nothing here may wait for it: no ``item``, ``nonzero`` or
    boolean index.
    """

    @property
    def name(self) -> str:
        """The guard's name in reports and errors: class and options."""
        return type(self).__name__

    def demand(self, frame: Tensor, context: PolicyContext) -> tuple[Tensor | None, Tensor | None]:
        """Say what must run in this frame and what must not, before the policy chooses.

        Args:
            frame: ``(N, 3, H, W)``, any float dtype, at the network's input scale.
            context: What is known about the call.

        Returns:
            Two bool tensors of shape ``context.grid_shape``, or None for no block: the blocks that
            must run, and those that must not.
        """
        return None, None

    def adjust(self, grid: Tensor, frame: Tensor, context: PolicyContext) -> Tensor:
        """Grow what the policy chose.

        Args:
            grid: bool ``(N, GH, GW)``: the policy's choice among the blocks that no guard demanded
                or forbade, plus what the guards before this one added. It contains no blocks of a
                stream's first frame.
            frame: The frame given to :meth:`demand`.
            context: The same call's, with ``required`` and ``forbidden`` filled in.

        Returns:
            bool ``(N, GH, GW)``, a superset of ``grid``; it need not be a new tensor.
        """
        return grid

    def commit(self, grid: Tensor, context: PolicyContext) -> None:
        """Learn from a frame that has run.

        Args:
            grid: bool ``(N, GH, GW)``, what was really executed.
            context: The context given to :meth:`adjust`.
        """

    def reset(self, streams: Iterable[Hashable] | None = None) -> None:
        """Forget streams; None forgets all."""

    def rate_bounds(
        self, frame_size: tuple[int, int], block_size: int
    ) -> tuple[Tensor | float, Tensor | float]:
        """Say how often each block runs, at least and at most, whatever the policy chooses.

        Args:
            frame_size: ``(H, W)`` of the network's input in pixels.
            block_size: Side of a block in pixels.

        Returns:
            The smallest and the largest number of executions of a block per frame, 0 to 1, in the
            long run: a number for all blocks, or float32 ``(GH, GW)``.
        """
        return 0.0, 1.0


def check_count(guard: Guard, option: str, value: int, unit: str) -> int:
    """Return an option of a guard if it is a number of things.

    Raises:
        ConfigError: If it is not an integer of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(
            f"{option} of {type(guard).__name__} must be an integer of at least 1 ({unit}), found "
            f"{value!r}"
        )
    return value


def check_positive(guard: Guard, option: str, value: float) -> float:
    """Return an option of a guard as a float if it is a finite number above 0.

    Raises:
        ConfigError: If it is not.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value < float("inf"):
        raise ConfigError(
            f"{option} of {type(guard).__name__} must be a number above 0, found {value!r}"
        )
    return float(value)

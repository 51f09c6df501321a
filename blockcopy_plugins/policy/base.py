"""The policy interface: how the blocks of a frame are picked, and what a policy may know."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from blockcopy_plugins.errors import ConfigError, FrameError, GridError
from blockcopy_plugins.host_transfer import HostReads, Then

from .agreement_estimate import AgreementEstimate
from .comparison import Comparison
from .motion_field import MotionField
from .propagated import Propagated
from .task_output import TaskOutputs


@dataclass(frozen=True, eq=False)
class PolicyContext:
    """What a policy may know about one call of the model; made by the engine.

    On a GPU the host waits for the device once in a frame, when it reads the grid. A policy that
    reads a value of a tensor (``float(x)``, ``x.tolist()``, ``x[mask]``, ``if x.any()``) waits once
    more. It need not: :attr:`host_first`, :meth:`host_grid` and :meth:`read` give the host the
    values that it may need.

    Args:
        streams: Id of the stream of each image of the batch, length N.
        grid_shape: ``(N, GH, GW)`` with ``GH = ceil(H / block_size)``.
        block_size: Side of a block in pixels of the network's input.
        first: bool ``(N,)``. True where the stream has no usable state: the engine executes these
            images fully, whatever the policy answers.
        frame_index: Index of the frame in its stream for each image; 0 is the first.
        last_grid: bool ``(N, GH, GW)``, the grid of the previous frame of each stream; all False
            where ``first``.
        motion: For each image, how far its video has moved, None where that is not known; None if
            it is known for no image.
        host_first: The values of ``first``; by default they are read from it.
        reads: Transfers the values requested by :meth:`read` together with the grid; by default
            each value is read at once.
        can_compare: Whether :meth:`Policy.compares` may ask for a frame to be run twice.
        began: When the work on the batch began, by ``time.perf_counter()``, including the model's
            own preprocessor; None if that is not known.
        required: bool ``(N, GH, GW)``, the blocks that guards demand in this frame; None if they
            demand none. The engine executes them whatever the policy answers.
        forbidden: bool ``(N, GH, GW)``, the blocks that guards forbid; None if they forbid none.
            The engine does not execute them, except in first frames. No block is in both.

    Attributes:
        comparison: The comparison that :meth:`Policy.compares` asked for, filled in before the
            feedback.
        propagated: The outputs that would be delivered if no block ran, and how far the picture has
            moved; available from before the choice until after the feedback, else ``None``.

    Raises:
        GridError: If the lengths and shapes do not agree with ``grid_shape``.
    """

    streams: tuple[Hashable, ...]
    grid_shape: tuple[int, int, int]
    block_size: int
    first: Tensor
    frame_index: tuple[int, ...]
    last_grid: Tensor
    required: Tensor | None = None
    forbidden: Tensor | None = None
    motion: tuple[MotionField | None, ...] | None = None
    host_first: tuple[bool, ...] | None = None
    reads: HostReads | None = field(default=None, repr=False)
    began: float | None = None
    can_compare: bool = True
    comparison: Comparison | None = field(default=None, init=False, repr=False)
    propagated: Propagated | None = field(default=None, init=False, repr=False)
    _executed: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False)
    _in_host: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        images = self.grid_shape[0]
        if len(self.streams) != images or len(self.frame_index) != images:
            raise GridError(
                f"grid_shape {self.grid_shape} is for {images} image(s), but there are "
                f"{len(self.streams)} stream ids and {len(self.frame_index)} frame indices; give "
                "one of each per image"
            )
        if tuple(self.first.shape) != (images,) or self.first.dtype != torch.bool:
            raise GridError(
                f"first must be bool of shape ({images},), found {self.first.dtype} of shape "
                f"{tuple(self.first.shape)}"
            )
        if tuple(self.last_grid.shape) != tuple(self.grid_shape):
            raise GridError(
                f"last_grid must have shape {tuple(self.grid_shape)}, found "
                f"{tuple(self.last_grid.shape)}"
            )
        for name in ("required", "forbidden"):
            grid = getattr(self, name)
            if grid is not None and (
                grid.dtype != torch.bool or tuple(grid.shape) != tuple(self.grid_shape)
            ):
                raise GridError(
                    f"{name} must be None or bool of shape {tuple(self.grid_shape)}, found "
                    f"{grid.dtype} of shape {tuple(grid.shape)}"
                )
        if self.motion is not None and len(self.motion) != images:
            raise GridError(
                f"there are motion fields of {len(self.motion)} image(s), but the batch has "
                f"{images}; give one of each, None where there is none"
            )
        if self.host_first is None:
            object.__setattr__(self, "host_first", tuple(self.first.tolist()))
        if len(self.host_first) != images:
            raise GridError(
                f"host_first must have the {images} value(s) of first, found {self.host_first}"
            )

    @property
    def device(self) -> torch.device:
        """The device of the context's tensors, on which grids and scores are expected too."""
        return self.first.device

    def bring(self, value: Tensor) -> Tensor:
        """Wait for a value, and for all values requested by :meth:`read`.

        For a policy that decides on the host (:attr:`Policy.on_host`), in :meth:`Policy.select`:
        this is then the frame's one wait for the device. Values requested in the feedback of
        earlier frames are handed on first.

        Args:
            value: Any small tensor.

        Returns:
            The value in host memory.

        Raises:
            Exception: An error that a receiver of a value raises: the frame is refused.
        """
        return value.cpu() if self.reads is None else self.reads.bring(value)

    def read(self, value: Tensor, then: Then) -> None:
        """Have a value brought to host memory, on a GPU without waiting for it.

        A value requested in :meth:`Policy.select` or :meth:`Policy.scores` comes with the grid that
        they choose: ``then`` is called before any part of the frame runs, and an error that it
        raises refuses the frame. A value requested in :meth:`Policy.feedback` comes with the grid
        of the next frame, of whichever stream. A value in host memory is handed on at once.

        Args:
            value: Any small tensor, which must not be written to any more.
            then: Called with the value in host memory: a bound method, or a partial of one.
        """
        if self.reads is None or value.device.type == "cpu":
            then(value.cpu())
        else:
            self.reads.add(value, then)

    def host_grid(self, grid: Tensor) -> Tensor:
        """Return the grid that :meth:`Policy.feedback` is given, in host memory.

        Args:
            grid: The frame's grid. The one that the engine has executed is in host memory already;
                reading another one means waiting for the device.

        Returns:
            bool ``(N, GH, GW)``.
        """
        if self._executed is not None and self._executed[0] is grid:
            return self._executed[1]
        return grid.cpu()

    @property
    def host_required(self) -> Tensor | None:
        """:attr:`required` in host memory; reading it while the policy chooses means waiting."""
        return self._host_copy("required")

    @property
    def host_forbidden(self) -> Tensor | None:
        """:attr:`forbidden` in host memory; reading it while the policy chooses means waiting."""
        return self._host_copy("forbidden")

    def read_demands(self) -> None:
        """Have the guards' demands brought with the grid; called by the engine."""
        for name in ("required", "forbidden"):
            if getattr(self, name) is not None:
                self.read(getattr(self, name), partial(self._in_host.__setitem__, name))

    def _host_copy(self, name: str) -> Tensor | None:
        value = getattr(self, name)
        if value is not None and name not in self._in_host:
            self._in_host[name] = value.cpu()
        return self._in_host.get(name)

    def take_executed(self, grid: Tensor, host: Tensor) -> None:
        """Take the grid that is executed; called by the engine.

        Args:
            grid: bool ``(N, GH, GW)``.
            host: The same in host memory.
        """
        object.__setattr__(self, "_executed", (grid, host))

    def take_propagated(self, propagated: Propagated | None) -> None:
        """Take the outputs that would be delivered if no block ran; called by the engine."""
        object.__setattr__(self, "propagated", propagated)

    def take_comparison(self, comparison: Comparison) -> None:
        """Take the results of a frame that was executed twice; called by the engine."""
        object.__setattr__(self, "comparison", comparison)


class Policy:
    """Base class of all policies: picks the blocks of each frame that are executed.

    The engine calls, for each batch of frames, :meth:`select`, then runs the network on the blocks
    of the grid, then :meth:`feedback`. If the network fails in between, ``feedback`` is not called:
    therefore ``select`` must leave the memory of the streams as it was, and ``feedback`` commits.

    Attributes:
        needs_outputs: Whether :meth:`feedback` wants the task's outputs. The engine builds them
            only when this is True.
        needs_motion: Whether :meth:`select` wants ``context.motion``. Video readers export their
            motion vectors only when this is True.
        enforces_target: Whether ``target`` is a budget, an executed rate that the policy keeps to
            whatever happens, rather than one that it aims at. Guards that need more than a budget
            are refused.
        agreement: How far the outputs agree with dense ones, as far as that was measured
            (:meth:`compares`); None if it was not.
        on_host: Whether :meth:`select` and :meth:`scores` want the tensors of the context in host
            memory and answer there, wherever the frame is: kernel launches cost more than the work
            on a few hundred blocks. With guards, the tensors are always where the frame is.
        whole_frames_only: A promise that :meth:`select` picks either all blocks of an image or
            none. Whole frames then run as the plain model does if that is faster, without a state.
            If blocks are needed all the same (guards demand some), that frame runs whole.
            :meth:`compares` is not asked.
    """

    needs_outputs: bool = False
    on_host: bool = False
    needs_motion: bool = False
    enforces_target: bool = False
    whole_frames_only: bool = False
    agreement: AgreementEstimate | None = None

    def select(self, frame: Tensor, context: PolicyContext) -> Tensor:
        """Pick the blocks to execute.

        Args:
            frame: ``(N, 3, H, W)``, any float dtype, at the network's input scale and already
                normalised by the model's preprocessor.
            context: What is known about the call.

        Returns:
            The grid, bool of shape ``context.grid_shape``; True is executed. Blocks that are
            ``context.required`` run in any case and need not be in it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement select()")

    def scores(self, frame: Tensor, context: PolicyContext) -> Tensor | None:
        """Rate the blocks that :meth:`select` has not picked, to find the next best ones.

        If the number of executed blocks is rounded up
        (:class:`~blockcopy_plugins.engine.buckets.Buckets`), these are executed too. Called after
        :meth:`select` with the same arguments.

        Args:
            frame: The frame given to :meth:`select`.
            context: The context given to :meth:`select`.

        Returns:
            Floating point ``(N, GH, GW)``, higher = executed earlier; or None, as here, to execute
            blocks next to those that are executed.
        """
        return None

    def compares(self, grid: Tensor, context: PolicyContext) -> Sequence[bool] | None:
        """Say which images should also be executed whole, after their grid has been executed.

        The output of the whole frame is delivered, and that of the grid is in
        :attr:`PolicyContext.comparison` at the feedback. This shows what the policy's choice would
        have cost, at the price of a frame. Blocks that guards forbid run in neither.

        Args:
            grid: bool ``(N, GH, GW)`` in host memory, about to be executed.
            context: The context given to :meth:`select`.

        Returns:
            One bool for each image; or None, as here, for none of them. First frames are executed
            fully anyway, and cannot be requested.
        """
        return None

    def feedback(
        self, frame: Tensor, grid: Tensor, outputs: TaskOutputs, context: PolicyContext
    ) -> dict[str, float | Tensor]:
        """Learn from a frame that has run.

        Args:
            frame: The frame given to :meth:`select`.
            grid: bool ``(N, GH, GW)``, what was really executed.
            outputs: The task's output for each image (:class:`Detections` or a ``(C, h, w)``
                tensor), or None.
            context: The context given to :meth:`select`.

        Returns:
            Scalars for logs, here ``executed_rate``, the mean of ``grid``. A scalar that the host
            does not know may be a 0-dim tensor on the device: it is read with the next frame's
            grid.

        Raises:
            FrameError: If the outputs are unusable, for example NaN. The model's call raises it.
            Exception: Any other failure. The frame's output is returned all the same, with a
                warning; the next call of the model raises the error, and after that the frame's
                streams begin again for the policy, with a whole frame.
        """
        return {"executed_rate": executed_rate(context.host_grid(grid))}

    def reset(self, streams: Iterable[Hashable] | None = None) -> None:
        """Forget streams.

        Args:
            streams: Ids of the streams to forget; None forgets all. What was learned is kept.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what was learned (no stream memory); empty for a policy that does not learn."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ConfigError: If ``state`` was not made by a policy of this kind.
        """
        if state:
            raise ConfigError(
                f"{type(self).__name__} learns nothing, so its state dict is empty; found the keys "
                f"{sorted(map(str, state))}. Load it into the policy that saved it"
            )

    def macs(self, frame_shape: Sequence[int], block_size: int) -> dict[str, int]:
        """Multiply-accumulates of one call of the policy.

        Args:
            frame_shape: ``(N, 3, H, W)``.
            block_size: Side of a block in pixels.

        Returns:
            ``{'forward', 'update', 'total'}``: for the decision, for the learning spread over the
            calls, and for both; for the whole batch. Zero here.
        """
        return {"forward": 0, "update": 0, "total": 0}


def executed_rate(grid: Tensor) -> float:
    """Return executed blocks / all blocks of a bool grid of any shape (0.0 if it is empty)."""
    return float(grid.count_nonzero()) / grid.numel() if grid.numel() else 0.0


def check_frame(frame: Tensor, context: PolicyContext) -> None:
    """Check that a frame fits its context.

    Raises:
        FrameError: If ``frame`` is not ``(N, 3, H, W)`` of a float dtype, or its size disagrees
            with ``context.grid_shape`` at ``context.block_size``.
    """
    if frame.dim() != 4 or frame.shape[1] != 3 or not frame.is_floating_point():
        raise FrameError(
            f"a frame must be a float tensor (N, 3, H, W), found {frame.dtype} "
            f"{tuple(frame.shape)}; give the batch as the model's preprocessor returns it"
        )
    size = context.block_size
    expected = (frame.shape[0], -(-frame.shape[2] // size), -(-frame.shape[3] // size))
    if expected != tuple(context.grid_shape):
        raise FrameError(
            f"a frame {tuple(frame.shape)} has a grid {expected} at {size}-px blocks, but the "
            f"context says {tuple(context.grid_shape)}"
        )


def check_rate(name: str, value: float) -> float:
    """Return ``value`` as a float if it is a rate.

    Raises:
        ConfigError: If it is not a number from 0 to 1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ConfigError(
            f"{name} must be a number from 0 to 1 (executed blocks / all blocks), found {value!r}"
        )
    return float(value)


def check_count(name: str, value: int, least: int, unit: str) -> int:
    """Return ``value`` if it is a whole number of at least ``least``.

    Raises:
        ConfigError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(
            f"{name} must be an integer of at least {least} ({unit}), found {value!r}"
        )
    return value

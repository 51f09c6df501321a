"""Convolutions that wait for what follows them, so that all of it is one pass over memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

INFINITY = float("inf")


@dataclass
class ConvCall:
    """One use of a convolution in a frame.

    Attributes:
        run: ``run(deferred) -> Tensor``: computes packed blocks.
        runs: How often it has done so. More than once where the model reads the sums both as they
            are and with something added to them.
        on_second_run: Called then.
    """

    run: Callable[[Deferred], Tensor]
    on_second_run: Callable[[], None]
    runs: int = 0


@dataclass(frozen=True)
class Deferred:
    """A convolution that has not run yet, and what is to happen to its sums.

    They become ``clamp(norm(sums + bias) + residual, low, high)``.

    Attributes:
        call: The convolution.
        norm: Weight, bias, running mean and variance of a batch norm, or nothing.
        eps: Of the batch norm.
        residual: Packed blocks to add.
        low: Lower bound.
        high: Upper bound.
    """

    call: ConvCall
    norm: tuple[Tensor | None, ...] = ()
    eps: float = 0.0
    residual: Tensor | None = None
    low: float = -INFINITY
    high: float = INFINITY

    @property
    def is_clamped(self) -> bool:
        """Whether bounds are set: then nothing but other bounds can follow."""
        return self.low > -INFINITY or self.high < INFINITY

    def with_norm(self, norm: tuple[Tensor | None, ...], eps: float) -> Deferred | None:
        """With a batch norm behind it, or ``None`` where that must be an op of its own."""
        if self.norm or self.residual is not None or self.is_clamped:
            return None
        return replace(self, norm=norm, eps=eps)

    def with_residual(self, residual: Tensor) -> Deferred | None:
        """With packed blocks added, or ``None`` where that must be an op of its own."""
        if self.residual is not None or self.is_clamped:
            return None
        return replace(self, residual=residual)

    def with_bounds(self, low: float, high: float) -> Deferred | None:
        """With its values clamped, or ``None`` where that must be an op of its own."""
        if self.is_clamped:
            return None
        return replace(self, low=low, high=high)

    def compute(self) -> Tensor:
        """Run it.

        Returns:
            Packed blocks, channels last.
        """
        self.call.runs += 1
        if self.call.runs == 2:
            self.call.on_second_run()
        return self.call.run(self)

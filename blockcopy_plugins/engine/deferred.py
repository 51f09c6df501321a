"""Convolutions that wait for what follows them, so that all of it is one pass over memory."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

INFINITY = float("inf")


class ConvCall:
    """One use of a convolution in a frame.

    Args:
        run: ``run(deferred) -> Tensor``: computes packed blocks.
        on_second_run: Called where it runs again: the model reads the sums both as they are and
            with something done to them.
    """

    __slots__ = ("on_second_run", "run", "runs")

    def __init__(
        self, run: Callable[[Deferred], Tensor], on_second_run: Callable[[], None]
    ) -> None:
        self.run = run
        self.on_second_run = on_second_run
        self.runs = 0


class Deferred:
    """A convolution that has not run yet, and what is to happen to its sums.

    They become ``clamp(norm(sums + bias) + residual, low, high)``. It never changes.

    Args:
        call: The convolution.
        norm: Weight, bias, running mean and variance of a batch norm, or nothing.
        eps: Of the batch norm.
        residual: Packed blocks to add.
        low: Lower bound.
        high: Upper bound.
    """

    # No dataclass: some hundred are made in a frame.
    __slots__ = ("call", "eps", "high", "low", "norm", "residual")

    def __init__(
        self,
        call: ConvCall,
        norm: tuple[Tensor | None, ...] = (),
        eps: float = 0.0,
        residual: Tensor | None = None,
        low: float = -INFINITY,
        high: float = INFINITY,
    ) -> None:
        self.call = call
        self.norm = norm
        self.eps = eps
        self.residual = residual
        self.low = low
        self.high = high

    @property
    def is_clamped(self) -> bool:
        """Whether bounds are set: then nothing can follow."""
        return self.low > -INFINITY or self.high < INFINITY

    def with_norm(self, norm: tuple[Tensor | None, ...], eps: float) -> Deferred | None:
        """With a batch norm behind it, or ``None`` where that must be an op of its own."""
        if self.norm or self.residual is not None or self.is_clamped:
            return None
        return Deferred(self.call, norm, eps)

    def with_residual(self, residual: Tensor) -> Deferred | None:
        """With packed blocks added, or ``None`` where that must be an op of its own."""
        if self.residual is not None or self.is_clamped:
            return None
        return Deferred(self.call, self.norm, self.eps, residual)

    def with_bounds(self, low: float, high: float) -> Deferred | None:
        """With its values clamped, or ``None`` where that must be an op of its own."""
        if self.is_clamped or low != low or high != high:  # torch has a rule for NaN as a bound
            return None
        return Deferred(self.call, self.norm, self.eps, self.residual, low, high)

    def compute(self) -> Tensor:
        """Run it.

        Returns:
            Packed blocks, channels last.
        """
        call = self.call
        call.runs += 1
        if call.runs == 2:
            call.on_second_run()
        return call.run(self)

"""Maps whose computation is deferred, so that they and the ops after them are one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ... import ops

INFINITY = float("inf")
# What a map times an activation of itself is.
_GATES = {"sigmoid": "silu", "hardsigmoid": "hardswish"}
# relu6(x + 3) is six times a hard sigmoid.
_SHIFT, _SIX = 3.0, 6.0
_NEARLY = 1e-6


class ConvCall:
    """One use of a convolution in a frame.

    Args:
        run: ``run(pending) -> Tensor``: computes packed blocks.
        on_second_run: Called when it runs again, because the model reads the sums both as
            they are and after further ops.
    """

    __slots__ = ("on_second_run", "run", "runs")

    def __init__(
        self, run: Callable[[PendingMap], Tensor], on_second_run: Callable[[], None]
    ) -> None:
        self.run = run
        self.on_second_run = on_second_run
        self.runs = 0


class JoinCall:
    """Existing maps that become one: a concatenation, or a single map as it is.

    Args:
        parts: Packed blocks, or dense maps in whole frames.
        added: Added before anything else, of the shape of the result.
    """

    __slots__ = ("added", "parts")

    def __init__(self, parts: Sequence[Tensor], added: Tensor | None = None) -> None:
        self.parts = parts
        self.added = added

    def is_same(self, other: ConvCall | JoinCall) -> bool:
        """Whether another call joins the same maps."""
        if not isinstance(other, JoinCall) or len(self.parts) != len(other.parts):
            return False
        pairs = zip((*self.parts, self.added), (*other.parts, other.added), strict=True)
        return all(one is another for one, another in pairs)

    def run(self, pending: PendingMap) -> Tensor:
        """Join them."""
        return ops.join_maps(
            self.parts,
            self.added,
            pending.norm,
            pending.eps,
            pending.residual,
            pending.slope,
            pending.low,
            pending.high,
            pending.activation,
        )


class PendingMap:
    """A map that is not computed yet, and the ops that follow.

    The values become ``clamp(activation(prelu(norm(values) + residual)), low, high)``, and then
    ``(... + shift) * factor``. Immutable.

    Args:
        call: What computes the values: a convolution, with its bias, or a join.
        norm: Weight, bias, running mean and variance of a batch norm, or nothing.
        eps: Epsilon of the batch norm.
        residual: Packed blocks to add.
        low: Lower bound.
        high: Upper bound.
        slope: Factor on values below 0, ``(C,)`` or ``(1,)``.
        activation: See :func:`.ops.conv_blocks`.
        shift: The 3 of a hard sigmoid that is spelled out, as long as its bounds are missing.
        factor: The 6 of one whose division is missing.
    """

    # Not a dataclass: a frame creates hundreds of them.
    __slots__ = (
        "activation",
        "call",
        "eps",
        "factor",
        "high",
        "low",
        "norm",
        "residual",
        "shift",
        "slope",
    )

    def __init__(
        self,
        call: ConvCall | JoinCall,
        norm: tuple[Tensor | None, ...] = (),
        eps: float = 0.0,
        residual: Tensor | None = None,
        low: float = -INFINITY,
        high: float = INFINITY,
        slope: Tensor | None = None,
        activation: str = "",
        shift: float = 0.0,
        factor: float = 1.0,
    ) -> None:
        self.call = call
        self.norm = norm
        self.eps = eps
        self.residual = residual
        self.low = low
        self.high = high
        self.slope = slope
        self.activation = activation
        self.shift = shift
        self.factor = factor

    @property
    def is_activated(self) -> bool:
        """Whether bounds, a slope or an activation are set, after which nothing can follow."""
        return (
            self.low > -INFINITY
            or self.high < INFINITY
            or self.slope is not None
            or self.activation != ""
            or self.shift != 0.0
        )

    @property
    def takes_residual(self) -> bool:
        """Whether packed blocks can be added."""
        return self.residual is None and not self.is_activated

    def with_norm(self, norm: tuple[Tensor | None, ...], eps: float) -> PendingMap | None:
        """With a batch norm after it, or ``None`` where that must be a separate op."""
        if self.norm or self.is_activated:
            return None
        if self.residual is not None:
            if not isinstance(self.call, JoinCall) or self.call.added is not None:
                return None
            return PendingMap(JoinCall(self.call.parts, self.residual), norm, eps)
        return PendingMap(self.call, norm, eps)

    def with_residual(self, residual: Tensor) -> PendingMap | None:
        """With packed blocks added, or ``None`` where that must be a separate op."""
        if not self.takes_residual:
            return None
        return PendingMap(self.call, self.norm, self.eps, residual)

    def with_bounds(self, low: float, high: float) -> PendingMap | None:
        """With its values clamped, or ``None`` where that must be a separate op."""
        if self.shift and (low, high) == (0.0, _SIX):
            kept = (self.call, self.norm, self.eps, self.residual)
            return PendingMap(*kept, activation="hardsigmoid", factor=_SIX)
        if self.is_activated or low != low or high != high:  # torch has a rule for NaN as a bound
            return None
        return PendingMap(self.call, self.norm, self.eps, self.residual, low, high)

    def with_slope(self, slope: Tensor) -> PendingMap | None:
        """With its negative values multiplied, or ``None`` where that must be a separate op."""
        if self.is_activated:
            return None
        return PendingMap(self.call, self.norm, self.eps, self.residual, slope=slope)

    def with_activation(self, activation: str) -> PendingMap | None:
        """With an activation of that name, or ``None`` where that must be a separate op."""
        if self.is_activated:
            return None
        return PendingMap(self.call, self.norm, self.eps, self.residual, activation=activation)

    def with_shift(self, shift: float) -> PendingMap | None:
        """With a number added, as a hard sigmoid begins; ``None`` for any other."""
        if self.is_activated or shift != _SHIFT:
            return None
        return PendingMap(self.call, self.norm, self.eps, self.residual, shift=shift)

    def with_factor(self, factor: float) -> PendingMap | None:
        """With the division by 6 of a hard sigmoid or hard swish; ``None`` for any other."""
        if self.factor == 1.0 or abs(self.factor * factor - 1.0) > _NEARLY:
            return None
        kept = (self.call, self.norm, self.eps, self.residual)
        return PendingMap(*kept, activation=self.activation)

    def gated_by(self, gate: PendingMap) -> PendingMap | None:
        """Multiplied by an activation of the same values, such as ``x * sigmoid(x)``.

        Args:
            gate: The activated values.

        Returns:
            The product as one activation, ``None`` where it must be a separate op.
        """
        one, other = self.call, gate.call
        same = one is other or (isinstance(one, JoinCall) and one.is_same(other))
        same = same and self.norm is gate.norm and self.eps == gate.eps
        if not same or self.residual is not gate.residual or gate.activation not in _GATES:
            return None
        if self.is_activated:
            return None
        kept = (self.call, self.norm, self.eps, self.residual)
        return PendingMap(*kept, activation=_GATES[gate.activation], factor=gate.factor)

    def compute(self) -> Tensor:
        """Run it.

        Returns:
            Packed blocks, channels last.
        """
        call = self.call
        if not isinstance(call, JoinCall):
            call.runs += 1
            if call.runs == 2:
                call.on_second_run()
        out = call.run(self)
        if self.shift:
            return out + self.shift
        return out if self.factor == 1.0 else out * self.factor

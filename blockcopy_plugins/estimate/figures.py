"""What to expect of block-sparse execution, as figures and as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import exp, log
from statistics import fmean
from typing import Any

from ..errors import ConfigError


@dataclass(frozen=True)
class RateEstimate:
    """What to expect at one executed rate.

    Attributes:
        rate: The requested executed blocks / all blocks.
        executed: Executed blocks of a frame; a mean over frames, so it need not be whole.
        dense_ms: Milliseconds of a dense frame, without ``rest_ms``.
        model_ms: Milliseconds of a sparse frame in the model.
        policy_ms: Milliseconds of a sparse frame in the policy, learning included.
        speedup: Dense time / sparse time, policy and ``rest_ms`` included.
        efficiency: E = dense time / sparse time x rate, without ``rest_ms``.
    """

    rate: float
    executed: float
    dense_ms: float
    model_ms: float
    policy_ms: float
    speedup: float
    efficiency: float

    @property
    def sparse_ms(self) -> float:
        """Milliseconds of a sparse frame, policy included."""
        return self.model_ms + self.policy_ms


@dataclass(frozen=True)
class BlockSizeEstimate:
    """What to expect with one block size.

    Attributes:
        block_size: In pixels.
        blocks: Blocks of a frame.
        rates: One for each executed rate, in the requested order.
        fixed_ms: Part of a sparse frame's time that does not depend on the executed blocks.
        block_ms: Milliseconds that each executed block adds.
        pays_below: Executed rate below which a sparse frame takes less time than a dense one, 0 to
            1; 0 if it never does.
        share_on_blocks: Part of the dense model's MACs that runs on blocks, 0 to 1.
        whole_map_ops: ``(module path, op, reason)`` of the ops that do not.
        state_bytes: Memory of a stream's state.
        measured_on: Sizes ``(H, W)`` of the frames on which the sparse model was timed.
    """

    block_size: int
    blocks: int
    rates: tuple[RateEstimate, ...]
    fixed_ms: float
    block_ms: float
    pays_below: float
    share_on_blocks: float
    whole_map_ops: tuple[tuple[str, str, str], ...]
    state_bytes: int
    measured_on: tuple[tuple[int, int], ...]

    @property
    def mean_speedup(self) -> float:
        """Geometric mean of the speed-ups at rates below 1, or at all rates if none is below 1."""
        found = [r.speedup for r in self.rates if r.rate < 1] or [r.speedup for r in self.rates]
        return exp(fmean(log(speedup) for speedup in found))


@dataclass(frozen=True)
class Estimate:
    """What :func:`estimate` predicts. ``print`` it, or read its fields.

    Attributes:
        size: ``(H, W)`` of a frame in pixels.
        dtype: dtype of the model.
        device: Device of the model.
        threads: Number of torch's threads.
        policy: Class name of the policy.
        dense_ms: Milliseconds of a dense frame.
        dense_measured: Whether it was measured at this size rather than extrapolated.
        rest_ms: As it was given.
        block_sizes: What to expect with each block size.
        best: The block size, px, with the largest mean speed-up at these rates.
        seconds: Seconds that the estimate took.
        notes: What it leaves out, and what would make dense or sparse faster.
    """

    size: tuple[int, int]
    dtype: str
    device: str
    threads: int
    policy: str
    dense_ms: float
    dense_measured: bool
    rest_ms: float
    block_sizes: tuple[BlockSizeEstimate, ...]
    best: int
    seconds: float
    notes: tuple[str, ...]

    def of(self, block_size: int | None = None) -> BlockSizeEstimate:
        """What to expect with a block size.

        Args:
            block_size: In pixels, by default the best.

        Raises:
            ConfigError: If it was not tried.
        """
        wanted = self.best if block_size is None else block_size
        for found in self.block_sizes:
            if found.block_size == wanted:
                return found
        tried = [found.block_size for found in self.block_sizes]
        raise ConfigError(
            f"block_size={wanted!r} was not tried, but {tried}; name it in the call of estimate."
        )

    def speedup(self, rate: float, block_size: int | None = None) -> float:
        """Predicted speed-up.

        Args:
            rate: One of the requested executed rates.
            block_size: In pixels, by default the best.

        Raises:
            ConfigError: If the rate or block size was not requested.
        """
        found = self.of(block_size)
        for each in found.rates:
            if each.rate == rate:
                return each.speedup
        raise ConfigError(
            f"rate={rate!r} was not requested, but {[r.rate for r in found.rates]}; name it in the "
            "call of estimate: rates=(...)."
        )

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        height, width = self.size
        how = "measured" if self.dense_measured else "extrapolated from smaller frames"
        lines = [
            f"BlockCopy estimate: frames of {height}x{width} px, {self.dtype}, {self.device}, "
            f"{self.threads} threads, {self.policy}",
            f"  dense {self.dense_ms:.1f} ms a frame ({how})"
            + (f", and {self.rest_ms:.1f} ms for the rest" if self.rest_ms else ""),
            f"  {'block size':>10}  {'executed':>8}  {'sparse ms':>9}  {'of which policy':>15}  "
            f"{'speed-up':>8}  {'E':>5}",
        ]
        for found in self.block_sizes:
            for r in found.rates:
                lines.append(
                    f"  {found.block_size:>7} px  {r.rate:>8.1%}  {r.sparse_ms:>9.1f}  "
                    f"{r.policy_ms:>15.1f}  {r.speedup:>7.2f}x  {r.efficiency:>5.2f}"
                )
        best = self.of()
        lines.append(
            f"  best block size: {self.best} px"
            + (
                f"; it pays where less than {best.pays_below:.0%} of the blocks are executed"
                if best.pays_below
                else "; it does not pay at any rate"
            )
        )
        lines += [f"  note: {note}" for note in self.notes]
        lines.append(f"  found in {self.seconds:.1f} s")
        return "\n".join(lines)

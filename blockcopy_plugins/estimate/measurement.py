"""Times the model on blocks with one block size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from ..engine.convert import motion, report
from ..engine.report import Report
from ..errors import ConfigError
from ..policy import MotionField, Policy, build_policy
from ..policy.dictated import DictatedPolicy
from .block_frames import MOST_ROUNDS, BlockFrames
from .frame_sizes import SHARES, block_counts, largest_affordable, reduced
from .frame_timer import FrameTimer

_TRIED = 3  # block sizes, where none is named
_PART_FOR_SMALL = 0.25  # of the time, for frames that only show what larger ones will take


def _motion_for(policy: Policy, model: nn.Module, size: tuple[int, int]) -> Any:
    """Motion vectors of a still video, for a policy that needs some."""
    if not policy.needs_motion:
        return nullcontext()
    still = torch.zeros(-(-size[0] // 16), -(-size[1] // 16), 2, dtype=torch.float64)
    return motion(model, [MotionField(still, still[..., 0].long(), size)])


@dataclass(frozen=True)
class SizeRun:
    """What was measured on frames of one size, in seconds.

    Attributes:
        size: ``(H, W)`` in pixels.
        blocks: Blocks of a frame.
        model: Seconds in the model by the number of executed blocks, below all of them.
        whole: Of a fully executed frame; ``None`` if no rate asks for it, or time was short.
        policy: Mean seconds in the policy.
        report: The engine's report.
    """

    size: tuple[int, int]
    blocks: int
    model: dict[int, float]
    whole: float | None
    policy: float
    report: Report

    @property
    def macs(self) -> float:
        """MACs of a dense frame."""
        return self.report.macs_dense + self.report.macs_outside


@dataclass(frozen=True)
class BlockRun:
    """What was measured with one block size.

    Attributes:
        block_size: In pixels.
        sizes: By size of the frame, the largest last.
    """

    block_size: int
    sizes: tuple[SizeRun, ...]

    @property
    def largest(self) -> SizeRun:
        """Of the largest frame."""
        return self.sizes[-1]


def measure(
    timing: FrameTimer,
    size: tuple[int, int],
    block: int,
    rates: Sequence[float],
    wanted: Any,
    deadline: float,
) -> BlockRun:
    """Time the model on blocks, on frames of the size itself if there is time, else smaller ones.

    Args:
        timing: Runs the model.
        size: ``(H, W)`` of the whole frame in pixels.
        block: Block size in pixels.
        rates: Executed rates.
        wanted: The policy.
        deadline: When to be done, by the timer's clock.
    """
    partly = [rate for rate in rates if rate < 1]

    def until(part: float) -> float:
        return timing.clock() + part * (deadline - timing.clock())

    def affordable(part: float, rates: Sequence[float], ratio: float = 1.0) -> Any:
        seconds = until(part) - timing.clock()
        return largest_affordable(
            size, block, rates, lambda frame: ratio * timing.dense_seconds(frame), seconds
        )

    def run(current: tuple[int, int], rates: Sequence[float], part: float = 1.0) -> SizeRun:
        return _measure_size(timing, current, block, rates, wanted, until(part))

    if timing.takes_only_size or affordable(1.0, rates) == size:
        return BlockRun(block, (run(size, rates),))
    # On blocks, a frame may take less time than expected: a small one shows how much.
    small = affordable(_PART_FOR_SMALL, rates) or reduced(size, block, SHARES[-1])
    found = [run(small, rates, _PART_FOR_SMALL)]
    dense = timing.dense_times[small]
    ratio = found[0].whole / dense if found[0].whole and dense else 1.0
    large = affordable(1.0, partly, ratio)
    if large is not None and prod(large) > prod(small):
        found.append(run(large, partly))
    elif small != size:
        # Two sizes, or the cost of area cannot be told from the fixed one.
        smaller = reduced(small, block, 0.25, (2, 2))
        if smaller != small:
            found.insert(0, run(smaller, partly))
    return BlockRun(block, tuple(found))


def _measure_size(
    timing: FrameTimer,
    size: tuple[int, int],
    block: int,
    rates: Sequence[float],
    wanted: Any,
    deadline: float,
) -> SizeRun:
    """Time frames of one size, each rate at least once, and again while there is time."""
    policy = DictatedPolicy(build_policy(wanted), timing.now)
    if size not in timing.dense_times:
        timing.dense(size, 1)
    dense = timing.dense_times[size]
    with timing.on_blocks(block, policy), _motion_for(policy, timing.model, size):
        frames = BlockFrames(timing, policy, size, block)
        counts = block_counts(frames.blocks, rates)
        frames.settle(counts[0])
        if any(rate == 1 for rate in rates):
            counts.append(frames.blocks)
        rounds, spent = 0, 0.0
        while not rounds or (rounds < MOST_ROUNDS and timing.clock() + spent < deadline):
            start = timing.clock()
            frames.round(counts)
            spent = timing.clock() - start + dense
            rounds += 1
        found = report(timing.model)
    # Before and after, so that a temporary slowdown of the machine affects both.
    for _ in range(rounds):
        if timing.clock() + dense < deadline:
            timing.dense(size, 1)
    policy.reset()
    times = frames.times()
    whole = times.pop(frames.blocks, None)
    return SizeRun(size, frames.blocks, times, whole, frames.policy_seconds, found)


def block_sizes_to_try(
    block_size: int | Iterable[int] | None, size: tuple[int, int], timing: FrameTimer
) -> list[int]:
    """The requested sizes, or up to three usable ones that suit the strides of the model."""
    if block_size is None:
        tiny = size if timing.takes_only_size else (min(size[0], 128), min(size[1], 256))
        with timing.on_blocks(128, "all"):
            timing.run(timing.frame(tiny))
            suitable = report(timing.model).block_sizes
        # At least four blocks, or there is nothing to choose from.
        usable = [b for b in suitable if -(-size[0] // b) * -(-size[1] // b) >= 4]
        sizes = usable[-_TRIED:] or [min(suitable, default=min(size))]
    else:
        sizes = [block_size] if isinstance(block_size, int) else list(block_size)
    for block in sizes:
        if not isinstance(block, int) or isinstance(block, bool) or block < 1:
            raise ConfigError(
                f"block_size={block_size!r}, expected whole numbers of at least 1, px; or None to "
                "try some that suit the model."
            )
        if -(-size[0] // block) * -(-size[1] // block) < 2:
            raise ConfigError(
                f"block_size={block} makes one block of a frame of {size} px, so there is nothing "
                f"to skip; give one below {max(size)}."
            )
    if not sizes:
        raise ConfigError("block_size is empty; name one, or give None to try some.")
    return list(dict.fromkeys(sizes))

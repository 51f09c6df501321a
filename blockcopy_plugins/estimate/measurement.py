"""Times the model on blocks with one block size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import torch
from torch import nn

from ..engine.convert import motion, report
from ..engine.report import Report
from ..errors import ConfigError
from ..policy import MotionField, Policy, build_policy
from ..policy.dictated import DictatedPolicy
from .frame_sizes import block_counts, frame_sizes
from .frame_timer import FrameTimer

_TRIED = 3  # block sizes, where none is named


def _motion_for(policy: Policy, model: nn.Module, size: tuple[int, int]) -> Any:
    """Motion vectors of a still video, for a policy that needs some."""
    if not policy.needs_motion:
        return nullcontext()
    still = torch.zeros(-(-size[0] // 16), -(-size[1] // 16), 2, dtype=torch.float64)
    return motion(model, [MotionField(still, still[..., 0].long(), size)])


@dataclass(frozen=True)
class Sample:
    """Times of one number of executed blocks on frames of one size, in seconds."""

    size: tuple[int, int]
    executed: int
    model: float


@dataclass(frozen=True)
class BlockRun:
    """What was measured with one block size.

    Attributes:
        block_size: In pixels.
        samples: Times of partly executed frames.
        whole: Seconds of a fully executed frame / seconds of a dense one.
        policy: Mean seconds of the policy, by size of the frame.
        report: The engine's report for the largest frame.
        size: ``(H, W)`` of that frame.
        macs: MACs of a dense frame, by size.
    """

    block_size: int
    samples: tuple[Sample, ...]
    whole: float
    policy: dict[tuple[int, int], float]
    report: Report
    size: tuple[int, int]
    macs: dict[tuple[int, int], float]


def measure(
    timing: FrameTimer,
    size: tuple[int, int],
    block: int,
    share: float,
    rounds: int,
    rates: Sequence[float],
    wanted: Any,
) -> BlockRun:
    """Time the model on blocks, on a frame and on a smaller one that shows the cost of area."""
    frames = frame_sizes(size, block, share)
    large = frames[-1]
    policy = DictatedPolicy(build_policy(wanted), timing.now)
    draw = torch.Generator().manual_seed(0)
    samples: list[Sample] = []
    of_policy: dict[tuple[int, int], float] = {}
    macs: dict[tuple[int, int], float] = {}
    for current in frames:
        rows, columns = -(-current[0] // block), -(-current[1] // block)
        blocks = rows * columns
        counts = block_counts(blocks, rates if current == large else ())
        times: dict[int, list[float]] = {count: [] for count in counts}
        policies: list[float] = []
        frame = timing.frame(current)
        # Before and after, so that a temporary slowdown of the machine affects both.
        timing.dense(current, max(1, rounds - 1))
        with timing.on_blocks(block, policy), _motion_for(policy, timing.model, current):
            for turn in range(rounds + 1):
                # The first frame is executed fully, and fills the state.
                for count in counts if turn else [blocks]:
                    chosen = torch.zeros(blocks, dtype=torch.bool)
                    chosen[torch.randperm(blocks, generator=draw)[:count]] = True
                    policy.grid = chosen.view(1, rows, columns)
                    spent = timing.run(frame)
                    aside = policy.seconds()
                    if turn:
                        times[count].append(spent - aside)
                        policies.append(aside)
            found = report(timing.model)
        timing.dense(current, 1)
        policy.reset()
        of_policy[current] = fmean(policies)
        macs[current] = found.macs_dense + found.macs_outside
        samples += [
            Sample(current, count, median(times[count])) for count in counts if count < blocks
        ]
    # The report of the largest frame, which came last.
    dense = timing.dense_times[large]
    whole = median(times[blocks]) / dense if dense else 1.0
    return BlockRun(block, tuple(samples), whole, of_policy, found, large, macs)


def block_sizes_to_try(
    block_size: int | Iterable[int] | None, size: tuple[int, int], timing: FrameTimer
) -> list[int]:
    """The requested sizes, or up to three usable ones that suit the strides of the model."""
    if block_size is None:
        tiny = (min(size[0], 128), min(size[1], 256))
        with timing.on_blocks(128, "all"):
            timing.run(timing.frame(tiny))
            suitable = report(timing.model).block_sizes
        # At least four blocks, or there is nothing to choose from.
        usable = [b for b in suitable if -(-size[0] // b) * -(-size[1] // b) >= 4]
        return usable[-_TRIED:] or [min(suitable, default=min(size))]
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

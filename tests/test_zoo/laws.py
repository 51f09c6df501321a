"""The laws on a built architecture, as figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import blockcopy_plugins as bc
from benchmarks.deviation import deviation
from benchmarks.zoo.architectures import Architecture
from benchmarks.zoo.families import NamedNetwork
from blockcopy_plugins.engine.macs import MacCounter
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.engine.report import Report
from blockcopy_plugins.policy.dictated import DictatedPolicy

if TYPE_CHECKING:
    from benchmarks.zoo.build import Unit
    from benchmarks.zoo.named import NamedUnit

RATES = (1.0, 0.5, 0.25)
"""Executed rates of the frames of a video."""

TOLERANCE = 1e-4
"""What a law allows, relative to the largest value of a tensor."""


@dataclass
class Findings:
    """What was seen of one architecture.

    Attributes:
        macs: MACs of the dense unit, for a frame. Compiled ops of MMCV are not counted.
        share: The part of them that runs on blocks.
        reported_share: The same as ``bc.report`` has it.
        law_1: Largest deviation from the dense unit with all blocks executed, see
            :func:`deviation`.
        law_3: The same of random grids from the masked reference.
        moved: The same of the last frame, mostly skipped, from the dense unit. If this is nothing,
            law 3 was not put to the test.
        dense_ops: ``(path, op, reason, MACs of a frame)`` of what ran on whole maps.
    """

    macs: float
    share: float
    reported_share: float
    law_1: float
    law_3: float
    moved: float
    dense_ops: list[tuple[str, str, str, float]]


def check(
    architecture: Architecture | NamedNetwork, unit: Unit | NamedUnit, images: int
) -> Findings:
    """Run a video of one or more streams dense, with all blocks and with random grids.

    Args:
        architecture: What was built.
        unit: What :func:`benchmarks.zoo.build.build` returned for it.
        images: Batch size.

    Returns:
        The findings.

    Raises:
        ValueError: If outputs differ in more than their values, or are no measure.
    """
    video, plan = frames(architecture, images), grids(architecture, images)
    with torch.no_grad(), MacCounter() as counter:
        dense = [unit(frame) for frame in video]
    macs = counter.macs / len(video) / images

    whole = [torch.ones_like(grid) for grid in plan[:2]]
    full, _ = run_blocks(architecture, unit, video[:2], whole, pack=True)
    reference = MaskedReference(unit, architecture.block)
    wanted = [reference(grid, frame) for grid, frame in zip(plan, video, strict=True)]
    sparse, report = run_blocks(architecture, unit, video, plan)
    return Findings(
        macs=macs,
        share=(report.macs_dense - report.macs_densified) / macs,
        reported_share=report.share_on_blocks,
        law_1=max(deviation(a, b) for a, b in zip(full, dense[:2], strict=True)),
        law_3=max(deviation(a, b) for a, b in zip(sparse, wanted, strict=True)),
        moved=deviation(sparse[-1], dense[-1]),
        dense_ops=[(o.path, o.op, o.reason, o.macs / report.frames) for o in report.dense_ops],
    )


def share_on_blocks(architecture: Architecture | NamedNetwork, unit: Unit | NamedUnit) -> float:
    """The part of the dense unit's MACs that runs on blocks, from one frame."""
    video, plan = frames(architecture, 1)[:1], grids(architecture, 1)[:1]
    with torch.no_grad(), MacCounter() as counter:
        unit(video[0])
    _, report = run_blocks(architecture, unit, video, plan)
    return (report.macs_dense - report.macs_densified) / counter.macs


def run_blocks(
    architecture: Architecture | NamedNetwork,
    unit: Unit | NamedUnit,
    video: Sequence[Tensor],
    plan: Sequence[Tensor],
    pack: bool = False,
) -> tuple[list, Report]:
    """Run a unit block-sparsely.

    Args:
        architecture: What was built.
        unit: It; not converted before, and not afterwards.
        video: The frames.
        plan: The grid of each frame.
        pack: Pack blocks also where all are executed.

    Returns:
        The outputs of each frame, and the report on the whole.
    """
    policy = DictatedPolicy()
    config = bc.BlockCopyConfig(
        block_size=architecture.block, policy=policy, pack_whole_frames=pack
    )
    bc.blockcopy_(unit, config)
    try:
        outputs = []
        for frame, policy.grid in zip(video, plan, strict=True):
            outputs.append(unit(frame))
        return outputs, bc.report(unit)
    finally:
        bc.restore_(unit)


def frames(architecture: Architecture | NamedNetwork, images: int) -> list[Tensor]:
    """The video: ``(images, 3, H, W)`` for each rate, all pixels new in each frame."""
    draw = torch.Generator().manual_seed(7)
    dtype = getattr(torch, architecture.dtype)
    return [torch.randn(images, 3, *architecture.size, generator=draw).to(dtype) for _ in RATES]


def grids(architecture: Architecture | NamedNetwork, images: int) -> list[Tensor]:
    """Bool ``(images, GH, GW)`` for each rate, with as many blocks in each image as it says."""
    draw = torch.Generator().manual_seed(8)
    shape = tuple(-(-length // architecture.block) for length in architecture.size)
    blocks = shape[0] * shape[1]
    plan = []
    for rate in RATES:
        rank = torch.rand(images, blocks, generator=draw).argsort(1).argsort(1)
        plan.append((rank < max(1, round(rate * blocks))).view(images, *shape))
    return plan

"""What an estimate leaves out, and what would make dense or sparse faster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from torch import nn

from .figures import BlockSizeEstimate
from .frame_timer import FrameTimer
from .measurement import BlockRun


def notes(
    model: nn.Module,
    timing: FrameTimer,
    best: BlockSizeEstimate,
    runs: Sequence[BlockRun],
    size: tuple[int, int],
    rest_ms: float,
) -> Iterable[str]:
    """What a reader of the figures should know.

    Args:
        model: The model that was timed.
        timing: The timer that timed it.
        best: Estimate of the best block size.
        runs: Measurements of each block size.
        size: ``(H, W)`` of a whole frame in pixels.
        rest_ms: Milliseconds outside the model.
    """
    frames = " and ".join(f"{h}x{w}" for h, w in best.measured_on)
    if size not in best.measured_on:
        yield f"extrapolated from sparse frames of {frames} px"
    if not rest_ms:
        yield (
            "left out: decoding and preparing the frame, and all that is not in this model; give "
            "its milliseconds as rest_ms"
        )
    if len(runs) > 1:
        yield (
            "smaller blocks follow what moves more closely: the same video needs a lower executed "
            "rate with them, which this table cannot know"
        )
    policy_ms, dense_ms = best.rates[0].policy_ms, best.rates[0].dense_ms
    if policy_ms > 0.02 * dense_ms:
        yield (
            f"the policy takes {policy_ms / dense_ms:.0%} of a dense frame; it compares what the "
            "model returns, and large maps of features take longer than detections or logits: give "
            "an adapter whose task_outputs are what the model is for"
        )
    outside = 1 - best.share_on_blocks
    if outside > 0.01:
        yield f"{outside:.0%} of the MACs do not run on blocks with {best.block_size} px"
    for run in runs:
        per_area = [each.macs / prod(each.size) for each in run.sizes]
        if run.largest.size != size and min(per_area) and max(per_area) > 1.05 * min(per_area):
            yield (
                "the MACs do not grow as the frame's area does (attention, or work after the "
                "dense heads): this is less certain; raise budget_s"
            )
            break
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in nn.Module.modules(model)):
        yield "the model has batch norm: folded into the convolutions, dense is faster"
    if not timing.channels_last and timing.device.type == "cpu":
        yield (
            "the weights are not channels last: model.to(memory_format=torch.channels_last) makes "
            "dense faster on most machines"
        )

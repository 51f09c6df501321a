"""What a frame has cost and shown, as reported to the budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy.agreement import output_agreement, thinned
from blockcopy_plugins.policy.base import PolicyContext
from blockcopy_plugins.policy.budget import Budget
from blockcopy_plugins.policy.information_gain import FeatureChange, InformationGain
from blockcopy_plugins.policy.task_output import TaskOutputs


def spent_blocks(
    context: PolicyContext, host: Tensor, accounts: Sequence[float], budget: Budget
) -> list[int]:
    """Count what each image pays for: the blocks that were chosen.

    There is one exception: if none were chosen because the stream saves up for a whole frame, and
    the image ran whole to be compared, it pays for the whole frame, slightly early, as far as the
    savings go.

    Args:
        context: The call's context.
        host: bool ``(N, GH, GW)`` in host memory, all blocks that have run.
        accounts: Blocks that each image's stream might have spent.
        budget: The policy's. One that does not compare by itself pays for both runs.
    """
    counts = host.flatten(1).sum(1).tolist()
    if context.comparison is None:
        return counts
    if budget.agreement is None:
        return (host.flatten(1).sum(1) + context.comparison.blocks.flatten(1).sum(1)).tolist()
    chosen = context.comparison.chosen.flatten(1).sum(1).tolist()
    asked = context.comparison.images
    for image, (count, account) in enumerate(zip(counts, accounts, strict=True)):
        if asked[image] and not chosen[image]:
            chosen[image] = min(count, max(math.floor(account), 0))
    return chosen


def agreements_of(
    context: PolicyContext,
    outputs: TaskOutputs,
    budget: Budget,
    gain: InformationGain,
) -> dict[int, Tensor]:
    """Compare the images that have run twice.

    Args:
        context: The call's context.
        outputs: The outputs of the second run.
        budget: The policy's budget.
        gain: The policy's information gain; one of features means that the outputs are not logits.

    Returns:
        0-dim, by image.

    Raises:
        ConfigError: If the budget needs outputs and there are none.
        FrameError: If the outputs of both runs do not fit each other.
    """
    if outputs is None and budget.agreement is not None:
        raise ConfigError(
            f"{type(budget).__name__} compares outputs, but this model's outputs hold neither "
            "detections nor a map (N, C, h, w); give blockcopy_ an adapter with task_outputs, or "
            "use another budget"
        )
    compared = context.comparison
    if compared is None or outputs is None or compared.outputs is None:
        return {}
    labels = not isinstance(gain, FeatureChange)
    # A budget asks for few comparisons, and goes by their values.
    part = thinned if budget.agreement is None else lambda output: output
    return {
        image: output_agreement(part(compared.outputs[image]), part(outputs[image]), labels)
        for image, asked in enumerate(compared.images)
        if asked
    }


def settle(
    budget: Budget,
    context: PolicyContext,
    host: Tensor,
    agreements: Mapping[int, Tensor],
    spent: Sequence[int],
    seconds: float,
) -> dict[str, float]:
    """Tell the budget what has run; first frames of streams are not paid for.

    Args:
        budget: The policy's budget.
        context: The call's context.
        host: bool ``(N, GH, GW)`` in host memory, all blocks that have run.
        agreements: The result of :func:`agreements_of`.
        spent: The result of :func:`spent_blocks`.
        seconds: Time that the call took.

    Returns:
        ``executed_rate`` of the batch, in which blocks that ran twice count twice, and the budget's
        own figures.
    """
    paid = sum(n for n, first in zip(spent, context.host_first, strict=True) if not first)
    ran, chosen = int(host.sum()), host
    if context.comparison is not None:
        ran += int(context.comparison.blocks.sum())
        chosen = context.comparison.chosen
    budget.watch(chosen, context, agreements, extra=ran - sum(spent))
    budget.settle(paid, context, seconds)
    return {"executed_rate": ran / math.prod(context.grid_shape), **budget.figures()}

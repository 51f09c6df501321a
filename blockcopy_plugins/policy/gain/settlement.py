"""What a frame has cost, and what it has shown, told to the budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy.agreement import output_agreement
from blockcopy_plugins.policy.base import PolicyContext
from blockcopy_plugins.policy.budget import Budget
from blockcopy_plugins.policy.information_gain import FeatureChange, InformationGain
from blockcopy_plugins.policy.task_output import TaskOutput


def chosen_blocks(context: PolicyContext, host: Tensor) -> Tensor:
    """Return what has run by choice, without what ran to compare alone.

    Args:
        context: Of the call.
        host: bool ``(N, GH, GW)`` in host memory, all that has run.
    """
    return host if context.comparison is None else context.comparison.chosen


def agreements_of(
    context: PolicyContext,
    outputs: Sequence[TaskOutput] | None,
    budget: Budget,
    gain: InformationGain,
) -> dict[int, Tensor]:
    """Compare the images that have run twice.

    Args:
        context: Of the call.
        outputs: Of the second run.
        budget: The policy's.
        gain: The policy's; that of features says that the outputs are no logits.

    Returns:
        0-dim, by image.

    Raises:
        ConfigError: If the budget goes by outputs and there are none.
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
    return {
        image: output_agreement(compared.outputs[image], outputs[image], labels)
        for image, asked in enumerate(compared.images)
        if asked
    }


def settle(
    budget: Budget,
    context: PolicyContext,
    host: Tensor,
    agreements: Mapping[int, Tensor],
    seconds: float,
) -> dict[str, float]:
    """Tell the budget what has run; first frames of streams are not paid for.

    Args:
        budget: The policy's.
        context: Of the call.
        host: bool ``(N, GH, GW)`` in host memory, all that has run.
        agreements: Of :func:`agreements_of`.
        seconds: That the call took.

    Returns:
        ``executed_rate`` of the batch, in which what ran twice counts twice, and what the budget
        has to say.
    """
    chosen = chosen_blocks(context, host)
    counts = chosen.flatten(1).sum(1).tolist()
    paid = sum(n for n, first in zip(counts, context.host_first, strict=True) if not first)
    budget.watch(chosen, context, agreements)
    budget.settle(paid, context, seconds)
    ran = int(host.sum())
    if context.comparison is not None:
        ran += int(context.comparison.blocks.sum())
    return {"executed_rate": ran / math.prod(context.grid_shape), **budget.figures()}

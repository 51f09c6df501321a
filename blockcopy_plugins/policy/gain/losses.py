"""Measures what blocks, or whole frames now and then, lose where everything moves."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from blockcopy_plugins.policy.agreement import output_agreement, thinned
from blockcopy_plugins.policy.information_gain import FeatureChange, InformationGain
from blockcopy_plugins.policy.task_output import TaskOutputs

from .blocks_or_whole import BlocksOrWhole, Measure
from .look import Look
from .memory import AGE
from .skipped_worth import SkippedWorth


def measure_losses(
    look: Look,
    outputs: TaskOutputs,
    host: Tensor,
    agreements: Mapping[int, Tensor],
    gain: InformationGain,
) -> None:
    """Tell the trials of a batch's streams (:mod:`.blocks_or_whole`) what its whole frames show.

    Args:
        look: The batch's.
        outputs: Those of its images; None if the integration gives none.
        host: bool ``(N, GH, GW)`` in host memory, all that has run.
        agreements: Those of the images that ran on their blocks and then whole, 0-dim.
        gain: The policy's; if it is one of features, the outputs are not logits.
    """
    context, allotment = look.context, look.allotment
    for image, memory in enumerate(look.known):
        if memory is None or not allotment.moving[image]:
            continue
        trial, skipped = memory.trial, memory.skipped
        trial.passed()
        measure, age, agreement = Measure.BLOCKS, 1, agreements.get(image)
        if agreement is not None:
            trial.compared()
        elif outputs is not None and trial.wants_measure(skipped) and bool(host[image].all()):
            before = None if context.propagated is None else context.propagated.output(image)
            ages = look.maps[image, AGE]
            if before is None or bool((ages != ages[0, 0]).any()):
                continue
            labels = not isinstance(gain, FeatureChange)
            measure, age = Measure.OLD, int(ages[0, 0])
            agreement = output_agreement(thinned(before), thinned(outputs[image]), labels)
        else:
            continue
        rate = allotment.rates[image]
        context.read(agreement, partial(_learn, trial, measure, age, rate, skipped))


def _learn(
    trial: BlocksOrWhole,
    measure: Measure,
    age: int,
    rate: float,
    skipped: SkippedWorth,
    agreement: Tensor,
) -> None:
    trial.learn(measure, 1 - float(agreement), age, rate, skipped)

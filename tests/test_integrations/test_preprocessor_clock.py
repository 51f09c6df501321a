"""A budget of milliseconds is of the whole frame: the model's own preprocessor counts."""

from __future__ import annotations

import time

import pytest
import torch

import blockcopy_plugins as bc
from blockcopy_plugins.policy import GainPolicy, TimeBudget

PAUSE = 0.25  # s


class RecordingBudget(TimeBudget):
    """A time budget that keeps what it was told."""

    def __init__(self) -> None:
        super().__init__(1000)
        self.seconds: list[float] = []

    def settle(self, executed, context, seconds):
        self.seconds.append(seconds)
        super().settle(executed, context, seconds)


@pytest.fixture()
def model(tiny):
    return tiny.build(tiny.mask_rcnn())


def settled(model, calls) -> list[float]:
    budget = RecordingBudget()
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=32, policy=GainPolicy(budget=budget)))
    with torch.no_grad():
        for call in calls:
            call()
    return budget.seconds


def test_the_time_of_a_preprocessor_is_the_frames(model, tiny):
    batch = tiny.batch([tiny.picture((96, 128), 1)])
    model.data_preprocessor.register_forward_hook(lambda *_: time.sleep(PAUSE))
    began = time.perf_counter()
    (seconds,) = settled(model, [lambda: model.test_step(batch)])
    assert PAUSE < seconds <= time.perf_counter() - began


def test_what_lies_between_preprocessor_and_model_is_not(model, tiny):
    batch = tiny.batch([tiny.picture((96, 128), 1)])

    def late():
        data = model.data_preprocessor(batch, False)
        time.sleep(PAUSE)
        model(**data, mode="predict")

    late_calls = settled(model, [late, late])
    assert len(late_calls) == 2 and late_calls[1] < PAUSE


def test_a_batch_is_counted_once(model, tiny):
    data = model.data_preprocessor(tiny.batch([tiny.picture((96, 128), 1)]), False)
    pause = model.data_preprocessor.register_forward_hook(lambda *_: time.sleep(PAUSE))

    def call():
        model(**data, mode="predict")

    def prepared():
        model.data_preprocessor(tiny.batch([tiny.picture((96, 128), 1)]), False)
        call()

    seconds = settled(model, [call, prepared, call])
    pause.remove()
    assert seconds[1] > PAUSE > seconds[2]


def test_it_goes_with_the_conversion(model):
    preprocessor = model.data_preprocessor
    before = [
        list(hooks) for hooks in (preprocessor._forward_pre_hooks, preprocessor._forward_hooks)
    ]
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=32))
    assert len(preprocessor._forward_hooks) > len(before[1])
    bc.restore_(model)
    after = [
        list(hooks) for hooks in (preprocessor._forward_pre_hooks, preprocessor._forward_hooks)
    ]
    assert after == before

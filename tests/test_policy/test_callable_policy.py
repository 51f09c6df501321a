from __future__ import annotations

import pytest
import torch

from blockcopy_plugins.errors import ConfigError, GridError
from blockcopy_plugins.policy import CallablePolicy

FRAME = torch.zeros(1, 3, 64, 96)


def test_the_function_dictates(make_context):
    context = make_context(FRAME, 32)
    wanted = torch.rand(1, 2, 3) > 0.5
    calls = []

    def function(frame, given):
        calls.append((frame, given))
        return wanted

    assert torch.equal(CallablePolicy(function).select(FRAME, context), wanted)
    assert calls == [(FRAME, context)]


@pytest.mark.parametrize(
    "answer", [None, [[True]], torch.ones(1, 2, 3), torch.ones(2, 3, dtype=torch.bool)]
)
def test_a_wrong_answer_raises(make_context, answer):
    with pytest.raises(GridError, match="policy function"):
        CallablePolicy(lambda frame, context: answer).select(FRAME, make_context(FRAME, 32))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_function_that_writes_to_the_frame_is_refused(make_context, mode):
    def function(frame, context):
        frame.mul_(2)
        return torch.ones(1, 2, 3, dtype=torch.bool)

    frame = FRAME.clone()
    with mode(), pytest.raises(GridError, match=r"frame\.clone\(\)"):
        CallablePolicy(function).select(frame, make_context(frame, 32))


def test_what_cannot_be_called_raises():
    with pytest.raises(ConfigError):
        CallablePolicy(3)

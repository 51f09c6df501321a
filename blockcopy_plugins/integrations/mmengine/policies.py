"""Registers the built-in policies in ``POLICIES``.

The policy package imports torch alone and therefore cannot register itself; ``POLICIES`` imports
this module when it is first asked for a name.
"""

from __future__ import annotations

from blockcopy_plugins.policy import (
    AllPolicy,
    BackgroundSubtractionPolicy,
    EveryNthFramePolicy,
    FrameDifferencePolicy,
    GainPolicy,
    MotionDetectionPolicy,
    MotionVectorPolicy,
    NonePolicy,
    RandomPolicy,
    RLPolicy,
    StaticPolicy,
)
from blockcopy_plugins.registry import POLICIES

for _policy in (
    AllPolicy,
    BackgroundSubtractionPolicy,
    EveryNthFramePolicy,
    FrameDifferencePolicy,
    GainPolicy,
    MotionDetectionPolicy,
    MotionVectorPolicy,
    NonePolicy,
    RandomPolicy,
    RLPolicy,
    StaticPolicy,
):
    POLICIES.register_module(module=_policy)

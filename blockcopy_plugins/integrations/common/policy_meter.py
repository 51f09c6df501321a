"""Separates the policy's own MACs from the network's while a counter is active."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

from ...engine.macs import MacCounter
from ...policy import Policy


@dataclass
class PolicyMacs:
    """What a counter has counted inside a policy.

    Attributes:
        counted: MACs so far, including learning.
    """

    counted: int = 0


@contextmanager
def policy_macs(policy: Policy, counter: MacCounter) -> Iterator[PolicyMacs]:
    """Record what a counter counts while the policy chooses and learns.

    Args:
        policy: The policy; inside the ``with`` block, its methods are measured.
        counter: A counter that is active meanwhile.
    """
    macs = PolicyMacs()

    def measured(method: Callable) -> Callable:
        @wraps(method)
        def call(*args, **kwargs) -> Any:
            before = counter.macs
            try:
                return method(*args, **kwargs)
            finally:
                macs.counted += counter.macs - before

        return call

    own = dict(vars(policy))
    vars(policy).update({name: measured(getattr(policy, name)) for name in ("select", "feedback")})
    try:
        yield macs
    finally:
        for name in ("select", "feedback"):
            del vars(policy)[name]
            if name in own:
                vars(policy)[name] = own[name]

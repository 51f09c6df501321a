"""Registers the built-in policies in ``POLICIES``.

The policy package imports torch alone and therefore cannot register itself; ``POLICIES`` imports
this module when it is first asked for a name.
"""

from __future__ import annotations

from blockcopy_plugins.policy import CallablePolicy
from blockcopy_plugins.policy.build import known_policies
from blockcopy_plugins.registry import POLICIES

for _policy in dict.fromkeys(known_policies().values()):
    if _policy is not CallablePolicy:  # made of a function, which no config can hold
        POLICIES.register_module(module=_policy)

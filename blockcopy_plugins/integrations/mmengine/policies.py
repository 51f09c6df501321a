"""Registers the built-in policies in ``POLICIES``.

The policy package only imports torch and cannot register its classes itself; ``POLICIES`` imports
this module when a name is first looked up.
"""

from __future__ import annotations

from blockcopy_plugins.policy import CallablePolicy
from blockcopy_plugins.policy.build import known_policies
from blockcopy_plugins.registry import POLICIES

for _policy in dict.fromkeys(known_policies().values()):
    if _policy is not CallablePolicy:  # it needs a function, which a config cannot contain
        POLICIES.register_module(module=_policy)

"""Registers the built-in policies, guards and estimates of motion.

Their packages only import torch and cannot register their classes themselves; ``POLICIES``,
``GUARDS`` and ``MOTIONS`` import this module when a name is first looked up.
"""

from __future__ import annotations

from blockcopy_plugins.policy import CallablePolicy
from blockcopy_plugins.policy.build import known_policies
from blockcopy_plugins.policy.guards import known_guards
from blockcopy_plugins.propagation.build import known_motions
from blockcopy_plugins.registry import GUARDS, MOTIONS, POLICIES

for _registry, _known in (
    (POLICIES, known_policies()),
    (GUARDS, known_guards()),
    (MOTIONS, known_motions()),
):
    for _kind in dict.fromkeys(_known.values()):
        if _kind is not CallablePolicy:  # it needs a function, which a config cannot contain
            _registry.register_module(module=_kind)

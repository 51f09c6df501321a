"""Registers the built-in guards in ``GUARDS``.

The policy package only imports torch and cannot register its classes itself; ``GUARDS`` imports
this module when a name is first looked up.
"""

from __future__ import annotations

from blockcopy_plugins.policy.guards import known_guards
from blockcopy_plugins.registry import GUARDS

for _guard in known_guards().values():
    GUARDS.register_module(module=_guard)

"""Registers the built-in guards in ``GUARDS``.

The policy package imports torch alone and therefore cannot register itself; ``GUARDS`` imports this
module when it is first asked for a name.
"""

from __future__ import annotations

from blockcopy_plugins.policy.guards import known_guards
from blockcopy_plugins.registry import GUARDS

for _guard in known_guards().values():
    GUARDS.register_module(module=_guard)

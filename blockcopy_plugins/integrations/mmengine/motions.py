"""Registers the built-in estimates of motion in ``MOTIONS``.

The motion package imports torch alone and therefore cannot register itself; ``MOTIONS`` imports
this module when it is first asked for a name.
"""

from __future__ import annotations

from blockcopy_plugins.propagation.build import known_motions
from blockcopy_plugins.registry import MOTIONS

for _motion in dict.fromkeys(known_motions().values()):
    MOTIONS.register_module(module=_motion)

"""Registers the built-in estimates of motion in ``MOTIONS``.

The motion package only imports torch and cannot register its classes itself; ``MOTIONS`` imports
this module when a name is first looked up.
"""

from __future__ import annotations

from blockcopy_plugins.propagation.build import known_motions
from blockcopy_plugins.registry import MOTIONS

for _motion in dict.fromkeys(known_motions().values()):
    MOTIONS.register_module(module=_motion)

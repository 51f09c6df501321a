"""Guards: promises that hold whatever a policy says."""

from .always import Always
from .base import Guard
from .build import build_guard, build_guards, known_guards
from .dilate import Dilate
from .guard_set import GuardCounts, GuardSet
from .hold import Hold
from .ignore import Ignore
from .max_age import MaxAge
from .refresh import Refresh
from .scene_cut import SceneCut

__all__ = [
    "Always",
    "Dilate",
    "Guard",
    "GuardCounts",
    "GuardSet",
    "Hold",
    "Ignore",
    "MaxAge",
    "Refresh",
    "SceneCut",
    "build_guard",
    "build_guards",
    "known_guards",
]

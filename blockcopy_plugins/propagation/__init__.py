"""How a picture moves, and how a network's outputs are moved with it."""

from .auto_motion import AutoMotion
from .base import Motion, MotionLook
from .build import build_motion, known_motions
from .callable_motion import CallableMotion
from .codec_motion import CodecMotion
from .dis_motion import DISMotion
from .displacement import Displacement
from .global_motion import GlobalMotion
from .grey_motion import GreyMotion
from .maps import MapPart, MovingMap, move_map
from .masks import shift_masks
from .moving_objects import MovingObjects
from .object_shift import object_shift
from .objects import Objects
from .region import Region

__all__ = [
    "AutoMotion",
    "CallableMotion",
    "CodecMotion",
    "DISMotion",
    "Displacement",
    "GlobalMotion",
    "GreyMotion",
    "MapPart",
    "Motion",
    "MotionLook",
    "MovingMap",
    "MovingObjects",
    "Objects",
    "Region",
    "build_motion",
    "known_motions",
    "move_map",
    "object_shift",
    "shift_masks",
]

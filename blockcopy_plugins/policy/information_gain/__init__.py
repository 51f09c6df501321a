"""Information gain: how much the task's output changed, block by block."""

from .auto import AutoGain, build_information_gain
from .base import Geometry, InformationGain, OutputChange, outputs_not_finite
from .dense import FeatureChange, SemanticGain
from .detection import DetectionGain

__all__ = [
    "AutoGain",
    "DetectionGain",
    "FeatureChange",
    "Geometry",
    "InformationGain",
    "OutputChange",
    "SemanticGain",
    "build_information_gain",
    "outputs_not_finite",
]

"""Policies: they pick the blocks of each frame that are executed."""

from .agreement import output_agreement
from .agreement_estimate import AgreementEstimate
from .background_subtraction import BackgroundSubtractionPolicy
from .base import Policy, PolicyContext
from .budget import Budget, FidelityBudget, RateBudget, TimeBudget
from .build import build_policy, known_policies
from .callable_policy import CallablePolicy
from .comparison import Comparison
from .fixed import AllPolicy, NonePolicy, RandomPolicy, StaticPolicy
from .gain import GainPolicy
from .heuristic import EveryNthFramePolicy, FrameDifferencePolicy
from .information_gain import (
    DetectionGain,
    FeatureChange,
    Geometry,
    InformationGain,
    SemanticGain,
)
from .motion_detection import MotionDetectionPolicy
from .motion_field import MotionField
from .motion_vectors import MotionVectorPolicy
from .reinforce import RLPolicy
from .task_output import Detections, TaskOutput

__all__ = [
    "AgreementEstimate",
    "AllPolicy",
    "BackgroundSubtractionPolicy",
    "Budget",
    "CallablePolicy",
    "Comparison",
    "DetectionGain",
    "Detections",
    "EveryNthFramePolicy",
    "FeatureChange",
    "FidelityBudget",
    "FrameDifferencePolicy",
    "GainPolicy",
    "Geometry",
    "InformationGain",
    "MotionDetectionPolicy",
    "MotionField",
    "MotionVectorPolicy",
    "NonePolicy",
    "Policy",
    "PolicyContext",
    "RLPolicy",
    "RandomPolicy",
    "RateBudget",
    "SemanticGain",
    "StaticPolicy",
    "TaskOutput",
    "TimeBudget",
    "build_policy",
    "known_policies",
    "output_agreement",
]

"""The policy that predicts each block's information gain, and its parts."""

from .gain_policy import GainPolicy

__all__ = ["GainPolicy"]

"""The paper's policy, trained online by REINFORCE, and its parts."""

from .rl_policy import RLPolicy

__all__ = ["RLPolicy"]

"""Budgets: how many blocks may be executed."""

from .base import Budget
from .rate_budget import RateBudget
from .time_budget import TimeBudget

__all__ = ["Budget", "RateBudget", "TimeBudget"]

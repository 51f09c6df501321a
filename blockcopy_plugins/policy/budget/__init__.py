"""Budgets: how many blocks may be executed."""

from .base import Budget
from .choice import budget_of
from .fidelity_budget import FidelityBudget
from .rate_budget import RateBudget
from .time_budget import TimeBudget

__all__ = ["Budget", "FidelityBudget", "RateBudget", "TimeBudget", "budget_of"]

"""Budgets: how many blocks may be executed."""

from .base import Budget
from .rate_budget import RateBudget

__all__ = ["Budget", "RateBudget"]

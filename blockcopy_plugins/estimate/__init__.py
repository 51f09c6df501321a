"""Predicts, within seconds, what block-sparse execution will bring on this machine."""

from .cost_fit import fit_costs
from .estimator import RATES, estimate, estimate_config
from .figures import BlockSizeEstimate, Estimate, RateEstimate

__all__ = [
    "RATES",
    "BlockSizeEstimate",
    "Estimate",
    "RateEstimate",
    "estimate",
    "estimate_config",
    "fit_costs",
]

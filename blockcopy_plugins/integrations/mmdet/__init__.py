"""MMDetection: how its detectors are called and where their blocks end."""

from .adapter import DetectorAdapter

__all__ = ["DetectorAdapter"]

"""MMDetection: how its detectors are called, and which of their parts run on blocks."""

from .adapter import DetectorAdapter

__all__ = ["DetectorAdapter"]

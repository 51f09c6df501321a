"""MMSegmentation: how its segmentors are called and where their blocks end."""

from .adapter import SegmentorAdapter, refuse_windows

__all__ = ["SegmentorAdapter", "refuse_windows"]

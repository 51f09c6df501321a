"""Exceptions of the package.

Every message states the value found, what was expected, and what to do about it.
"""

from __future__ import annotations


class BlockCopyError(Exception):
    """Base of every error that this package raises on purpose."""


class GridError(BlockCopyError, ValueError):
    """A grid of executed blocks has the wrong shape, dtype or device."""


class FrameError(BlockCopyError, ValueError):
    """An input frame cannot be run: wrong size in mid-stream, NaN, wrong rank."""


class BadFrameError(FrameError):
    """One frame of a source cannot be read; the frames after it can, under their own numbers."""


class StateError(BlockCopyError, RuntimeError):
    """The kept state of a stream does not fit the call that wants to use it."""


class ConfigError(BlockCopyError, ValueError):
    """A configuration value is unknown or out of range."""


class DensifiedError(BlockCopyError, RuntimeError):
    """An op had to run dense although the configuration asked for strictness."""

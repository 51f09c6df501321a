"""Measures the time of a batch in a model's own preprocessor, before the model is called."""

from __future__ import annotations

import time
from collections.abc import Iterator

from torch import nn

from ...engine.adapter import Removable


class PreprocessorClock:
    """The time of the last batch in a ``data_preprocessor``, until a call of the model takes it.

    ``test_step`` and ``predict`` of MMEngine's models normalise and pad a batch before they call
    the model with it. A budget in milliseconds covers both.
    """

    def __init__(self) -> None:
        self._began = self._seconds = 0.0

    def attach(self, model: nn.Module) -> Iterator[Removable]:
        """Measure the model's preprocessor, if it has one.

        Args:
            model: A model of MMEngine's kind.
        """
        preprocessor = getattr(model, "data_preprocessor", None)
        if isinstance(preprocessor, nn.Module):
            yield preprocessor.register_forward_pre_hook(self._enter)
            yield preprocessor.register_forward_hook(self._leave)

    def take(self) -> float:
        """Return the seconds of the last batch, once."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _enter(self, module: nn.Module, args: tuple) -> None:
        self._began = time.perf_counter()

    def _leave(self, module: nn.Module, args: tuple, output) -> None:
        self._seconds = time.perf_counter() - self._began

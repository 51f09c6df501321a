"""Objects that a ``with`` block closes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any


class Closing(ABC):
    """Leaving the ``with`` block of such an object closes it."""

    @abstractmethod
    def close(self) -> None:
        """End all streams and restore the model. Closing twice does nothing."""

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

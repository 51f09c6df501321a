"""Collects what was left out of annotations and what was inferred from them, to be reported."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)


class AnnotationNotes:
    """Counts what readers of annotations leave out, by reason, and keeps their remarks.

    Attributes:
        kept: Number of annotations that are used.
        elsewhere: Number of annotations of frames and videos that are not run.
    """

    def __init__(self) -> None:
        self.kept = self.elsewhere = 0
        self._left_out: dict[str, tuple[int, str]] = {}
        self._remarks: dict[str, tuple[int, str]] = {}

    def leave_out(self, reason: str, example: str) -> None:
        """Take note of an annotation that is not used.

        Args:
            reason: Why, the same words for all of a kind.
            example: Which one, with its file; the first of a kind is kept.
        """
        count, first = self._left_out.get(reason, (0, example))
        self._left_out[reason] = (count + 1, first)

    def remark(self, text: str, example: str = "") -> None:
        """Take note of something that the user should know; the same text is said once.

        Args:
            text: A sentence without its full stop, the same words for all of a kind.
            example: Where, if there may be many places; the first of a kind is kept.
        """
        count, first = self._remarks.get(text, (0, example))
        self._remarks[text] = (count + 1, first)

    @property
    def left_out(self) -> int:
        """Number of annotations that are not used."""
        return sum(count for count, _ in self._left_out.values())

    def summary(self) -> dict[str, Any]:
        """What ``results.json`` says: ``kept``, ``left_out`` by reason, ``remarks``, ..."""
        return {
            "kept": self.kept,
            "of_other_frames": self.elsewhere,
            "left_out": {
                "count": self.left_out,
                "reasons": [
                    {"reason": reason, "count": count, "first": first}
                    for reason, (count, first) in self._left_out.items()
                ],
            },
            "remarks": self._said(),
        }

    def lines(self) -> list[str]:
        """The same in words, a line for each reason and remark."""
        lines = [
            f"{count} {'annotation was' if count == 1 else 'annotations were'} left out: {reason} "
            f"(the first: {first})"
            for reason, (count, first) in self._left_out.items()
        ]
        return lines + self._said()

    def _said(self) -> list[str]:
        return [
            f"{text} ({count} times, the first: {first})" if first else text
            for text, (count, first) in self._remarks.items()
        ]

    def warn(self) -> None:
        """Log the lines as warnings."""
        for line in self.lines():
            logger.warning("%s", line)

"""What a section of the GPU check reports, written to its file as it goes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


class OutOfTime(Exception):
    """The minutes of the check are over; what was measured until then stands."""


class Section:
    """Collects what one section finds.

    Each row is printed and written at once: a machine that is lent may be gone the next moment.

    Args:
        name: Of the section.
        device: ``'cuda'`` or ``'cpu'``. On the CPU everything is small.
        file: JSON to write; ``None`` for none.
        deadline: Time by ``time.time()`` at which the section must be over; ``None`` for never.
        quick: Few cases: a slow tool watches.
        emulation_flags: Of the compiler, for kernels that run on the host.

    Attributes:
        rows: What was found, each a dict that JSON can hold.
        failures: What is wrong, in words.
    """

    def __init__(
        self,
        name: str,
        device: str,
        file: Path | None = None,
        deadline: float | None = None,
        quick: bool = False,
        emulation_flags: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.device = device
        self.quick = quick
        self.emulation_flags = tuple(emulation_flags)
        self.rows: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self._facts: dict[str, Any] = {}
        self._skipped: str | None = None
        self._cut_short = False
        self._file = file
        self._deadline = deadline
        self._start = time.time()

    @property
    def small(self) -> bool:
        """Whether this is the version for a machine without a GPU."""
        return self.device == "cpu"

    def seconds_left(self) -> float:
        """Until the deadline; infinite where there is none."""
        return float("inf") if self._deadline is None else self._deadline - time.time()

    def need(self, seconds: float) -> None:
        """Go on only if so much time is left.

        Raises:
            OutOfTime: If not.
        """
        if self.seconds_left() < seconds:
            raise OutOfTime(f"{seconds:.0f} s are needed for the next step")

    def say(self, text: str) -> None:
        """Tell whoever watches."""
        print(f"   {text}", flush=True)

    def add(self, text: str, **row: Any) -> None:
        """Print a line, and keep and write its figures."""
        self.say(text)
        self.rows.append(row)
        self.write()

    def know(self, **facts: Any) -> None:
        """Keep facts about the section as a whole."""
        self._facts |= facts
        self.write()

    def check(self, holds: bool, text: str) -> bool:
        """Note a failure unless ``holds``; the section goes on. Returns ``holds``."""
        if not holds:
            self.fail(text)
        return holds

    def fail(self, text: str) -> None:
        """Note what is wrong; the section goes on."""
        self.say(f"FAILED: {text}")
        self.failures.append(text)
        self.write()

    def skip(self, reason: str) -> None:
        """Say why there is nothing to do here."""
        self._skipped = reason
        self.say(f"skipped: {reason}")
        self.write()

    def cut_short(self, reason: str) -> None:
        """Say that the time ended before the section did."""
        self._cut_short = True
        self.say(f"cut short: {reason}")
        self.write()

    def as_dict(self) -> dict[str, Any]:
        """All that is known so far."""
        status = FAILED if self.failures else SKIPPED if self._skipped else PASSED
        found: dict[str, Any] = {
            "status": status,
            "device": self.device,
            "seconds": round(time.time() - self._start, 1),
        }
        if self._skipped:
            found["reason"] = self._skipped
        if self._cut_short:
            found["cut_short"] = True
        if self.failures:
            found["failures"] = self.failures
        return {**found, **self._facts, "rows": self.rows}

    def write(self) -> None:
        """Bring the file up to date; a reader never sees half of it."""
        if self._file is None:
            return
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(self.as_dict(), indent=1) + "\n")
        os.replace(part, self._file)

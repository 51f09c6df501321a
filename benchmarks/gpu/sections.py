"""The sections of the GPU check, in order."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class SectionPlan:
    """What is known of a section before it runs.

    Attributes:
        what: It tells, in a few words.
        needs: Seconds that must be left for it to start.
        leaves: Seconds that it leaves to the sections behind it, if those are wanted too.
    """

    what: str
    needs: int
    leaves: int


SECTIONS = MappingProxyType(
    {
        "build": SectionPlan("compiles the extension for this card", 30, 0),
        "parity": SectionPlan(
            "CUDA kernels against their twins: copies exact, sums to rounding", 15, 0
        ),
        "laws": SectionPlan("the four laws on whole networks, with and without graphs", 20, 150),
        "speed": SectionPlan("E beside dense engines, float16, bfloat16, TF32", 30, 90),
        "profile": SectionPlan("kernels, waits, launches, bandwidth, memory of a frame", 20, 40),
        "sanitizer": SectionPlan("the parity again under compute-sanitizer", 20, 0),
    }
)

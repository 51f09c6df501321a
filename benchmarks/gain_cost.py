"""The cost of the information gain of detections by their number, for benchmarks.policy_cost."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import command

STEPS = ("summarise", "output_map", "compare")


class Case(NamedTuple):
    """Detections whose gain is measured; ``outputs`` are taken in turn."""

    size: tuple[int, int]
    block_size: int
    output: str
    count: int
    threads: int
    outputs: Sequence[Any]


def gain_row(case: Case, times: dict[str, list[float]]) -> dict[str, Any]:
    """The figures of one case: medians of each step's milliseconds, and their sum."""
    medians = {f"{step}_ms": statistics.median(times[step]) for step in STEPS}
    row = {name: value for name, value in case._asdict().items() if name != "outputs"}
    return {**row, **medians, "gain_ms": sum(medians.values()), "times": times}


def measure(
    cases: Sequence[Case], warmup: int, frames: int, clock: str = "wall"
) -> list[dict[str, Any]]:
    """Measure cases, which take turns frame by frame.

    Args:
        cases: What is measured.
        warmup: Frames before.
        frames: Frames that count.
        clock: Kind of :class:`.clock.Clock`.

    Returns:
        A row for each case.
    """
    import torch

    from blockcopy_plugins.policy import DetectionGain, Geometry

    from .clock import Clock

    now = Clock(kind=clock).mark
    gain = DetectionGain()
    rows = [{step: [] for step in STEPS} for _ in cases]
    last: list[Any] = [None] * len(cases)
    total = warmup + frames
    with torch.inference_mode(), command.progress(total * len(cases), "gains") as bar:
        for frame, (index, case) in itertools.product(range(total), enumerate(cases)):
            torch.set_num_threads(case.threads)
            grid = tuple(-(-side // case.block_size) for side in case.size)
            geometry = Geometry(case.size, grid, case.block_size)
            marks = [now()]
            summary = gain.summarise(case.outputs[frame % len(case.outputs)], geometry)
            marks.append(now())
            gain.output_map(summary, geometry)
            marks.append(now())
            gain.compare(last[index] or summary, summary, geometry)
            marks.append(now())
            last[index] = summary
            if frame >= warmup:
                for step, (start, end) in zip(STEPS, itertools.pairwise(marks), strict=True):
                    rows[index][step].append(1e3 * (end - start))
            bar.update()
    return list(map(gain_row, cases, rows))


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print the figures for people."""
    lines = [
        [
            f"{row['size'][0]}x{row['size'][1]}, {row['block_size']} px, "
            f"{row['count']} {row['output']}",
            str(row["threads"]),
            *(f"{row[f'{name}_ms']:.2f}" for name in (*STEPS, "gain")),
        ]
        for row in rows
    ]
    head = ["information gain of", "threads", *(name.replace("_", " ") for name in STEPS)]
    command.print_columns([*head, "ms a frame"], lines)

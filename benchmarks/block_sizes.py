"""Accuracy against executed rate by block size, of the JSON file of ``benchmarks.policies``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import table

from .policies.curves import TITLES


def block_size_table(report: Mapping[str, Any]) -> str:
    """A row for each clip and target, a column for each block size.

    Args:
        report: Of the plan ``block_sizes.yaml``, in which each block size is a model.
    """
    sizes = sorted({result["block_size"] for result in report["results"]})
    names = {result["figures"][0] for result in report["results"]}
    rows: dict[tuple[str, float], dict[int, str]] = {}
    blocks: dict[str, dict[int, int]] = {}
    for result in report["results"]:
        clip, size = result["clip"], result["block_size"]
        for run in result["runs"]:
            found = run["windows"]["all"]
            row = rows.setdefault((clip, run["config"]["target"]), {})
            value, rate = found[result["figures"][0]], found["executed_rate"]
            row[size] = f"{value:.3f} ({rate:.1%})"
            blocks.setdefault(clip, {})[size] = run["grid"][0] * run["grid"][1]
    head = ["clip (blocks of a frame)", "target", *(f"{size} px" for size in sizes)]
    lines = []
    for (clip, target), row in rows.items():
        counts = "/".join(str(blocks[clip][size]) for size in sizes if size in blocks[clip])
        cells = (row.get(size, "") for size in sizes)
        lines.append([f"{clip} ({counts})", f"{target:.0%}", *cells])
    what = ", ".join(sorted(TITLES.get(name, name) for name in names))
    return f"{what}, in brackets the executed rate:\n\n" + table(head, lines)

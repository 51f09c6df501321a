"""Tables of accuracy by policy, budget and motion."""

from __future__ import annotations

from typing import Any

from benchmarks.block_sizes import block_size_table
from benchmarks.machine import in_a_line
from benchmarks.markdown import table
from benchmarks.policies.propagation_table import propagation_tables
from benchmarks.policies.tables import policies_tables
from benchmarks.propagation_speed import propagation_speed_table
from benchmarks.table_cells import (
    refuse_older,
)


def policies(report: dict[str, Any]) -> str:
    """Accuracy, or fidelity, by policy at equal executed rates, for each clip and model."""
    refuse_older([report], "results")
    return policies_tables(report) + "\n\n" + in_a_line(report["machine"])


def block_sizes(report: dict[str, Any]) -> str:
    """Fidelity by block size at three executed rates, for each clip."""
    refuse_older([report], "results")
    return block_size_table(report)


def shared_budget(report: dict[str, Any]) -> str:
    """The busy camera's accuracy, and what each camera has executed."""
    head = ("cameras", "budget", "AP50 of the busy one", "against dense", "busy executed")
    head += ("quiet executed",)
    rows = [
        (
            row["cameras"],
            "dense" if row["rate"] == 1.0 else f"{row['asked_rate']:.2f}",
            f"{row['AP50']:.3f}" if "AP50" in row else "",
            f"{row['fidelity_AP50']:.3f}",
            *(f"{row['rates'][c]:.1%}" if c in row["rates"] else "" for c in ("busy", "quiet")),
        )
        for row in report["rows"]
    ]
    return table(head, rows) + "\n\n" + in_a_line(report["machine"])


def fidelity_budget(report: dict[str, Any]) -> str:
    """What was delivered under a budget of agreement, what the policy told, and what it took."""
    head = ("model", "clip", "target", "agreement, true", "as the policy says (90 % interval)")
    head += ("comparisons", "executed", "for comparisons alone")
    rows = [
        (
            row["model"],
            row["clip"],
            f"{row['target']:.2f}",
            f"**{row['agreement']:.3f}**",
            f"{told['mean']:.3f} ({told['low']:.3f} to {told['high']:.3f})",
            str(row["comparisons"]),
            f"{row['executed_rate']:.1%}",
            f"{row['compared_rate']:.1%}",
        )
        for row in report["rows"]
        for told in [row["told"]]
    ]
    return table(head, rows) + "\n\n" + in_a_line(report["machine"])


def propagation(report: dict[str, Any]) -> str:
    """Copied beside moved outputs, by policy and rate."""
    return propagation_tables(report) + "\n\n" + in_a_line(report["machine"])


def propagation_speed(report: dict[str, Any]) -> str:
    """CPU time of a frame whose outputs are copied or moved."""
    return propagation_speed_table(report) + "\n\n" + in_a_line(report["machine"])


def time_budget(report: dict[str, Any]) -> str:
    """Mean time of a frame under a budget of time, and what was executed, in parts of the clip."""
    parts = ("first third", "with others", "last third", "last two thirds")
    head = ("target ms", *(f"{part}: ms (executed)" for part in parts), "off by")
    rows = []
    for row in report["rows"]:
        found = [row["parts"][part] for part in parts]
        rows.append(
            (
                str(row["target_ms"]),
                *(f"{part['ms']:.0f} ({part['executed_rate']:.0%})" for part in found),
                f"**{found[-1]['ms'] / row['target_ms'] - 1:+.1%}**",
            )
        )
    dense = f"A dense frame takes {report['dense_ms']:.0f} ms."
    return "\n\n".join((table(head, rows), dense, in_a_line(report["machine"])))

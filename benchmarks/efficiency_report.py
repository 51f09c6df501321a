"""The figures of benchmarks.efficiency as tables and as a picture."""

from __future__ import annotations

import itertools
from typing import Any

from . import command
from .efficiency_figures import setting_of

_MOST_LINES = 8  # of a plot


def print_tables(results: dict) -> None:
    """Print the figures for people."""
    for setting, rows in itertools.groupby(results["rows"], key=setting_of):
        rows = list(rows)
        print(f"\n{setting}; dense is {rows[0]['dense_layout']}")
        with_peers = any(row["fastest"]["engine"] != "torch" for row in rows)
        head = ["block", "rate", "dense ms", "sparse ms", "of which policy", "speed-up", "E"]
        head += ["fastest dense", "ms", "speed-up"] if with_peers else []
        with_int8 = rows[0].get("speedup_over_int8") is not None
        head += ["over INT8"] if with_int8 else []
        lines = []
        for row in rows:
            line = [
                f"{row['block_size']} px",
                f"{row['rate']:.1%}",
                f"{row['dense_ms']:.1f}",
                f"{row['sparse_ms']:.1f}",
                f"{row['policy_ms']:.1f}",
                f"{row['speedup']:.2f}",
                f"{row['efficiency']:.3f}",
            ]
            if with_peers:
                fastest = row["fastest"]
                line += [fastest["engine"], f"{fastest['ms']:.1f}"]
                line += [f"{row['speedup_over_fastest']:.2f}"]
            line += [f"{row['speedup_over_int8']:.2f}"] if with_int8 else []
            lines.append(line)
        command.print_columns(head, lines)
    for peer in results["peers"]:
        told = f"absent: {peer.get('reason')}"
        if "ms" in peer:
            told = f"{peer['ms']:.1f} ms, outputs deviate by {peer['deviation']:.2g}"
        print(f"{peer['engine']} on {setting_of(peer)}: {told}")
    for setting, rows in itertools.groupby(results["whole"], key=setting_of):
        print(f"\nwhole model, {setting}")
        for row in rows:
            if "reason" in row:
                print(f"absent: {row['reason']}")
                continue
            print(
                f"  {row['block_size']} px, {row['rate']:.1%}: dense {row['dense_ms']:.1f} ms, "
                f"sparse {row['sparse_ms']:.1f} ms, speed-up {row['speedup']:.2f} "
                f"(of the part on blocks {row['part_speedup']:.2f})"
            )


def save_plot(results: dict, path: str) -> None:
    """Draw speed-up against executed rate, and dotted against the fastest dense engine.

    Of many models the first dtype alone: more lines than colours cannot be told apart.
    """
    from blockcopy_plugins.visualization.speedup import plot_speedup

    rows = results["rows"]
    if len({(row["model"], row["dtype"]) for row in rows}) > _MOST_LINES:
        rows = [row for row in rows if row["dtype"] == rows[0]["dtype"]]
    settings = [setting_of(row) for row in rows]
    # A line is called by what differs between the lines.
    shown = [
        name
        for name in ("model", "size", "dtype", "device", "threads")
        if name in ("model", "dtype") or len({getattr(s, name) for s in settings}) > 1
    ]
    several_blocks = len({row["block_size"] for row in rows}) > 1
    series: dict[str, list[tuple[float, float]]] = {}
    fastest: dict[str, list[tuple[float, float]]] = {}
    for setting, row in zip(settings, rows, strict=True):
        parts = [_words(name, getattr(setting, name)) for name in shown]
        name = ", ".join(parts + ([f"{row['block_size']} px"] if several_blocks else []))
        series.setdefault(name, []).append((row["rate"], row["speedup"]))
        if row["fastest"]["engine"] != "torch":
            fastest.setdefault(name, []).append((row["rate"], row["speedup_over_fastest"]))
    plot_speedup(series, path, fastest=fastest)


def _words(name: str, value: Any) -> str:
    if name == "size":
        return f"{value[0]}\u00d7{value[1]}"
    return f"{value} threads" if name == "threads" else str(value)

"""Outputs that were copied beside such that were moved, at the same executed rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import table

from .curves import TITLES


def propagation_tables(report: Mapping[str, Any]) -> str:
    """A table for each clip and model, a row for each policy and rate.

    *Of the loss* is the part of what copying loses to the dense network that moving wins back.

    Args:
        report: Of the JSON file.
    """
    return "\n\n".join(_table(result) for result in report["results"] if result["runs"])


def _table(result: Mapping[str, Any]) -> str:
    name, dense = result["figures"][0], result["dense"]
    best = dense["windows"]["all"][name]
    head = ["policy", "executed", "copied", "moved", "of the loss", "CPU ms copied", "CPU ms moved"]
    rows = []
    for pair in _pairs(result):
        copied, moved = (run["windows"]["all"][name] for run in pair)
        lost = best - copied
        config = pair[0]["config"]
        rows.append(
            [
                f"{pair[0]['policy']}({config.get('target', config.get('n'))})",
                " / ".join(
                    dict.fromkeys(f"{run['windows']['all']['executed_rate']:.1%}" for run in pair)
                ),
                f"{copied:.3f}",
                f"**{moved:.3f}**" if moved > copied else f"{moved:.3f}",
                # + 0.0: no -0.
                f"{round((moved - copied) / lost, 2) + 0.0:.0%}" if lost > 0.005 else "",
                *(f"{run['cpu_ms']:.1f}" for run in pair),
            ]
        )
    start, stop = result["frames"]
    what = f"{TITLES.get(name, name)}, frames {start} to {stop}"
    return (
        f"**{result['model']} on {result['clip']}** ({what}; dense {best:.3f}, "
        f"{dense['cpu_ms']:.1f} CPU ms a frame)\n\n{table(head, rows)}"
    )


def _pairs(result: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The copied and the moved run of each policy and rate that has both."""
    runs = [run for run in result["runs"] if "reason" not in run]
    by_way: dict[tuple, dict[str, Mapping[str, Any]]] = {}
    for run in runs:
        config = dict(run["config"])
        way = config.pop("propagate", "copy")
        by_way.setdefault(tuple(sorted(map(str, config.items()))), {})[way] = run
    return [(ways["copy"], ways["move"]) for ways in by_way.values() if {"copy", "move"} <= {*ways}]

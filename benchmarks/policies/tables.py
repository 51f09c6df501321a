"""The figures of the JSON file as tables: one for each model on each clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import table

from .curves import SHOWN, TITLES


def policies_tables(report: Mapping[str, Any]) -> str:
    """A table for each clip and model, a row for each policy, best area first.

    Values in brackets lie beyond the policy's own runs: on the line to the point of the first frame
    alone, or of all blocks. The least margin is to the best of the other policies at the same rate,
    and the way to the oracle begins there too; see :mod:`.comparison`.

    Args:
        report: Of the JSON file.
    """
    return "\n\n".join(_table(result) for result in report["results"] if result.get("curves"))


def _table(result: Mapping[str, Any]) -> str:
    name = result["figures"][0]
    dense = result["dense"]
    start, stop = result["frames"]
    parts = [part for part in dense["windows"] if part != "all"]
    head = ["policy", "area", *(f"area {_in_words(part)}" for part in parts)]
    head += [f"at {100 * rate:g} %" for rate in SHOWN]
    with_oracle = any(curve["oracle"] for curve in result["curves"])
    head += ["least margin", *(["way to the oracle"] if with_oracle else [])]
    timed = any(curve["policy_ms"] is not None for curve in result["curves"])
    head += ["policy, ms a frame"] if timed else []
    rows = []
    for curve in sorted(result["curves"], key=lambda c: -(_area(c, "all", name) or -1)):
        found = curve["windows"]["all"][name]
        ms = curve["policy_ms"]
        rows.append(
            [
                f"*{curve['policy']}*" if curve["oracle"] else curve["policy"],
                *(_number(_area(curve, part, name)) for part in ("all", *parts)),
                *(_at(found, rate) for rate in SHOWN),
                _margin(found),
                *([_share(found.get("way_to_oracle"))] if with_oracle else []),
                *(["" if ms is None or curve["oracle"] else f"{ms:.1f}"] if timed else []),
            ]
        )
    what = (
        f"{TITLES.get(name, name)}, frames {start} to {stop}, blocks of {result['block_size']} px"
    )
    value = dense["windows"]["all"].get(name)
    return (
        f"**{result['model']} on {result['clip']}** ({what}; dense {_number(value)}, "
        f"{dense['ms']:.0f} ms a frame)\n\n" + table(head, rows)
    )


def _area(curve: Mapping[str, Any], part: str, name: str) -> float | None:
    return curve["windows"].get(part, {}).get(name, {}).get("area")


def _at(found: Mapping[str, Any], rate: float) -> str:
    text = _number(found["at"][f"{rate:g}"])
    if text and found["measured"] is not None:
        low, high = found["measured"]
        # A run is rarely exactly at the rate that it was told.
        if not low - 0.02 <= rate <= high + 0.02:
            return f"({text})"
    return text


def _margin(found: Mapping[str, Any]) -> str:
    if found.get("least_margin") is None:
        return ""
    return f"{found['least_margin']:+.3f} at {100 * found['rate']:.0f} %"


def _share(value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.0f} %" if value > 0 else "none"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _in_words(part: str) -> str:
    return {"first_50": "of the first 50 frames", "after_50": "after them"}.get(part, part)

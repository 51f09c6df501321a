"""The tables of docs/gpu.md, made from what ``tools/gpu_check.py`` wrote on machines with a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.markdown import table

_RATES = (1.0, 0.5, 0.25, 0.125)


def gpu_tables(reports: Sequence[dict[str, Any]]) -> str:
    """What each card gave, under a heading with its name.

    Args:
        reports: JSON of the checks; those that ran without a GPU are left out.

    Returns:
        Markdown; the sentence that says so where no card was there.
    """
    parts = [_card(report) for report in reports if report["device"] == "cuda"]
    return "\n\n".join(parts) or "**No GPU has run this so far.**"


def _card(report: dict[str, Any]) -> str:
    machine = report["machine"]
    gpu, sections = machine["gpu"], report["sections"]
    parts = [
        f"### {gpu['name']}" + (f": {report['title']}" if "title" in report else ""),
        f"*torch {machine['torch']}, CUDA {gpu['cuda']}, cuDNN {gpu['cudnn']}, "
        f"{gpu['memory_gib']} GiB, {machine['cores']} CPU cores; {report['time']}, commit "
        f"{machine['commit']}.*",
        table(
            ("section", "result", "seconds"),
            [
                (name, _verdict(found), f"{found.get('seconds', 0):.0f}")
                for name, found in sections.items()
            ],
        ),
    ]
    if rows := sections.get("speed", {}).get("rows"):
        parts += [
            "E = (dense time / sparse time) × executed rate, at 1024×2048, over torch (channels "
            "last, batch norms folded) and in brackets over the fastest dense engine:",
            _speed(rows),
        ]
    profile = sections.get("profile", {}).get("rows", ())
    if waits := [row for row in profile if row["kind"] == "waits"]:
        parts.append(
            table(
                ("policy", "waits of the host in a frame, at most"),
                [(row["policy"], str(row["most"])) for row in waits],
            )
        )
    if kernels := [row for row in profile if row["kind"] == "kernels"]:
        parts.append(_kernels(kernels))
    if memory := [row for row in profile if row["kind"] == "memory"]:
        keys = ("dense_mib", "sparse_mib", "kept_mib", "state_mib", "graphs_mib")
        head = ("MiB", "dense frame", "sparse frame", "kept", "of which state", "of which graphs")
        rows = [(row["network"], *(f"{row.get(key, 0):.0f}" for key in keys)) for row in memory]
        parts.append(table(head, rows))
    if bandwidth := [row for row in profile if row["kind"] == "bandwidth"]:
        parts.append(_bandwidth(bandwidth))
    return "\n\n".join(parts)


def _verdict(found: dict[str, Any]) -> str:
    text = found["status"] + (", cut short" if found.get("cut_short") else "")
    details = found.get("failures") or ([found["reason"]] if "reason" in found else [])
    # A sentence of the check must not end the cell.
    return text + (": " + "; ".join(details[:3]).replace("|", "/") if details else "")


def _speed(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each network, dtype, batch and policy; a column for each rate."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        key = (row["network"], row["dtype"], row["images"], row["policy"], len(row["dense_ms"]))
        groups.setdefault(key, []).append(row)
    lines = []
    for (network, dtype, images, policy, _), found in groups.items():
        first = found[0]
        fastest = f"{first['fastest']} {first['dense_ms'][first['fastest']]:.2f}"
        cells = []
        for rate in _RATES:
            row = next((r for r in found if abs(r["rate"] - rate) < 1e-3), None)
            cells.append("" if row is None else f"**{row['E']:.2f}** ({row['E_fastest']:.2f})")
        torch_ms = f"{first['dense_ms']['torch']:.2f}"
        lines.append([network, dtype, str(images), policy or "none", torch_ms, fastest, *cells])
    head = ["network", "dtype", "batch", "policy", "torch ms", "fastest dense ms"]
    return table(head + [f"{100 * rate:g} %" for rate in _RATES], lines)


def _kernels(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        (
            row["network"],
            "yes" if row["replayed"] else "no",
            f"{row['ms']:.2f}",
            f"{row['kernels_per_frame']:.0f}",
            f"{sum(row['launches'].values()):.0f}",
            "<br>".join(f"{k['ms']:.2f} `{k['kernel'][:60]}`" for k in row["kernels"][:5]),
        )
        for row in rows
    ]
    head = ("a frame at 25 %", "graph", "ms in kernels", "kernels", "launches", "the longest, ms")
    return table(head, lines)


def _bandwidth(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        (
            f"{row['channels']} channels, {row['block']} px",
            *(f"{row[op]['GB/s']:.0f} ({row[op]['share']:.0%})" for op in ("gather", "scatter")),
        )
        for row in rows
    ]
    return table(("map", "gather GB/s (of a copy's)", "scatter GB/s (of a copy's)"), lines)

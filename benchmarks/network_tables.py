"""Tables of networks: the zoos, and whole frames as users see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.machine import in_a_line
from benchmarks.markdown import table
from benchmarks.table_cells import refuse_older


def zoo(report: dict[str, Any]) -> str:
    """The laws on architectures of the zoos: detectors, then segmentors."""
    head = (
        "architecture", "there for", "GMACs", "on blocks", "law 1", "law 3", "whole maps",
    )  # fmt: skip
    parts = []
    for title, package in (("Detectors", "mmdet"), ("Segmentors", "mmseg")):
        rows = [
            (
                row["name"] + (" †" if row["convolutional"] else ""),
                row["covers"],
                f"{row['macs'] / 1e9:.2f}",
                f"{100 * row['share']:.1f} %",
                f"{row['law_1']:.0e}",
                f"{row['law_3']:.0e}",
                _whole_map_ops(row["dense_ops"]),
            )
            for row in report["rows"]
            if row["package"] == package
        ]
        parts.append(f"### {title} ({len(rows)})\n\n" + table(head, rows))
    if report["skipped"]:
        names = ", ".join(f"{row['name']} ({row['needs']})" for row in report["skipped"])
        parts.append(f"Not tried, for want of a package: {names}.")
    return "\n\n".join(parts)


def zoo_families(report: dict[str, Any]) -> str:
    """The laws, and E, on networks that frameworks build by name."""
    head = (
        "network", "there for", "GMACs", "on blocks", "law 1", "law 3", "speed-up", "E",
        "whole maps",
    )  # fmt: skip
    parts = []
    for package in dict.fromkeys(row["package"] for row in report["rows"]):
        rows = [
            (
                row["name"],
                row["covers"],
                f"{row['macs'] / 1e9:.2f}",
                f"{100 * row['share']:.1f} %",
                f"{row['law_1']:.0e}",
                f"{row['law_3']:.0e}",
                f"{row['dense_ms'] / row['blocks_ms']:.2f}×" if "dense_ms" in row else "–",
                f"{row['efficiency']:.2f}" if "efficiency" in row else "–",
                _whole_map_ops(row["dense_ops"]),
            )
            for row in report["rows"]
            if row["package"] == package
        ]
        parts.append(f"### {package} ({len(rows)})\n\n" + table(head, rows))
    return "\n\n".join([*parts, in_a_line(report["machine"])])


def user_loops(report: dict[str, Any]) -> str:
    """Whole loops over a video as users of each framework write them."""
    refuse_older(report["rows"], "policy_ms")
    rows = [
        (
            f"`{row['name']}`",
            f"{row['size'][1]}×{row['size'][0]}",
            f"{row['dense_ms']:.0f}",
            f"{row['ours_ms']:.0f}",
            f"**{row['speedup']:.2f}×**",
            f"{100 * row['policy_rate']:.0f} %",
            f"{row['policy_ms']:.0f}",
            f"{row['policy_speedup']:.2f}×",
            " + ".join(
                f"{row[key]} {what}"
                for key, what in (("frames_replayed", "frames"), ("parts_replayed", "parts"))
                if row[key]
            )
            or "–",
        )
        for row in report["rows"]
    ]
    head = (
        "call", "picture", "dense ms", f"{100 * report['rate']:.0f} % ms", "speed-up",
        "default policy", "ms", "speed-up", "by programs",
    )  # fmt: skip
    machines: dict[str, dict[str, str]] = {}
    for row in report["rows"]:
        machine = f"{in_a_line(row['machine'])[:-2]}, {row['settings']['clock']} time"
        machines.setdefault(machine, {}).update(row["versions"])
    lines = [
        f"{machine}; {', '.join(f'{name} {found}' for name, found in versions.items())}.*"
        for machine, versions in machines.items()
    ]
    return "\n\n".join([table(head, rows), *lines])


def estimates(report: dict[str, Any]) -> str:
    """What an estimate predicted / what was measured then."""
    networks = report["networks"]
    rates = list(dict.fromkeys(row["rate"] for network in networks for row in network["rows"]))
    rows = []
    for network in networks:
        height, width = network["size"]
        rows.append(
            [
                network["model"],
                f"{height}×{width}",
                network["dtype"],
                str(network["threads"]),
                f"{network['dense_ms']:.0f}",
                f"{network['dense_ratio']:.2f}",
                *(
                    f"{row['sparse_ratio']:.2f} ({row['speedup_ratio']:.2f})"
                    for row in network["rows"]
                ),
            ]
        )
    head = ["network", "frame", "dtype", "threads", "dense ms", "dense"]
    head += [f"{100 * rate:g} %" for rate in rates]
    found = [row for network in networks for row in network["rows"]]
    ratios = {
        "dense times": [network["dense_ratio"] for network in networks],
        "sparse times": [row["sparse_ratio"] for row in found],
        "speed-ups": [row["speedup_ratio"] for row in found],
    }
    told = "; ".join(
        f"{what} {min(each):.2f} to {max(each):.2f}, "
        f"{sum(abs(ratio - 1) <= 0.2 for ratio in each)} of {len(each)} within 20 %"
        for what, each in ratios.items()
    )
    machines = {}
    for network in networks:
        line = f"{in_a_line(network['machine'])[:-2]}, {network['settings']['clock']} time.*"
        machines.setdefault((network["machine"]["torch"], network["threads"]), line)
    lines = [f"Predicted / measured: {told}.", *machines.values()]
    return "\n\n".join([table(head, rows), *lines])


def _whole_map_ops(ops: Sequence[Sequence[Any]]) -> str:
    """The kinds of op that ran on whole maps, and in how many places."""
    places = Counter(op.removeprefix("aten.").removesuffix(".default") for _, op, _, _ in ops)
    return ", ".join(f"{op}" + (f" ({n})" if n > 1 else "") for op, n in places.most_common())

"""Makes the tables of the documents from the figures that were measured.

``python -m benchmarks.tables`` reads ``benchmarks/results/*.json`` and writes each table between
its two markers in README.md, ``docs/results.md`` and ``docs/zoo.md``. No figure in a table is
written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent


def efficiency(report: dict[str, Any]) -> str:
    """Times, speed-up and E by dtype and executed rate."""
    rows = [
        (
            row["dtype"],
            f"{row['rate']:.1%}",
            f"{row['dense_ms']:.0f}",
            f"{row['sparse_ms']:.0f}",
            f"{row['policy_ms']:.0f}",
            f"{row['speedup']:.2f}×",
            f"**{row['efficiency']:.2f}**",
        )
        for row in report["rows"]
    ]
    head = ("dtype", "executed", "dense ms", "sparse ms", "of it policy", "speed-up", "E")
    return _table(head, rows) + "\n\n" + _machine(report["machine"])


def policies(report: dict[str, Any]) -> str:
    """Accuracy, fidelity and time by policy and executed rate."""
    dense = report["dense"]
    rows = [("dense", "100.0 %", f"{dense['AP50']:.3f}", "", "", f"{dense['ms']:.0f}")]
    for run in sorted(report["runs"], key=lambda r: (r["policy"], r["executed_rate"])):
        rows.append(
            (
                run["policy"],
                f"{100 * run['executed_rate']:.1f} %",
                f"{run['AP50']:.3f}",
                f"{100 * (run['AP50'] - dense['AP50']):+.1f}",
                f"{run['fidelity']['bbox_AP50']:.3f}",
                f"{run['ms']:.0f}",
            )
        )
    head = ("policy", "executed", "AP50", "points to dense", "fidelity AP50", "ms a frame")
    return _table(head, rows) + "\n\n" + _machine(report["machine"])


def demo(report: dict[str, Any]) -> str:
    """The demo's comparison of dense and block-sparse."""
    fidelity = report["fidelity"]
    rows = [
        (
            "ms a frame, policy included",
            f"{report['ms_dense']:.0f}",
            f"{report['ms_blockcopy']:.0f}",
        ),
        ("of it policy", "", f"{report['ms_policy']:.1f}"),
        (
            "GMACs a frame, without the policy's",
            f"{report['macs_dense'] / 1e9:.2f}",
            f"{report['macs_blockcopy'] / 1e9:.2f}",
        ),
        ("GMACs of the policy", "", f"{report['macs_policy'] / 1e9:.3f}"),
        ("executed rate", "100 %", f"{100 * report['executed_rate']:.1f} %"),
        ("fidelity, box AP / AP50", "", f"{fidelity['bbox_AP']:.3f} / {fidelity['bbox_AP50']:.3f}"),
        (
            "fidelity, mask AP / AP50",
            "",
            f"{fidelity['segm_AP']:.3f} / {fidelity['segm_AP50']:.3f}",
        ),
        ("speed-up", "", f"{report['speedup']:.2f}×"),
    ]
    return _table(("", "dense", "block-sparse"), rows)


def bandwidth(report: dict[str, Any]) -> str:
    """Gigabytes a second of the kernels and of a plain copy."""
    rows = [
        (
            str(row["channels"]),
            f"{row['block']} px",
            str(row["executed"]),
            *(f"{row[name]['GB/s']:.1f}" for name in ("copy", "gather", "scatter")),
        )
        for row in report["rows"]
    ]
    head = ("channels", "block", "executed", "copy GB/s", "gather GB/s", "scatter GB/s")
    return _table(head, rows) + "\n\n" + _machine(report["machine"])


def memory(report: dict[str, Any]) -> str:
    """Memory of the process and of the state over many frames."""
    samples = report["samples"]
    chosen = [s for s in samples if s["frame"] in (10, 100, 300, 999)] or samples
    rows = [
        (str(s["frame"]), f"{s['rss'] / 2**20:.0f}", f"{s['state_bytes'] / 2**20:.1f}")
        for s in chosen
    ]
    return _table(("after frame", "process, MiB", "state, MiB"), rows)


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
        parts.append(f"### {title} ({len(rows)})\n\n" + _table(head, rows))
    if report["skipped"]:
        names = ", ".join(f"{row['name']} ({row['needs']})" for row in report["skipped"])
        parts.append(f"Not tried, for want of a package: {names}.")
    return "\n\n".join(parts)


def _whole_map_ops(ops: Sequence[Sequence[Any]]) -> str:
    """The kinds of op that ran on whole maps, and in how many places."""
    places = Counter(op.removeprefix("aten.").removesuffix(".default") for _, op, _, _ in ops)
    return ", ".join(f"{op}" + (f" ({n})" if n > 1 else "") for op, n in places.most_common())


TABLES: tuple[tuple[str, Callable[[dict], str]], ...] = (
    ("efficiency", efficiency),
    ("policies", policies),
    ("demo", demo),
    ("ops_bandwidth", bandwidth),
    ("memory", memory),
    ("zoo", zoo),
)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _machine(machine: dict[str, Any]) -> str:
    return (
        f"*{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"allocator: {machine['allocator']}, load before {machine['load_1min']}.*"
    )


def main() -> None:
    """Fill the document."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=_ROOT / "benchmarks" / "results")
    parser.add_argument(
        "--documents",
        type=Path,
        nargs="+",
        default=[_ROOT / "docs" / "results.md", _ROOT / "docs" / "zoo.md", _ROOT / "README.md"],
    )
    args = parser.parse_args()
    for document in args.documents:
        text = document.read_text()
        for name, make in TABLES:
            file = args.results / f"{name}.json"
            marker = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
            if file.exists() and marker.search(text):
                table = make(json.loads(file.read_text()))
                text = marker.sub(lambda m, t=table: m[1] + t + "\n" + m[2], text)
        document.write_text(text)


if __name__ == "__main__":
    main()

"""Tables of time, memory and work."""

from __future__ import annotations

import re
from typing import Any

from benchmarks.efficiency_figures import fastest_engine
from benchmarks.machine import in_a_line
from benchmarks.markdown import table
from benchmarks.table_cells import (
    SETTING,
    cell,
    differing,
    hashable,
    refuse_older,
    varies,
)


def efficiency(report: dict[str, Any]) -> str:
    """Times, speed-up and E by model, dtype and executed rate, and against the fastest engine."""
    rows = report["rows"]
    refuse_older(rows, "fastest")
    columns = differing(rows)
    with_peers = any("ms" in peer for peer in report["peers"])
    head = [*columns, "executed", "dense ms", "sparse ms", "of which policy", "speed-up", "E"]
    head += ["fastest dense", "speed-up over it"] if with_peers else []
    with_int8 = any(row.get("speedup_over_int8") for row in rows)
    head += ["speed-up over INT8"] if with_int8 else []
    lines = []
    for row in rows:
        line = [cell(name, row[name]) for name in columns]
        line += [
            f"{row['rate']:.1%}",
            f"{row['dense_ms']:.0f}",
            f"{row['sparse_ms']:.0f}",
            f"{row['policy_ms']:.0f}",
            f"{row['speedup']:.2f}×",
            f"**{row['efficiency']:.2f}**",
        ]
        if with_peers:
            fastest = row["fastest"]
            line += [f"{fastest['engine']}, {fastest['ms']:.0f} ms"]
            line += [f"{row['speedup_over_fastest']:.2f}×"]
        if with_int8:
            over = row.get("speedup_over_int8")
            line += [f"{over:.2f}×" if over else "–"]
        lines.append(line)
    return table(head, lines) + "\n\n" + in_a_line(report["machine"])


def speed(report: dict[str, Any]) -> str:
    """Speed-up and E by model and dtype, a column for each rate."""
    rows = report["rows"]
    refuse_older(rows, "fastest")
    rates = list(dict.fromkeys(row["asked_rate"] for row in rows))
    by_setting: dict[tuple, dict[float, dict]] = {}
    for row in rows:
        key = tuple(hashable(row[name]) for name in SETTING)
        by_setting.setdefault(key, {})[row["asked_rate"]] = row
    columns = differing(rows)
    lines = []
    for found in by_setting.values():
        first = next(iter(found.values()))
        fastest = first["fastest"]
        lines.append(
            [
                *(cell(name, first[name]) for name in columns),
                f"{first['dense_ms']:.0f}",
                f"{fastest['engine']} {fastest['ms']:.0f}",
                *(f"{found[r]['speedup']:.2f}× (**{found[r]['efficiency']:.2f}**)" for r in rates),
            ]
        )
    head = [*columns, "torch ms", "fastest dense ms", *(f"{100 * rate:g} %" for rate in rates)]
    return table(head, lines) + "\n\n" + in_a_line(report["machine"])


def peers(report: dict[str, Any]) -> str:
    """Milliseconds of a dense frame by engine, and why one is absent.

    Engines of lower precision than the dtype are told with their deviation, and are not marked as
    the fastest.
    """
    refuse_older(report["rows"], "fastest")
    keys = ("model", "size", "dtype", "device", "threads")
    columns = differing(report["rows"], keys)
    engines = list(dict.fromkeys(peer["engine"] for peer in report["peers"]))
    lines, reasons = [], {}
    for setting in dict.fromkeys(
        tuple(map(hashable, map(row.get, keys))) for row in report["rows"]
    ):
        here = dict(zip(keys, setting, strict=True))

        def of_setting(row, here=here):
            return all(hashable(row[key]) == here[key] for key in keys)

        torch_ms = next(row["dense_ms"] for row in report["rows"] if of_setting(row))
        found = {peer["engine"]: peer for peer in report["peers"] if of_setting(peer)}
        times = [torch_ms, *(found.get(engine, {}).get("ms") for engine in engines)]
        inexact = {name for name, peer in found.items() if not peer.get("exact", True)}
        least = fastest_engine(torch_ms, list(found.values()))[1]
        line = [cell(name, here[name]) for name in columns]
        for engine, ms in zip(["torch", *engines], times, strict=True):
            if ms is None:
                number = reasons.setdefault(_reason(engine, found), len(reasons) + 1)
                line.append(f"– ({number})")
            elif engine in inexact:
                line.append(f"{ms:.0f} (error {found[engine]['deviation']:.1%})")
            else:
                line.append(f"**{ms:.0f}**" if ms == least else f"{ms:.0f}")
        lines.append(line)
    head = [*columns, *(f"{name} ms" for name in ["torch", *engines])]
    versions = {
        p["engine"]: f"{p['engine']} {p['version']} ({p['setting']})"
        for p in report["peers"]
        if "ms" in p
    }
    parts = [table(head, lines)]
    if reasons:
        parts.append(" ".join(f"({number}) {text}." for text, number in reasons.items()))
    if versions:
        parts.append("*" + ", ".join(versions.values()) + ".*")
    return "\n\n".join([*parts, in_a_line(report["machine"])])


def _reason(engine: str, found: dict[str, dict]) -> str:
    text = found.get(engine, {}).get("reason", "not tried")
    text = re.sub(r"\s+", " ", text).replace("|", "/").strip(" .")
    return f"{engine}: {text if len(text) <= 220 else text[:220] + ' ...'}"


def whole(report: dict[str, Any]) -> str:
    """Speed-up of the whole model, RoI heads and post-processing included, beside its part's."""
    rows = [row for row in report["whole"] if "reason" not in row]
    columns = differing(rows)
    lines = [
        [
            *(cell(name, row[name]) for name in columns),
            f"{row['rate']:.1%}",
            f"{row['dense_ms']:.0f}",
            f"{row['sparse_ms']:.0f}",
            f"**{row['speedup']:.2f}×**",
            f"{row['part_speedup']:.2f}×",
        ]
        for row in rows
    ]
    head = [*columns, "executed", "dense ms", "sparse ms", "speed-up", "of the part on blocks"]
    absent = [
        f"{row['model']}, {row['dtype']}: {_reason('not measured', {'not measured': row})}."
        for row in report["whole"]
        if "reason" in row
    ]
    parts = [table(head, lines), *([" ".join(absent)] if absent else [])]
    return "\n\n".join([*parts, in_a_line(report["machine"])])


def profile(report: dict[str, Any]) -> str:
    """Milliseconds by kind of op, for dense and each rate."""
    runs = report["runs"]
    several = len(runs) > 1
    parts = []
    for run in runs:
        found = run["profile"]
        kinds = next(iter(found.values()))["kinds_ms"]
        shown = [kind for kind in kinds if any(entry["kinds_ms"][kind] for entry in found.values())]
        lines = [
            [kind, *(f"{entry['kinds_ms'][kind]:.1f}" for entry in found.values())]
            for kind in shown
        ]
        lines.append(["**frame**", *(f"**{entry['ms']:.1f}**" for entry in found.values())])
        names = [n if n == "dense" else f"{float(n):.1%}" for n in found]
        title = f"{run['device']}, {run['dtype']}:\n\n" if several else ""
        parts.append(title + table(["ms", *names], lines))
    return "\n\n".join([*parts, in_a_line(report["machine"])])


def demo(report: dict[str, Any]) -> str:
    """The demo's comparison of dense and block-sparse."""
    fidelity = report["fidelity"]
    rows = [
        (
            "ms a frame, policy included",
            f"{report['ms_dense']:.0f}",
            f"{report['ms_blockcopy']:.0f}",
        ),
        ("of which policy", "", f"{report['ms_policy']:.1f}"),
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
    return table(("", "dense", "block-sparse"), rows)


def ops(report: dict[str, Any]) -> str:
    """Gigabytes a second of the kernels beside a plain copy of as many bytes."""
    rows = report["rows"]
    columns = [c for c in ("device", "threads", "dtype", "kernel", "dilation") if varies(rows, c)]
    lines = []
    for row in rows:
        line = [str(row[name]) for name in columns]
        line += [str(row["channels"]), f"{row['block']} px", str(row["executed"])]
        for name in ("gather", "scatter"):
            found = row[name]
            line += [f"{found['copy_GB/s']:.1f}", f"{found['GB/s']:.1f}", f"{found['share']:.0%}"]
        lines.append(line)
    head = [*columns, "channels", "block", "executed"]
    head += ["copy GB/s", "gather GB/s", "share", "copy GB/s", "scatter GB/s", "share"]
    return table(head, lines) + "\n\n" + in_a_line(report["machine"])


def policy_cost(report: dict[str, Any]) -> str:
    """Milliseconds and MACs of the learned policy by part."""
    several = any("policy" in row and row["policy"] != "RLPolicy" for row in report["rows"])
    head = ("frames", "outputs", "select ms", "feedback ms", "update ms, its share", "ms a frame")
    columns = [name for name in ("size", "block_size") if varies(report["rows"], name)]
    head = (*("block" if name == "block_size" else name for name in columns), *head)
    head = ("policy", *head) if several else head
    lines = [
        (
            *([row["policy"]] if several else []),
            *(cell(name, row[name]) for name in columns),
            f"{row['dtype']}, {row['layout'].replace('_', ' ')}",
            row["output"],
            f"{row['select_ms']:.1f}",
            f"{row['feedback_ms']:.1f}",
            f"{row['update_ms'] / row['update_every']:.1f}",
            f"**{row['frame_ms']:.1f}**",
        )
        for row in report["rows"]
    ]
    gmacs = max(row["macs"]["total"] for row in report["rows"]) / 1e9
    return f"{table(head, lines)}\n\n{gmacs:.3f} GMACs a frame. {in_a_line(report['machine'])}"


def gain_cost(report: dict[str, Any]) -> str:
    """Milliseconds of the information gain of boxes and masks."""
    rows = report.get("gain", [])
    refuse_older(rows, "gain_ms")
    columns = [name for name in ("size", "block_size", "threads") if varies(rows, name)]
    head = (
        *columns, "detections", "summarise ms", "output map ms", "compare ms", "ms a frame",
    )  # fmt: skip
    lines = [
        (
            *(cell(name, row[name]) for name in columns),
            f"{row['count']} {row['output']}",
            f"{row['summarise_ms']:.2f}",
            f"{row['output_map_ms']:.2f}",
            f"{row['compare_ms']:.2f}",
            f"**{row['gain_ms']:.2f}**",
        )
        for row in rows
    ]
    return f"{table(head, lines)}\n\n{in_a_line(report['machine'])}"


def memory(report: dict[str, Any]) -> str:
    """Memory of the process and of the state over many frames, and beside the ops' inputs."""
    refuse_older([report], "runs")
    parts = []
    for run in report["runs"]:
        samples = run["samples"]
        last = samples[-1]["frame"]
        chosen = [s for s in samples if s["frame"] == 10]
        # A tenth, a third and all of the way.
        for part in (0.1, 1 / 3, 1.0):
            chosen.append(min(samples, key=lambda s: abs(s["frame"] - part * last)))  # noqa: B023
        rows = [
            (str(frame), f"{s['in_use'] / 2**20:.0f}", f"{s['state_bytes'] / 2**20:.1f}")
            for frame, s in sorted({s["frame"]: s for s in chosen}.items())
        ]
        used = "process, MiB" if run["device"] == "cpu" else "GPU, MiB"
        parts.append(table(("after frame", used, "state, MiB"), rows))
        parts.append(
            f"One copy of the spatial ops' inputs is {run['spatial_inputs_bytes'] / 2**20:.1f} "
            f"MiB: the state is {run['state_copies']:.2f} of it, all memory beyond dense "
            f"{run['beyond_dense_copies']:.2f}."
        )
    return "\n\n".join([*parts, in_a_line(report["machine"])])


def light(report: dict[str, Any]) -> str:
    """Frames of light networks, dense and with less and less executed."""
    rows = []
    for network in report["networks"]:
        height, width = network["size"]
        cells = (f"{row['sparse_ms']:.1f} (**{row['efficiency']:.2f}**)" for row in network["rows"])
        name = [network["model"], f"{height}×{width}", network["dtype"]]
        rows.append([*name, f"{network['dense_ms']:.1f}", *cells])
    rates = (f"{100 * rate:g} %" for rate in report["settings"]["rates"])
    head = ["network", "frame", "dtype", "dense", *rates]
    return table(head, rows) + "\n\n" + in_a_line(report["machine"])

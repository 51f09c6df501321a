"""What tools/test_video.py writes and prints of a run, whichever framework ran the model."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from _cli import say_what_was_left_out

_OF_TRUTH = " (ground truth)"
# Of metrics from 0 to 1.
_WORDS = {
    "mIoU": "mIoU",
    "aAcc": "pixel accuracy",
    "mAcc": "class accuracy",
    **{name: name for name in ("HOTA", "MOTA", "IDF1")},
    "bbox_mAP": "bbox AP",
    "segm_mAP": "segm AP",
}


def results_of(
    args: Any,
    model: str,
    checkpoint: str,
    summary: dict[str, Any],
    policy_file: str | None,
    carried: bool,
    warm_up: Any = None,
) -> dict[str, Any]:
    """The content of results.json.

    Args:
        args: The command line.
        model: Name of the model's class.
        checkpoint: File or address of its weights.
        summary: Figures of the run.
        policy_file: The policy that the first video started with.
        carried: Whether the next videos went on with what the policy had learned.
        warm_up: A `Training`, if the policy was warmed up.
    """
    import torch

    from blockcopy_plugins.addresses import masked

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    first = ("frames", "size", "block_size", "policy", "target")
    return {
        "model": model,
        "config": args.config,
        # Only the file's name: results are shown to others, who have other folders.
        "checkpoint": masked(checkpoint).rpartition("/")[2],
        **{name: summary.get(name) for name in first},
        # What the policy knew when the first video started, and when the following ones did.
        "policy_file": None if policy_file is None else Path(policy_file).name,
        "policy_over_videos": "carried" if carried else "restarted",
        "policy_warm_up": None
        if warm_up is None
        else {
            "clips": warm_up.clips,
            "frames": warm_up.frames,
            "file": f"{warm_up.policy.parent.name}/{warm_up.policy.name}",
        },
        **{name: value for name, value in summary.items() if name not in first},
        "machine": {
            "device": gpu or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }


def write_results(
    out: Path, show_dir: Path, results: dict[str, Any], entries: Sequence[Any]
) -> list[Path]:
    """Write results.json, a line of figures per frame, and the plot; return the files."""
    from dataclasses import asdict

    from blockcopy_plugins.integrations.common.comparison import plain
    from blockcopy_plugins.part_files import whole_file
    from blockcopy_plugins.visualization import plot_policy_curve

    by_frame = out.with_name(f"{out.stem}_frames.jsonl")
    lines = "".join(json.dumps(plain(asdict(entry))) + "\n" for entry in entries)
    for target, text in ((out, json.dumps(results, indent=2) + "\n"), (by_frame, lines)):
        with whole_file(target) as path:
            path.write_text(text)
    files = [out, by_frame]
    if entries:
        records = [{"executed_rate": entry.executed_rate, **entry.scalars} for entry in entries]
        plot = show_dir / f"{out.stem}_curve.png"
        title = f"{results['policy']}, {results['frames']} frames"
        plot_policy_curve(records, plot, results["target"], title=title)
        files.append(plot)
    return files


def print_results(args: Any, results: dict[str, Any], files: Iterable[Path]) -> None:
    """Print the table, what was left out, and which files were written."""
    say_what_was_left_out(results)
    print(_table(results))
    if args.ann and not _annotated(results):
        print("note: none of the frames is annotated in --ann", file=sys.stderr)
    for path in files:
        print(f"wrote {path}")


def _table(results: dict) -> str:
    """The results as a table, dense and block-sparse side by side."""
    from blockcopy_plugins.engine.propagation_report import PropagationReport
    from blockcopy_plugins.engine.report import GuardReport

    def figure(value, scale=1.0, digits=1, unit="") -> str:
        return "-" if value is None else f"{value * scale:.{digits}f}{unit}"

    target = "" if results["target"] is None else f", target {100 * results['target']:.4g} %"
    size = results["size"]
    size = f"{size[1]}x{size[0]} px" if size and isinstance(size[0], int) else "several sizes"
    rows = [
        ("ms per frame", figure(results["ms_dense"]), figure(results["ms_blockcopy"])),
        ("  of which policy", "-", figure(results["ms_policy"], digits=2)),
        (
            "GMACs per frame",
            figure(results["macs_dense"], 1e-9, 2),
            figure(results["macs_blockcopy"], 1e-9, 2),
        ),
        ("  policy, in addition", "-", figure(results["macs_policy"], 1e-9, 4)),
        ("executed rate", "100.0 %", figure(results["executed_rate"], 100, 1, " %")),
        (
            "  after first frames",
            "100.0 %",
            figure(results["executed_rate_after_first"], 100, 1, " %"),
        ),
    ]
    if results.get("agreement"):
        told = results["agreement"]
        between = f"{100 * told['low']:.1f}-{100 * told['high']:.1f} %"
        rows.append(("  of which comparisons", "-", figure(told["compared_rate"], 100, 1, " %")))
        rows.append(("agreement, as compared", "100.0 %", figure(told["mean"], 100, 1, " %")))
        rows.append(("  90 % interval", "", between))
    dense, sparse = (results["metrics"].get(name) or {} for name in ("dense", "blockcopy"))
    for name in sparse:
        words = _in_words(name.rpartition("/")[2])
        if words:
            rows.append((words, figure(dense.get(name), 100), figure(sparse[name], 100)))
    if 0 < _annotated(results) < results["frames"]:
        rows.append(("  annotated frames", "", f"{_annotated(results):.0f}"))
    for name, value in (results["fidelity"] or {}).items():
        words = _in_words(name)
        if words:
            words = words.replace(_OF_TRUTH, "")
            rows.append((f"fidelity {words}", "100.0", figure(value, 100)))
    width = max(len(row[0]) for row in rows)
    line = "-" * (width + 28)
    lines = [
        f"{results['model']}, {results['frames']} frames of {size}, blocks of "
        f"{results['block_size']} px, {results['policy']}{target}",
        line,
        f"{'':{width}}  {'dense':>12}  {'block-sparse':>12}",
        line,
        *(f"{name:{width}}  {a:>12}  {b:>12}" for name, a, b in rows),
        line,
        f"{'speed-up':{width}}  {'':>12}  {figure(results['speedup'], digits=2, unit=' x'):>12}",
    ]
    if results.get("fidelity_reason"):
        lines.append(f"fidelity: {results['fidelity_reason']}")
    if results["policy_warm_up"]:
        clips, frames = (results["policy_warm_up"][name] for name in ("clips", "frames"))
        lines.append(f"policy: warmed up on {clips} clips, {frames} frames")
    lines += [f"guard {GuardReport(**guard)}" for guard in results["guards"]]
    lines += [line.strip() for line in PropagationReport(**results["propagation"]).lines()]
    if results["dense_ops"]:
        names = ", ".join(f"{op['path'] or '(root)'}: {op['op']}" for op in results["dense_ops"])
        lines.append(f"ran on whole maps: {names}")
    return "\n".join(lines)


def _annotated(results: dict) -> float:
    return (results["metrics"]["blockcopy"] or {}).get("video/annotated_frames", 0)


def _in_words(name: str) -> str | None:
    """The name of a metric in the table; None if it is not in the table."""
    if name.startswith("MR_"):
        return f"MR^-2 {name[3:].replace('_', ' ')}, lower is better"
    if name == "temporal_consistency":
        return "temporal consistency"
    if name.endswith(("_AP", "_AP50")):
        return name.replace("_", " ") + _OF_TRUTH
    return _WORDS.get(name) and _WORDS[name] + _OF_TRUTH

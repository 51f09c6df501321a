"""Figures of a run that executes each frame both densely and block-sparsely."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ...engine.report import GuardReport, Totals
from ...engine.session import Session
from ...policy import Policy
from .frame_entry import FrameEntry
from .readable_batches import with_late_ones


def agreement_figures(policy: Policy) -> dict[str, float] | None:
    """What a policy that compares its outputs with dense ones has found; ``None`` for others.

    Args:
        policy: The policy; with several processes, that of the first one.
    """
    return None if policy.agreement is None else asdict(policy.agreement)


def summarise(entries: Sequence[FrameEntry]) -> dict[str, Any]:
    """Executed rate, MACs and times over all frames.

    * ``executed_rate`` is the mean over all frames, including the fully executed first frame of
      each video; ``executed_rate_after_first`` leaves those out.
    * ``macs_blockcopy`` and ``macs_dense`` are MACs per frame. What runs on blocks is counted in
      every frame; what runs outside (RoI heads) in ``mac_frames`` of them, whose mean is added.
      Neither contains the policy's own MACs.
    * ``ms_dense`` and ``ms_blockcopy`` are means over the same timed frames, and ``speedup`` is
      their ratio. They are means because the cost of a block-sparse frame varies with its executed
      rate, and a user waits for the total time; ``timing`` has the medians. If all frames are
      warm-up, they are timed nevertheless (``timing.only_warmup``).

    Args:
        entries: Entries of all frames, in any order.

    Returns:
        The figures by name; ``None`` for what was not measured.
    """
    if not entries:
        return {"frames": 0}
    entries = sorted(entries, key=lambda e: e.key)
    later = [e.executed_rate for e in entries if e.frame_id > 0]
    sizes = sorted({e.size for e in entries})
    blocks = _mean(e.macs_blocks + e.macs_densified for e in entries)
    blocks_dense = _mean(e.macs_blocks_dense + e.macs_densified for e in entries)
    counted = [e for e in entries if e.macs_outside is not None]
    outside = _mean(e.macs_outside for e in counted)
    outside_dense = _mean(
        e.macs_outside if e.macs_outside_dense is None else e.macs_outside_dense for e in counted
    )
    timed = [e for e in entries if e.timed]
    only_warmup = not timed
    if only_warmup:
        timed = [e for e in entries if e.macs_outside is None]
    dense = [e.ms_dense for e in timed if e.ms_dense is not None]
    sparse = [e.ms_blockcopy for e in timed]
    ms_dense, ms_sparse = _mean(dense), _mean(sparse)
    return {
        "frames": len(entries),
        "size": list(sizes[0]) if len(sizes) == 1 else [list(size) for size in sizes],
        "executed_rate": _mean(e.executed_rate for e in entries),
        "executed_rate_after_first": _mean(later),
        "macs_dense": _plus(blocks_dense, outside_dense),
        "macs_blockcopy": _plus(blocks, outside),
        "macs_outside_blocks": outside,
        "mac_frames": len(counted),
        "ms_dense": ms_dense,
        "ms_blockcopy": ms_sparse,
        "ms_policy": _mean(e.ms_policy for e in timed),
        "speedup": ms_dense / ms_sparse if ms_dense and ms_sparse else None,
        "timing": {
            "frames": len(timed),
            "only_warmup": only_warmup,
            "executed_rate": _mean(e.executed_rate for e in timed),
            "median_ms_dense": statistics.median(dense) if dense else None,
            "median_ms_blockcopy": statistics.median(sparse) if sparse else None,
        },
        "videos": _videos(entries),
    }


def run_summary(
    entries: Sequence[FrameEntry],
    handle: Session,
    parts: Sequence[Totals],
    metrics: Mapping[str, Any],
    fidelity: tuple[Mapping[str, float] | None, str | None],
    dataset: Any,
    skipped: Sequence[str],
    partial: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """All that ``results.json`` says about a run.

    Args:
        entries: Entries of all frames of all processes.
        handle: The converted model's handle.
        parts: What the engine counted in each process.
        metrics: Accuracy by run, ``dense`` and ``blockcopy``; ``None`` if it is not known.
        fidelity: The figures, and the reason if they mean nothing.
        dataset: The frames' dataset, which knows the frames and annotations that it left out.
        skipped: What is wrong with frames that could not be read during the run.
        partial: Why the run ended before its last frame, if it did.

    Returns:
        The figures of :func:`summarise` and more, ready for JSON.
    """
    block_size, policy = handle.config.block_size, handle.policy
    macs_policy = 0
    if entries:
        first = min(entries, key=lambda entry: entry.key)
        macs_policy = policy.macs((1, 3, *first.size), block_size)["total"]
    agreement, reason = fidelity
    return plain(
        {
            **summarise(entries),
            "block_size": block_size,
            "policy": type(policy).__name__,
            "target": getattr(policy, "target", None),
            "agreement": agreement_figures(policy),
            "macs_policy": macs_policy,
            "metrics": {name: metrics.get(name) for name in ("dense", "blockcopy")},
            "fidelity": agreement,
            **({} if reason is None else {"fidelity_reason": reason}),
            "dense_ops": merge_dense_ops(parts, len(entries)),
            "guards": merge_guards(totals.guard_reports() for totals in parts),
            "propagation": asdict(handle.propagation.report()),
            "processes": len(parts),
            "skipped_frames": with_late_ones(getattr(dataset, "skipped_frames", None), skipped),
            "annotations": getattr(dataset, "annotation_notes", None),
            "partial": partial,
        }
    )


def merge_dense_ops(parts: Iterable[Totals], frames: int) -> list[dict[str, Any]]:
    """Sum up what ran dense in several processes.

    Args:
        parts: What the engine counted in each.
        frames: Number of all frames.

    Returns:
        Module path, name, reason, calls and MACs per frame of each op.
    """
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for totals in parts:
        for key, op in totals.counts.by_op.items():
            kept = merged.setdefault(
                key, {"path": op.path, "op": op.op, "reason": op.reason, "count": 0, "macs": 0}
            )
            kept["count"] += op.count
            kept["macs"] += op.macs
    for op in merged.values():
        op["macs_per_frame"] = op.pop("macs") / max(frames, 1)
    return list(merged.values())


def merge_guards(parts: Iterable[Sequence[GuardReport]]) -> list[dict[str, Any]]:
    """Sum up what guards did in several processes.

    Args:
        parts: Each process's reports of the same guards; empty if it had no frame.

    Returns:
        The name of each guard, and the blocks that it demanded, added and took away.
    """
    merged: list[dict[str, Any]] = []
    for part in filter(None, parts):
        rows = [asdict(report) for report in part]
        if not merged:
            merged = rows
            continue
        for kept, row in zip(merged, rows, strict=True):
            for name in ("demanded", "added", "taken"):
                kept[name] += row[name]
    return merged


def plain(value: Any) -> Any:
    """A copy for JSON, which has neither NaN nor tuples.

    Args:
        value: Nested dicts and sequences of plain values.

    Returns:
        The same with ``None`` for NaN and infinity.
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _videos(entries: Sequence[FrameEntry]) -> list[dict[str, Any]]:
    by_video: dict[int, list[FrameEntry]] = {}
    for entry in entries:
        by_video.setdefault(entry.video_id, []).append(entry)
    return [
        {
            "name": frames[0].video_name,
            "frames": len(frames),
            "size": list(frames[0].size),
            "grid": list(frames[0].grid),
            "executed_rate": _mean(e.executed_rate for e in frames),
        }
        for frames in by_video.values()
    ]


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    # fsum: the same in any order, and so for any number of processes.
    return math.fsum(values) / len(values) if values else None


def _plus(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second

r"""A budget of agreement: what is delivered, against the dense network beside.

Networks run over clips under ``GainPolicy(target_fidelity=...)``. What they delivered is compared
afterwards with what the same network delivers dense: of labels the share of pixels that agree, of
detections the F1 measure in which each counts as much as it is sure (computed here anew, from the
boxes in the frame's pixels).

    python -m benchmarks.fidelity_budget --data-root DATA --targets 0.95 \
        --plan benchmarks/policies/plans/{unseen,annotated}_clips.yaml --json fidelity_budget.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from benchmarks.command import (
    json_file,
    new_parser,
    prepare_process,
    rates,
    settings_of,
    write_json,
)

if TYPE_CHECKING:
    from benchmarks.policies.answers import Answer
    from benchmarks.policies.network import Frames, Network

_IOU = 0.5


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = new_parser("fidelity_budget", __doc__)
    for name in ("clip", "model", "data-root"):
        parser.add_argument(
            f"--{name}", action="append", default=[], help="as for benchmarks.policies"
        )
    parser.add_argument("--plan", nargs="+", help="YAML files with clips and models")
    parser.add_argument("--targets", type=rates, default=[0.95], help="agreements (default 0.95)")
    parser.add_argument("--frames", type=int, help="frames of each clip at most")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--json", type=json_file, required=True, help="file for the figures")
    return parser.parse_args(arguments)


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each clip, model and target."""
    from benchmarks.policies.__main__ import plan_of
    from benchmarks.policies.answers import DenseAnswers
    from benchmarks.policies.network import build_network
    from benchmarks.policies.runs import run_dense

    given = dict.fromkeys(("targets", "periods", "policies", "motion"))
    given |= dict(data_root=args.data_root, propagate=["copy"])
    named = argparse.Namespace(plan=None, clip=args.clip, model=args.model, **given)
    plans = [named] if args.clip or args.model else []
    plans += [argparse.Namespace(plan=p, clip=[], model=[], **given) for p in args.plan or ()]
    pairs = [pair for plan in map(plan_of, plans) for pair in plan.pairs]
    if not pairs:
        sys.exit("error: nothing to run; give --plan, or --clip and --model")
    rows = []
    for clip, model in pairs:
        network = build_network(model)
        frames = network.frames(clip, clip.frames)
        if args.frames is not None and len(frames) > args.frames:
            start = clip.frames[0]
            frames = network.frames(clip, (start, start + args.frames))
        dense = DenseAnswers()
        try:
            run_dense(network, frames, lambda _, answer, dense=dense: dense.append(answer))
            for target in args.targets:
                row = _hold(network, frames, dense, target, model.block_size or network.block_size)
                rows.append({"clip": clip.name, "model": model.name, **row})
                print(_text(rows[-1]))
        finally:
            dense.close()
    return rows


def _hold(
    network: Network, frames: Frames, dense, target: float, block_size: int
) -> dict[str, Any]:
    import blockcopy_plugins as bc
    from benchmarks.policies.runs import run_policy
    from blockcopy_plugins.policy import GainPolicy

    policy = GainPolicy(target_fidelity=target)
    agreements: list[float] = []

    def compare(_, answer: Answer) -> None:
        agreements.append(answer_agreement(answer, dense[len(agreements)]))

    options = bc.BlockCopyConfig(block_size=block_size, policy=policy)
    run = run_policy(network, frames, options, compare, f"agreement {target}")
    told = policy.agreement
    return {
        "target": target,
        "frames": len(agreements),
        "block_size": block_size,
        "agreement": fmean(agreements),
        "told": {"mean": told.mean, "low": told.low, "high": told.high},
        "comparisons": told.comparisons,
        # With all comparisons in it: what ran twice counts twice.
        "executed_rate": fmean(run.rates),
        "compared_rate": told.compared_rate,
    }


def answer_agreement(found: Answer, wanted: Answer) -> float:
    """Return how far two answers for a frame agree, 0 to 1.

    Args:
        found: What was delivered.
        wanted: What the dense network says.
    """
    from benchmarks.policies.answers import LabelMap

    if isinstance(found, LabelMap):
        return float((found.labels == wanted.labels).mean())
    return scored_agreement(
        *((a.boxes.tolist(), a.scores.tolist(), a.labels.tolist()) for a in (found, wanted))
    )


def scored_agreement(found: Sequence[list], wanted: Sequence[list]) -> float:
    """Return the F1 measure of detections, each weighted by its score.

    Those of both are paired one with one, best overlap first, where the label is the same and the
    IoU of the boxes is at least 0.5.

    Args:
        found: Boxes ``(x1, y1, x2, y2)``, scores and labels.
        wanted: Likewise.
    """
    (boxes, scores, labels), (others, other_scores, other_labels) = found, wanted
    pairs = []
    for i, (a, b, c, d) in enumerate(boxes):
        for j, (e, f, g, h) in enumerate(others):
            shared = max(min(c, g) - max(a, e), 0) * max(min(d, h) - max(b, f), 0)
            union = (c - a) * (d - b) + (g - e) * (h - f) - shared
            if labels[i] == other_labels[j] and union > 0 and shared >= _IOU * union:
                pairs.append((shared / union, i, j))
    taken: set[int] = set()
    others_taken: set[int] = set()
    paired = 0.0
    for _, i, j in sorted(pairs, key=lambda pair: -pair[0]):
        if i not in taken and j not in others_taken:
            taken.add(i)
            others_taken.add(j)
            paired += scores[i] + other_scores[j]
    total = sum(scores) + sum(other_scores)
    return paired / total if total else 1.0


def _text(row: dict[str, Any]) -> str:
    told = row["told"]
    return (
        f"{row['model']} on {row['clip']}, {row['target']:.2f}: {row['agreement']:.4f} delivered, "
        f"{told['mean']:.3f} ({told['low']:.3f} to {told['high']:.3f}) told, "
        f"{row['executed_rate']:.3f} executed, {row['comparisons']} comparisons"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    args = parse_args(arguments)
    allocator = prepare_process()
    import torch

    from benchmarks.machine import describe

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    results = {
        "benchmark": "fidelity_budget",
        "machine": describe(allocator),
        "settings": settings_of(args, "json", "data_root"),
        "rows": measure(args),
    }
    write_json(results, args.json)


if __name__ == "__main__":
    main()

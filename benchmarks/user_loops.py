"""Whole loops over a video as users of each framework write them: from its frames to the results.

``python -m benchmarks.user_loops --json benchmarks/results/user_loops.json``

Runs what is installed; rows that the file has from other environments stay. A loop is run dense,
with a dictated quarter of the blocks (the policy costs nothing), and by the default policy with
that quarter as its target, frame by frame in turn in one process. Times are medians of a frame,
those of the default policy and rates are means. Of the dictated frames, those in which programs are
made or compared with the model are left out; of the default policy's, none is. Weights are random,
and the threshold of scores is set so that about --detections objects are found in the first frame,
dense. The pictures are those of the demo's clip, scaled.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import command

if TYPE_CHECKING:
    from .framework_loops import Clip, Loop

# torch comes later: the allocator and OpenMP's settings must be in place before it.

RATE = 0.25
WAYS = ("dense", "dictated", "learned")


def measure(loop: Loop, clip: Clip, args: argparse.Namespace) -> dict[str, Any]:
    """One row.

    Args:
        loop: What is measured.
        clip: Frames of its size.
        args: The command line.
    """
    import torch

    import blockcopy_plugins as bc
    from blockcopy_plugins.policy.dictated import DictatedPolicy

    from .clock import Clock
    from .grids import random_grid

    clock = Clock("cpu", args.clock)
    policies = {"dictated": DictatedPolicy(), "learned": dict(type="GainPolicy", target=RATE)}
    owners = {}
    for way in WAYS:
        torch.manual_seed(args.seed)
        owners[way] = loop.make()
    threshold, found = threshold_for(loop, owners["dense"], clip, args.detections)
    for way, policy in policies.items():
        bc.blockcopy_(owners[way], bc.BlockCopyConfig(block_size=loop.block, policy=policy))
    loops = {way: loop.run(owner, clip, threshold) for way, owner in owners.items()}
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    rates: dict[str, list[float]] = {way: [] for way in policies}
    checks = dict.fromkeys(WAYS, 0)
    objects = []
    draw = torch.Generator().manual_seed(args.seed)
    for step in range(args.warmup + args.repeats):
        for way in WAYS:
            if way == "dictated" and step:
                # Ultralytics runs a copy, with a policy of its own.
                session = bc.handle(owners[way])
                session.policy.grid = random_grid(RATE, tuple(session.last.host_grid.shape), draw)
            start = clock.start()
            result = next(loops[way])
            seconds = clock.between(start, clock.stop())
            checked, checks[way] = checks[way], programs_checked(owners[way], way)
            if step < args.warmup or (way == "dictated" and checks[way] != checked):
                continue
            spent[way].append(1e3 * seconds)
            if way in rates:
                rates[way].append(float(bc.handle(owners[way]).last.host_grid.float().mean()))
            elif loop.scores is not None:
                objects.append(len(loop.scores(result)))
    report = bc.report(owners["dictated"])
    times = {way: statistics.median(spent[way]) for way in WAYS}
    # It may execute much in one frame and nothing in the next.
    times["learned"] = statistics.mean(spent["learned"])
    programs = report.programs
    parts = None if programs is None else programs.parts
    return {
        "name": loop.name,
        "size": list(loop.size),
        "network_size": list(bc.handle(owners["dictated"]).last.size),
        "block": loop.block,
        "dense_ms": round(times["dense"], 1),
        "ours_ms": round(times["dictated"], 1),
        "speedup": round(times["dense"] / times["dictated"], 2),
        "rate": statistics.mean(rates["dictated"]),
        "policy": "GainPolicy",
        "policy_ms": round(times["learned"], 1),
        "policy_speedup": round(times["dense"] / times["learned"], 2),
        "policy_rate": round(statistics.mean(rates["learned"]), 3),
        "share_on_blocks": round(report.share_on_blocks, 4),
        "frames_replayed": 0 if programs is None else programs.replayed,
        "parts_replayed": 0 if parts is None else parts.replayed,
        "threshold": threshold,
        "objects_first": found,
        "objects": round(statistics.mean(objects), 1) if objects else None,
    }


def programs_checked(owner: Any, way: str) -> int:
    """How often programs were made or compared with the model; that takes much of a frame.

    Later it happens in one of 512 frames.
    """
    import blockcopy_plugins as bc

    programs = None if way == "dense" else bc.report(owner).programs
    if programs is None:
        return 0
    found = [programs] if programs.parts is None else [programs, programs.parts]
    return sum(each.made + each.compared for each in found)


def threshold_for(loop: Loop, owner: Any, clip: Clip, wanted: int) -> tuple[float, int | None]:
    """The threshold of scores with which about so many objects are found in the first frame.

    Random weights find nothing or everything; so there is the work of a busy scene.

    Args:
        loop: The loop.
        owner: What it runs, dense.
        clip: Its frames.
        wanted: How many.

    Returns:
        The threshold, and how many objects have scores above it; 0 and ``None`` for a loop without
        objects.
    """
    if loop.scores is None:
        return 0.0, None
    scores = sorted(loop.scores(next(loop.run(owner, clip, 0.0))), reverse=True)
    if len(scores) <= wanted:
        return 0.0, len(scores)
    return (scores[wanted - 1] + scores[wanted]) / 2, wanted


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write.

    Returns:
        What goes into the JSON file.
    """
    parser = command.new_parser("user_loops", __doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="loops with this in their name")
    parser.add_argument(
        "--detections", type=int, default=20, help="objects in a frame (default 20)"
    )
    parser.add_argument("--repeats", type=int, default=24, help="frames that count (default 24)")
    parser.add_argument("--warmup", type=int, default=16, help="frames before them (default 16)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default all cores")
    parser.add_argument("--seed", type=int, default=0)
    command.add_clock(parser)
    parser.add_argument("--json", type=command.json_file, help="file to write")
    args = parser.parse_args(argv)
    allocator = command.prepare_process(args.clock)
    import json
    from importlib.metadata import packages_distributions, version
    from importlib.util import find_spec

    import torch

    from .framework_loops import LOOPS, Clip
    from .machine import describe
    from .quantised import CLIP

    torch.set_num_threads(args.threads)
    machine = describe(allocator)
    warnings.simplefilter("ignore")
    kept = json.loads(args.json.read_text())["rows"] if args.json and args.json.exists() else []
    rows = {row["name"]: row for row in kept}
    distributions = packages_distributions()
    for loop in LOOPS:
        if args.only not in loop.name:
            continue
        missing = [name for name in loop.packages if find_spec(name) is None]
        if missing:
            print(f"{loop.name} is left out: {', '.join(missing)} not installed", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            frames = args.warmup + args.repeats
            clip = Clip.scaled(CLIP, frames, loop.size, Path(folder) / "clip.mp4")
            row = measure(loop, clip, args)
        row["versions"] = {name: version(distributions[name][0]) for name in loop.packages}
        row["machine"] = machine
        row["settings"] = command.settings_of(args, "json", "only")
        rows[loop.name] = row
        print(
            f"{loop.name}: dense {row['dense_ms']} ms; {row['rate']:.1%} dictated "
            f"{row['ours_ms']} ms ({row['speedup']}x); {row['policy_rate']:.1%} by "
            f"{row['policy']} {row['policy_ms']} ms ({row['policy_speedup']}x)",
            flush=True,
        )
        found = [rows[known.name] for known in LOOPS if known.name in rows]
        results = {"benchmark": "user_loops", "weights": "random", "rate": RATE, "rows": found}
        command.write_json(results, args.json)
    return {"benchmark": "user_loops", "rate": RATE, "rows": list(rows.values())}


if __name__ == "__main__":
    main()

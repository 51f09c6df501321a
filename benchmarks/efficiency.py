"""Sparse efficiency E = (dense time / sparse time) x executed rate.

``python -m benchmarks.efficiency --json results.json --plot speedup.png``

Dense and sparse frames alternate in one process, with the same weights, threads and dtype; medians
are compared. Dense is torch at its best: batch norm folded, channels last, inference mode, an
allocator that keeps its pages. The time of a sparse frame has the policy in it, its updates
included. Nothing here is a test: the figures are those of the machine and of the hour.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# torch comes later: the allocator and OpenMP's settings must be in place before it.

_HEADER = ("dtype", "rate", "dense ms", "sparse ms", "of it policy", "speed-up", "E")


def efficiency_row(
    *,
    executed: int,
    blocks: int,
    dense: Sequence[float],
    sparse: Sequence[float],
    policy: Sequence[float],
) -> dict:
    """Figures of one rate, from its times.

    Args:
        executed: Executed blocks of a frame.
        blocks: All blocks of a frame.
        dense: Milliseconds of each dense frame.
        sparse: Milliseconds of each sparse frame without the policy.
        policy: Milliseconds of the policy in each of them. Their mean counts, not their median:
            most frames have no update in them.

    Returns:
        ``rate``, ``dense_ms``, ``model_ms``, ``policy_ms``, ``sparse_ms`` (the sum of the two
        before), ``speedup``, ``efficiency`` and the ``times`` themselves.
    """
    rate = executed / blocks
    dense_ms, model_ms = statistics.median(dense), statistics.median(sparse)
    policy_ms = statistics.fmean(policy)
    speedup = dense_ms / (model_ms + policy_ms)
    return {
        "rate": rate,
        "executed": executed,
        "blocks": blocks,
        "dense_ms": dense_ms,
        "model_ms": model_ms,
        "policy_ms": policy_ms,
        "sparse_ms": model_ms + policy_ms,
        "speedup": speedup,
        "efficiency": speedup * rate,
        "times": {"dense": list(dense), "sparse": list(sparse), "policy": list(policy)},
    }


def measure(args: argparse.Namespace, dtype_name: str) -> list[dict]:
    """Rows of all rates for one dtype."""
    import torch

    import blockcopy_plugins as bc

    from .dictated_policy import DictatedPolicy
    from .grids import draw_grid, executed_blocks
    from .region import build_region

    clock = _clock(args.clock)
    dtype = getattr(torch, dtype_name)
    height, width = args.size
    grid = (-(-height // args.block_size), -(-width // args.block_size))
    dense = build_region(args.model, dtype, args.seed)
    # The same parameters in a module of its own, so that dense has no hook in it.
    shared = {id(t): t for t in (*dense.parameters(), *dense.buffers())}
    sparse = copy.deepcopy(dense, shared)

    policy = DictatedPolicy(masks="mask" in args.model, seed=args.seed)
    policy.prepare(args.size)
    _time_policy(policy, clock)
    bc.blockcopy_(sparse, bc.BlockCopyConfig(block_size=args.block_size, policy=policy))

    draw = torch.Generator().manual_seed(args.seed)
    frames = [
        torch.randn(1, 3, height, width, generator=draw).to(dtype) for _ in range(args.frames)
    ]
    frames = [frame.contiguous(memory_format=torch.channels_last) for frame in frames]
    counts = {rate: executed_blocks(rate, grid[0] * grid[1]) for rate in args.rates}
    times: dict = {rate: {"sparse": [], "policy": []} for rate in args.rates}
    dense_times: list[float] = []

    def run_sparse(frame, count: int) -> tuple[float, float]:
        policy.grid = draw_grid(count, grid, draw, args.pattern)
        start = clock()
        sparse(frame)
        spent = clock() - start
        # The engine's own figures are wall time, so the policy is timed by the same clock here.
        return spent, policy.seconds

    gc.collect()
    gc.freeze()  # a full collection amid a frame, over all that mmdet imported, takes half a second
    with torch.inference_mode():
        for step in range(args.warmup + args.repeats):
            frame = frames[step % len(frames)]
            start = clock()
            dense(frame)
            spent = clock() - start
            if step >= args.warmup:
                dense_times.append(1e3 * spent)
            for rate in args.rates:
                total, of_policy = run_sparse(frame, counts[rate])
                if step >= args.warmup:
                    times[rate]["sparse"].append(1e3 * (total - of_policy))
                    times[rate]["policy"].append(1e3 * of_policy)
    report = bc.report(sparse)
    gc.unfreeze()
    rows = []
    for rate in args.rates:
        row = efficiency_row(
            executed=counts[rate], blocks=grid[0] * grid[1], dense=dense_times, **times[rate]
        )
        rows.append(
            {
                "dtype": dtype_name,
                **row,
                "state_bytes": report.state_bytes,
                "densified": [f"{op.path}: {op.op}" for op in report.dense_ops],
            }
        )
    return rows


def check(args: argparse.Namespace) -> dict:
    """Compare with the dense model and the masked reference at a small size.

    Returns:
        Largest deviation relative to the largest value, over all outputs, in float32.

    Raises:
        SystemExit: If it is more than float rounding: then no time means anything.
    """
    import torch
    from torch.utils._pytree import tree_leaves

    import blockcopy_plugins as bc
    from blockcopy_plugins.engine.masked_reference import MaskedReference

    from .grids import draw_grid
    from .region import build_region

    block = min(args.block_size, 64)
    height, width = 3 * block, 4 * block
    region = build_region(args.model, torch.float32, args.seed)
    draw = torch.Generator().manual_seed(args.seed)
    frames = [torch.randn(1, 3, height, width, generator=draw) for _ in range(3)]
    grids = [draw_grid(count, (3, 4), draw) for count in (12, 5, 2)]

    def worst(got, wanted) -> float:
        pairs = zip(tree_leaves(got), tree_leaves(wanted), strict=True)
        return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)

    with torch.inference_mode():
        dense = region(frames[0])
        reference = MaskedReference(region, block)
        wanted = [reference(grid, frame) for grid, frame in zip(grids, frames, strict=True)]
        at_work = iter(grids)
        config = bc.BlockCopyConfig(block_size=block, policy=lambda frame, context: next(at_work))
        bc.blockcopy_(region, config)
        got = [region(frame) for frame in frames]
    found = {
        "size": [height, width],
        "against_dense": worst(got[0], dense),
        "against_reference": max(worst(a, b) for a, b in zip(got, wanted, strict=True)),
    }
    if not max(found["against_dense"], found["against_reference"]) < 1e-4:
        raise SystemExit(f"the sparse outputs differ from the reference: {found}")
    return found


def _time_policy(policy, clock: Callable[[], float]) -> None:
    """Give the policy a count of the seconds spent in it during the last call."""
    select, feedback = policy.select, policy.feedback

    def timed_select(*args):
        start = clock()
        out = select(*args)
        policy.seconds = clock() - start
        return out

    def timed_feedback(*args):
        start = clock()
        out = feedback(*args)
        policy.seconds += clock() - start
        return out

    policy.seconds = 0.0
    policy.select, policy.feedback = timed_select, timed_feedback


def _clock(name: str) -> Callable[[], float]:
    return time.process_time if name == "cpu" else time.perf_counter


def print_table(rows: Sequence[dict]) -> None:
    """Print the figures for people."""
    table = [_HEADER]
    for row in rows:
        table.append(
            (
                row["dtype"],
                f"{row['rate']:.1%}",
                f"{row['dense_ms']:.1f}",
                f"{row['sparse_ms']:.1f}",
                f"{row['policy_ms']:.1f}",
                f"{row['speedup']:.2f}",
                f"{row['efficiency']:.3f}",
            )
        )
    widths = [max(len(line[i]) for line in table) for i in range(len(_HEADER))]
    for line in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def save_plot(rows: Sequence[dict], model: str, path: str) -> None:
    """Draw speed-up against executed rate."""
    from blockcopy_plugins.visualization.speedup import plot_speedup

    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        series.setdefault(f"{model}, {row['dtype']}", []).append((row["rate"], row["speedup"]))
    plot_speedup(series, path)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mask-rcnn_r50_fpn", help="a config of MMDetection")
    parser.add_argument("--size", type=_size, default=(1024, 2048), metavar="HxW")
    parser.add_argument("--block-size", type=int, default=128)
    parser.add_argument("--rates", type=_numbers, default=[1.0, 0.5, 0.25, 0.125])
    parser.add_argument("--dtypes", type=_names, default=["float32", "bfloat16"])
    parser.add_argument("--pattern", choices=("random", "clustered"), default="random")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--frames", type=int, default=3, help="different frames, taken in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: CPU time over all threads, for a machine that others use too",
    )
    parser.add_argument("--check", action="store_true", help="compare with the reference first")
    parser.add_argument("--json", help="file to write")
    parser.add_argument("--plot", help="PNG to write")
    return parser.parse_args(argv)


def _size(text: str) -> tuple[int, int]:
    height, width = text.lower().split("x")
    return int(height), int(width)


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _names(text: str) -> list[str]:
    return text.split(",")


def prepare_process(clock: str, threads: int) -> str:
    """Settings that must precede torch.

    Returns:
        The allocator's name.
    """
    if clock == "cpu":
        # Threads that wait would burn CPU time, and be counted.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.setdefault("GOMP_SPINCOUNT", "0")
    from .allocator import retain_pages

    allocator = retain_pages()
    import torch

    torch.set_num_threads(threads)
    return allocator


def main(argv: Sequence[str] | None = None) -> dict:
    """Measure, print and write.

    Returns:
        What goes into the JSON file.
    """
    args = parse_arguments(argv)
    allocator = prepare_process(args.clock, args.threads)
    from .machine import describe

    results = {
        "benchmark": "efficiency",
        "machine": describe(allocator),
        "settings": {
            key: value for key, value in vars(args).items() if key not in ("json", "plot", "check")
        },
        "check": check(args) if args.check else None,
        "rows": [],
    }
    for dtype in args.dtypes:
        results["rows"] += measure(args, dtype)
    results["machine"]["load_1min_end"] = round(os.getloadavg()[0], 2)
    print_table(results["rows"])
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + "\n")
    if args.plot:
        save_plot(results["rows"], args.model, args.plot)
    return results


if __name__ == "__main__":
    main()

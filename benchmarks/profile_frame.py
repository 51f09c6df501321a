"""Where the time of a frame goes: convolutions, gather, scatter, pointwise ops, Python.

``python -m benchmarks.profile_frame --rates 1,0.25 --threads 1 --clock cpu``

For each rate the time by kind of op, beside that of a dense frame times the rate, which is what an
ideal sparse frame would take; then the convolutions that are farthest from it.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.efficiency import _clock, _numbers, _size, prepare_process


def profile(args: argparse.Namespace) -> dict:
    """Medians over the repeats: seconds by kind, and of every convolution, for dense and rates."""
    import torch

    import blockcopy_plugins as bc

    from .grids import draw_grid, executed_blocks
    from .op_timer import OpTimer
    from .region import build_region

    dtype = getattr(torch, args.dtype)
    height, width = args.size
    grid = (-(-height // args.block_size), -(-width // args.block_size))
    dense = build_region(args.model, dtype)
    shared = {id(t): t for t in (*dense.parameters(), *dense.buffers())}
    sparse = copy.deepcopy(dense, shared)
    draw = torch.Generator().manual_seed(0)
    frame = torch.randn(1, 3, height, width, generator=draw).to(dtype)
    frame = frame.contiguous(memory_format=torch.channels_last)
    count = [grid[0] * grid[1]]
    config = bc.BlockCopyConfig(
        block_size=args.block_size,
        policy=lambda frame, context: draw_grid(count[0], grid, draw),
    )
    bc.blockcopy_(sparse, config)
    gc.collect()
    gc.freeze()
    clock = _clock(args.clock)
    timers: dict = defaultdict(list)
    plain: dict = defaultdict(list)
    with torch.inference_mode():
        for step in range(args.repeats + 1):
            for rate in ("dense", *args.rates):
                model = dense if rate == "dense" else sparse
                count[0] = 0 if rate == "dense" else executed_blocks(rate, grid[0] * grid[1])
                start = clock()
                model(frame)
                spent = clock() - start
                with OpTimer(clock) as timer:
                    model(frame)
                if step:  # the first is a warm-up, and fills the state
                    plain[rate].append(spent)
                    timers[rate].append(timer)
    gc.unfreeze()
    return {
        str(rate): {
            "ms": 1e3 * statistics.median(plain[rate]),
            "kinds_ms": _median_kinds(timers[rate]),
            "convolutions_ms": _median_convolutions(timers[rate]),
        }
        for rate in timers
    }


def _median_kinds(timers: Sequence) -> dict[str, float]:
    by_kind: dict[str, list[float]] = defaultdict(list)
    for timer in timers:
        for kind, seconds in timer.by_kind().items():
            by_kind[kind].append(1e3 * seconds)
    return {kind: statistics.median(values) for kind, values in by_kind.items()}


def _median_convolutions(timers: Sequence) -> dict[str, dict]:
    """Milliseconds and calls by weight shape."""
    by_weight: dict[tuple, list[float]] = defaultdict(list)
    calls: dict[tuple, int] = {}
    for timer in timers:
        sums: dict[tuple, float] = defaultdict(float)
        counts: dict[tuple, int] = defaultdict(int)
        for (name, shapes), op in timer.ops.items():
            if "conv" in name and len(shapes) > 1:
                sums[shapes[1]] += 1e3 * op.seconds
                counts[shapes[1]] += op.calls
        for weight, milliseconds in sums.items():
            by_weight[weight].append(milliseconds)
        calls.update(counts)
    return {
        "x".join(map(str, weight)): {"ms": statistics.median(values), "calls": calls[weight]}
        for weight, values in by_weight.items()
    }


def print_profile(found: dict, rates: Sequence[float], worst: int = 10) -> None:
    """Print what :func:`profile` found."""
    dense = found["dense"]
    kinds = sorted(dense["kinds_ms"], key=dense["kinds_ms"].get, reverse=True)
    for rate in rates:
        here = found[str(rate)]
        efficiency = dense["ms"] * rate / here["ms"]
        print(f"\nrate {rate:g}: {here['ms']:.1f} ms, dense {dense['ms']:.1f} ms, ", end="")
        print(f"E = {efficiency:.3f} (without a policy)")
        print(f"  {'kind':<24}{'ms':>9}{'ideal':>9}{'lost':>9}")
        for kind in [*kinds, *(k for k in here["kinds_ms"] if k not in kinds)]:
            spent = here["kinds_ms"].get(kind, 0.0)
            ideal = dense["kinds_ms"].get(kind, 0.0) * rate
            print(f"  {kind:<24}{spent:9.1f}{ideal:9.1f}{spent - ideal:9.1f}")
        print(f"  {'convolution (weight)':<24}{'ms':>9}{'ideal':>9}{'lost':>9}")
        lost = []
        for weight, op in here["convolutions_ms"].items():
            ideal = dense["convolutions_ms"].get(weight, {"ms": 0.0})["ms"] * rate
            lost.append((op["ms"] - ideal, weight, op["ms"], ideal))
        for loss, weight, spent, ideal in sorted(lost, reverse=True)[:worst]:
            print(f"  {weight:<24}{spent:9.1f}{ideal:9.1f}{loss:9.1f}")


def main(argv: Sequence[str] | None = None) -> dict:
    """Measure, print and write.

    Returns:
        What goes into the JSON file.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mask-rcnn_r50_fpn")
    parser.add_argument("--size", type=_size, default=(1024, 2048), metavar="HxW")
    parser.add_argument("--block-size", type=int, default=128)
    parser.add_argument("--rates", type=_numbers, default=[1.0, 0.25])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args(argv)
    allocator = prepare_process(args.clock, args.threads)
    from .machine import describe

    found = profile(args)
    results = {
        "benchmark": "profile_frame",
        "machine": describe(allocator),
        "settings": {key: value for key, value in vars(args).items() if key != "json"},
        "profile": found,
    }
    print_profile(found, args.rates)
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + "\n")
    return results


if __name__ == "__main__":
    main()

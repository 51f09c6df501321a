"""Where the time of a frame goes, by kind: conv, gather, scatter, pointwise, dispatch, policy, ...

``python -m benchmarks.profile --rates 1,0.25 --json profile.json --plot profile.png``

For dense and each rate the time of a frame, policy included, taken apart by the kind of op that
runs. The frame as a whole is timed alone, and its ops are timed in a second run of it. dispatch is
what is left of the first: Python, torch's dispatcher and the engine's own book-keeping. Beside each
kind stands its time in a dense frame times the rate, which is what an ideal sparse frame would
take. Then come the convolutions that are farthest from it.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from . import command

KINDS = (
    "conv",
    "gather",
    "scatter",
    "pointwise",
    "pooling",
    "resize",
    "copy",
    "dispatch",
    "policy",
    "other",
)


def profile(args: argparse.Namespace, device: str, dtype_name: str, bar) -> dict:
    """Medians over the repeats, for dense and each rate.

    Args:
        args: Of the command line.
        device: ``'cpu'`` or ``'cuda'``.
        dtype_name: Of weights and frames.
        bar: Progress, told of each frame.

    Returns:
        By ``'dense'`` and rate: milliseconds of a frame, of it each kind, and of every convolution.
    """
    import torch

    from blockcopy_plugins.policy.dictated import DictatedPolicy

    from .clock import Clock
    from .conversion import sparse_copy
    from .grids import draw_grid, executed_blocks
    from .op_timer import OpTimer
    from .region import build_region, task_of
    from .unseen_policy import UnseenScene

    clock = Clock(device, args.clock)
    dtype = getattr(torch, dtype_name)
    height, width = args.size
    grid = (-(-height // args.block_size), -(-width // args.block_size))
    dense = build_region(args.model, dtype, device=device)
    draw = torch.Generator().manual_seed(0)
    frame = torch.randn(1, 3, height, width, generator=draw).to(device=device, dtype=dtype)
    frame = frame.contiguous(memory_format=torch.channels_last)
    scene = UnseenScene(task_of(dense.model))
    scene.prepare(args.size, device)
    policy = DictatedPolicy(scene, clock.mark, clock.between)
    # A graph is one op to whoever looks from outside.
    sparse = sparse_copy(dense, args.block_size, policy, cuda_graphs=False)
    gc.collect()
    gc.freeze()
    runs: dict = defaultdict(list)
    with torch.inference_mode():
        for step in range(args.repeats + 1):
            for rate in ("dense", *args.rates):
                model = dense if rate == "dense" else sparse
                if rate != "dense":
                    count = executed_blocks(rate, grid[0] * grid[1])
                    policy.grid = draw_grid(count, grid, draw).to(device)
                start = clock.start()
                model(frame)
                spent = clock.between(start, clock.stop())
                of_policy = policy.seconds()
                scene.timer = OpTimer(clock)
                with scene.timer:
                    model(frame)
                timer, scene.timer = scene.timer, None
                policy.seconds()
                bar.update()
                if step:  # the first is a warm-up, and fills the state
                    runs[rate].append((spent, of_policy, timer))
    gc.unfreeze()
    return {
        str(rate): {
            "ms": 1e3 * statistics.median(spent for spent, _, _ in found),
            "kinds_ms": kinds(
                [spent for spent, _, _ in found],
                [of_policy for _, of_policy, _ in found],
                [timer.by_kind() for _, _, timer in found],
            ),
            "convolutions_ms": _median_convolutions([timer for _, _, timer in found]),
        }
        for rate, found in runs.items()
    }


def kinds(
    frames: Sequence[float], policy: Sequence[float], ops: Sequence[dict[str, float]]
) -> dict[str, float]:
    """Milliseconds by kind.

    Args:
        frames: Seconds of each frame.
        policy: Seconds of the policy in each of them; their mean counts, as updates are rare.
        ops: Seconds by kind of op of each frame run again.

    Returns:
        Of each kind; ``dispatch`` is what the others leave of the median frame.
    """
    found = {kind: 0.0 for kind in KINDS}
    for kind in ops[0]:
        found[kind] = 1e3 * statistics.median(each[kind] for each in ops)
    found["policy"] = 1e3 * statistics.fmean(policy)
    # Of the same frame without its own policy, so that an update in one of four does not count
    # as dispatch.
    bare = 1e3 * statistics.median(f - p for f, p in zip(frames, policy, strict=True))
    found["dispatch"] = max(0.0, bare - sum(found[kind] for kind in ops[0]))
    return found


def _median_convolutions(timers: Sequence) -> dict[str, dict]:
    """Milliseconds and calls by weight shape."""
    from .op_timer import kind_of

    by_weight: dict[tuple, list[float]] = defaultdict(list)
    calls: dict[tuple, int] = {}
    for timer in timers:
        sums: dict[tuple, float] = defaultdict(float)
        counts: dict[tuple, int] = defaultdict(int)
        for (name, shapes), op in timer.ops.items():
            weight = next((s for s in shapes[1:] if len(s) == 4), None)
            if kind_of(name) == "conv" and weight:
                sums[weight] += 1e3 * op.seconds
                counts[weight] += op.calls
        for weight, milliseconds in sums.items():
            by_weight[weight].append(milliseconds)
        calls.update(counts)
    return {
        "x".join(map(str, weight)): {"ms": statistics.median(values), "calls": calls[weight]}
        for weight, values in by_weight.items()
    }


def print_profile(run: dict, worst: int = 8) -> None:
    """Print what :func:`profile` found.

    Args:
        run: An entry of ``runs`` in the JSON file.
        worst: Convolutions to show.
    """
    found = run["profile"]
    dense = found["dense"]
    for name, here in found.items():
        if name == "dense":
            continue
        rate = float(name)
        efficiency = dense["ms"] * rate / here["ms"]
        print(
            f"\n{run['device']}, {run['dtype']}, {rate:.1%}: {here['ms']:.1f} ms, dense "
            f"{dense['ms']:.1f} ms, E = {efficiency:.3f}"
        )
        shown = [k for k in KINDS if here["kinds_ms"][k] or dense["kinds_ms"][k]]
        lines = [
            _line(kind, here["kinds_ms"][kind], rate * dense["kinds_ms"][kind], here["ms"])
            for kind in shown
        ]
        command.print_columns(("kind", "ms", "share", "ideal", "lost"), lines)
        convolutions = []
        for weight, op in here["convolutions_ms"].items():
            ideal = rate * dense["convolutions_ms"].get(weight, {"ms": 0.0})["ms"]
            convolutions.append((op["ms"] - ideal, weight, op["ms"], ideal))
        lines = [
            _line(weight, spent, ideal, here["ms"])
            for _, weight, spent, ideal in sorted(convolutions, reverse=True)[:worst]
        ]
        if lines:
            command.print_columns(("weight", "ms", "share", "ideal", "lost"), lines)


def _line(name: str, spent: float, ideal: float, total: float) -> tuple[str, ...]:
    share = f"{spent / total:.1%}" if total else ""
    return name, f"{spent:.1f}", share, f"{ideal:.1f}", f"{spent - ideal:.1f}"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command.new_parser("profile", __doc__)
    parser.add_argument("--model", default="mask-rcnn_r50_fpn", help="see benchmarks.efficiency")
    parser.add_argument("--size", type=command.sizes, default=[(1024, 2048)], metavar="HxW")
    parser.add_argument("--block-size", type=int, default=128)
    parser.add_argument("--rates", type=command.rates, default=[1.0, 0.5, 0.25, 0.125])
    parser.add_argument("--dtypes", type=command.dtypes, default=["float32"])
    parser.add_argument("--devices", type=command.devices, default=["cpu"], help="cpu, cuda")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=4, help="default 4")
    command.add_clock(parser)
    parser.add_argument("--json", type=command.json_file, help="file to write")
    parser.add_argument("--plot", help="PNG to write")
    args = parser.parse_args(argv)
    if len(args.size) != 1:
        parser.error(f"--size: one size is expected, found {len(args.size)}")
    if args.plot and Path(args.plot).suffix.lower() != ".png":
        parser.error(f"--plot {args.plot}: expected a file that ends in .png")
    args.size = args.size[0]
    return args


def main(argv: Sequence[str] | None = None) -> dict:
    """Measure, print and write.

    Returns:
        What goes into the JSON file.
    """
    args = parse_arguments(argv)
    command.need_matplotlib(args.plot)
    allocator = command.prepare_process(args.clock)
    import torch

    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    from .machine import describe

    there, absent = command.usable_devices(args.devices)
    results = {
        "benchmark": "profile",
        "machine": describe(allocator, there),
        "settings": command.settings_of(args, "json", "plot"),
        "absent": absent,
        "runs": [],
    }
    steps = len(there) * len(args.dtypes) * (args.repeats + 1) * (len(args.rates) + 1)
    with command.progress(steps, "profile") as bar:
        for device in there:
            for dtype in args.dtypes:
                found = profile(args, device, dtype, bar)
                results["runs"].append({"device": device, "dtype": dtype, "profile": found})
    for run in results["runs"]:
        print_profile(run)
    command.write_json(results, args.json)
    if args.plot:
        from .profile_plot import plot_profile

        plot_profile(results, args.plot)
    return results


if __name__ == "__main__":
    main()

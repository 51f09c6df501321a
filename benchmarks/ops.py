"""Gather and scatter against a plain copy of as many bytes, in GB/s (read + written).

``python -m benchmarks.ops --json ops.json``

Kernel and copy take turns in one process; medians are compared. The goal is 70 % of the copy's
bandwidth. By default the maps are those of the 3x3 convolutions of a ResNet-50 with FPN at
1024x2048 px and blocks of 128 px; --channels and --blocks give others.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
from collections.abc import Callable, Sequence

from . import command

# (channels, block width in pixels of the map)
RESNET50_FPN = ((3, 128), (64, 64), (64, 32), (256, 32), (128, 16), (256, 8), (512, 4))


def figures(seconds: float, copy_seconds: float, size: int) -> dict[str, float]:
    """Bandwidth of a kernel beside that of a copy.

    Args:
        seconds: Of the kernel.
        copy_seconds: Of a copy of as many bytes.
        size: Bytes that the kernel writes; it reads as many.

    Returns:
        Milliseconds and GB/s (10^9 bytes) of both, and the kernel's share of the copy's bandwidth.
    """
    return {
        "bytes": size,
        "ms": 1e3 * seconds,
        "GB/s": 2 * size / seconds / 1e9,
        "copy_ms": 1e3 * copy_seconds,
        "copy_GB/s": 2 * size / copy_seconds / 1e9,
        "share": copy_seconds / seconds,
    }


def measure(args: argparse.Namespace, device: str, threads: int, dtype: str, bar) -> list[dict]:
    """A row for each map and rate.

    Args:
        args: Of the command line.
        device: ``'cpu'`` or ``'cuda'``.
        threads: Of torch.
        dtype: Of the maps.
        bar: Progress, told of each row.
    """
    import torch

    from blockcopy_plugins import ops
    from blockcopy_plugins.ops.window import window_table

    from .clock import Clock
    from .grids import draw_grid, executed_blocks

    torch.set_num_threads(threads)
    clock = Clock(device)
    grid = args.grid
    draw = torch.Generator().manual_seed(0)
    to = {"device": device, "dtype": getattr(torch, dtype), "memory_format": torch.channels_last}
    rows = []
    for (channels, block), rate in itertools.product(args.maps, args.rates):
        height, width = grid[0] * block, grid[1] * block
        state = torch.randn(1, channels, height, width).to(**to)
        chosen = draw_grid(executed_blocks(rate, grid[0] * grid[1]), grid, draw, args.pattern)
        blocks = chosen.nonzero().to(torch.int32).contiguous().to(device)
        packed = torch.randn(len(blocks), channels, block, block).to(**to)
        padding = args.dilation * (args.kernel - 1) // 2
        tables = [
            window_table(
                blocks=grid[i],
                block_out=block,
                size=size,
                kernel=args.kernel,
                padding=padding,
                dilation=args.dilation,
            ).to(device)
            for i, size in enumerate((height, width))
        ]
        window = ops.gather(state, blocks, *tables)
        sources = {"gather": window.clone(), "scatter": packed}
        targets = {"gather": torch.empty_like(window), "scatter": torch.empty_like(packed)}
        actions = {
            "gather": lambda s=state, b=blocks, t=tables, w=window: ops.gather(s, b, *t, out=w),
            "scatter": lambda s=state, p=packed, b=blocks: ops.scatter_(s, p, b),
        }
        for name in ("gather", "scatter"):
            pair = (targets[name], sources[name])
            actions[f"copy as {name}"] = lambda pair=pair: pair[0].copy_(pair[1])
        found = _alternate(actions, args.repeats, clock)
        rows.append(
            {
                "device": device,
                "threads": threads,
                "dtype": dtype,
                "channels": channels,
                "block": block,
                "executed": len(blocks),
                "kernel": args.kernel,
                "dilation": args.dilation,
                **{
                    name: figures(found[name], found[f"copy as {name}"], targets[name].nbytes)
                    for name in ("gather", "scatter")
                },
            }
        )
        bar.update()
    return rows


def _alternate(actions: dict[str, Callable], repeats: int, clock) -> dict[str, float]:
    """Median seconds of each action; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for step in range(repeats + 2):
        for name, action in actions.items():
            start = clock.start()
            action()
            spent = clock.between(start, clock.stop())
            if step >= 2:
                times[name].append(spent)
    return {name: statistics.median(values) for name, values in times.items()}


def print_table(rows: Sequence[dict]) -> None:
    """Print the figures for people."""
    head = ("map", "executed", "copy", "gather", "share", "copy", "scatter", "share")
    for setting, group in itertools.groupby(
        rows, key=lambda row: (row["device"], row["threads"], row["dtype"])
    ):
        print("\n{}, {} threads, {}; GB/s".format(*setting))
        lines = []
        for row in group:
            line = [f"{row['channels']} ch, {row['block']} px", str(row["executed"])]
            for op in ("gather", "scatter"):
                found = row[op]
                line += [f"{found['copy_GB/s']:.1f}", f"{found['GB/s']:.1f}"]
                line += [f"{found['share']:.0%}"]
            lines.append(line)
        command.print_columns(head, lines)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command.new_parser("ops", __doc__)
    parser.add_argument("--dtypes", type=command.dtypes, default=["float32"])
    parser.add_argument("--devices", type=command.devices, default=["cpu"], help="cpu, cuda")
    parser.add_argument("--rates", type=command.rates, default=[0.25], help="executed rates")
    parser.add_argument(
        "--channels", type=command.integers, help="of the maps; with each of --blocks"
    )
    parser.add_argument(
        "--blocks", type=command.integers, metavar="PX,...", help="width of a block of the maps"
    )
    parser.add_argument(
        "--grid",
        type=command.sizes,
        default=[(8, 16)],
        metavar="ROWSxCOLUMNS",
        help="blocks of a map (default 8x16)",
    )
    parser.add_argument("--kernel", type=int, default=3, help="taps of the window (default 3)")
    parser.add_argument("--dilation", type=int, default=1, help="distance of the taps (default 1)")
    parser.add_argument("--pattern", choices=("random", "clustered"), default="random")
    parser.add_argument("--threads", type=command.integers, default=[os.cpu_count()])
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--json", type=command.json_file, help="file to write")
    args = parser.parse_args(argv)
    if len(args.grid) != 1:
        parser.error(f"--grid: one grid is expected, found {len(args.grid)}")
    if (args.channels is None) != (args.blocks is None):
        parser.error("--channels and --blocks belong together: give both, or none for R50-FPN's")
    args.grid = args.grid[0]
    args.maps = list(RESNET50_FPN)
    if args.channels is not None:
        args.maps = list(itertools.product(args.channels, args.blocks))
    return args


def main(argv: Sequence[str] | None = None) -> dict:
    """Measure, print and write.

    Returns:
        What goes into the JSON file.
    """
    args = parse_arguments(argv)
    allocator = command.prepare_process()
    import torch

    torch.set_num_threads(args.threads[0])
    from .machine import describe

    there, absent = command.usable_devices(args.devices)
    results = {
        "benchmark": "ops",
        "machine": describe(allocator, there),
        "settings": command.settings_of(args, "json"),
        "absent": absent,
        "rows": [],
    }
    settings = list(itertools.product(there, args.threads, args.dtypes))
    total = len(settings) * len(args.maps) * len(args.rates)
    with command.progress(total, "gather and scatter") as bar:
        for setting in settings:
            results["rows"] += measure(args, *setting, bar)
    print_table(results["rows"])
    command.write_json(results, args.json)
    return results


if __name__ == "__main__":
    main()

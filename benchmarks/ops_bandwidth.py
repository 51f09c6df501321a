"""Gather and scatter against a plain copy of as many bytes, in GB/s (read + written).

``python -m benchmarks.ops_bandwidth --json bandwidth.json``
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.efficiency import prepare_process

# (channels, block width, stride of the map): the 3x3 convolutions of a ResNet-50 with FPN.
_MAPS = (
    (3, 128, 1),
    (64, 64, 2),
    (64, 32, 4),
    (256, 32, 4),
    (128, 16, 8),
    (256, 8, 16),
    (512, 4, 32),
)


def measure(args: argparse.Namespace) -> list[dict]:
    """A row for each map: bytes, milliseconds and GB/s of copy, gather, scatter."""
    import torch

    from blockcopy_plugins import ops
    from blockcopy_plugins.ops.window import window_table

    from .grids import draw_grid, executed_blocks

    dtype = getattr(torch, args.dtype)
    grid = (8, 16)
    draw = torch.Generator().manual_seed(0)
    rows = []
    for channels, block, stride in _MAPS:
        height, width = grid[0] * block, grid[1] * block
        layout = {"dtype": dtype, "memory_format": torch.channels_last}
        state = torch.randn(1, channels, height, width).to(**layout)
        chosen = draw_grid(executed_blocks(args.rate, grid[0] * grid[1]), grid, draw)
        blocks = chosen.nonzero().to(torch.int32).contiguous()
        packed = torch.randn(len(blocks), channels, block, block).to(**layout)
        copied = torch.empty_like(packed)
        tables = [
            window_table(blocks=grid[i], block_out=block, size=size, kernel=3, padding=1)
            for i, size in enumerate((height, width))
        ]
        window = ops.gather(state, blocks, *tables)
        found = _alternate(
            {
                "copy": lambda out=copied, source=packed: out.copy_(source),
                "gather": lambda s=state, b=blocks, t=tables, w=window: ops.gather(s, b, *t, out=w),
                "scatter": lambda s=state, p=packed, b=blocks: ops.scatter_(s, p, b),
            },
            args.repeats,
        )
        size = {"copy": packed, "gather": window, "scatter": packed}
        rows.append(
            {
                "channels": channels,
                "block": block,
                "stride": stride,
                "executed": len(blocks),
                **{
                    name: {
                        "ms": 1e3 * seconds,
                        "GB/s": 2 * size[name].nbytes / seconds / 1e9,
                    }
                    for name, seconds in found.items()
                },
            }
        )
    return rows


def _alternate(actions: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Median seconds of each action; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for step in range(repeats + 1):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            if step:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main(argv: Sequence[str] | None = None) -> dict:
    """Measure, print and write.

    Returns:
        What goes into the JSON file.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rate", type=float, default=0.25)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args(argv)
    allocator = prepare_process("wall", args.threads)
    from .machine import describe

    results = {
        "benchmark": "ops_bandwidth",
        "machine": describe(allocator),
        "settings": {key: value for key, value in vars(args).items() if key != "json"},
        "rows": measure(args),
    }
    print(f"{'map':<22}{'copy':>9}{'gather':>9}{'scatter':>9}   GB/s")
    for row in results["rows"]:
        name = f"{row['channels']} ch, {row['block']} px"
        speeds = "".join(f"{row[op]['GB/s']:9.1f}" for op in ("copy", "gather", "scatter"))
        print(f"{name:<22}{speeds}")
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + "\n")
    return results


if __name__ == "__main__":
    main()

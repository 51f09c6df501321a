"""Memory over many frames: it must not grow.

``python -m benchmarks.memory --frames 10000``

A converted model runs frames with a real policy and changing grids. Resident memory (RSS) and the
state's bytes are noted all along; what counts is the growth after the tenth frame.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.efficiency import _size


def resident_bytes() -> int:
    """Resident memory of this process.

    Raises:
        RuntimeError: If neither /proc nor psutil tells.
    """
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    try:
        import psutil
    except ImportError as error:
        raise RuntimeError("there is no /proc here: pip install psutil") from error
    return psutil.Process().memory_info().rss


def measure(args: argparse.Namespace) -> dict:
    """Run the frames; see :func:`main` for what comes back."""
    import torch

    import blockcopy_plugins as bc

    from .dictated_policy import DictatedPolicy
    from .grids import draw_grid, executed_blocks
    from .region import build_region

    torch.set_num_threads(args.threads)
    height, width = args.size
    grid = (-(-height // args.block_size), -(-width // args.block_size))
    model = build_region(args.model, torch.float32)
    before = resident_bytes()
    policy = DictatedPolicy()
    policy.prepare(args.size)
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=args.block_size, policy=policy))
    draw = torch.Generator().manual_seed(0)
    frames = [torch.randn(1, 3, height, width, generator=draw) for _ in range(3)]
    samples = []
    step = max(1, args.frames // 100)
    with torch.inference_mode():
        for index in range(args.frames):
            rate = torch.rand(1, generator=draw).item()
            policy.grid = draw_grid(executed_blocks(rate, grid[0] * grid[1]), grid, draw)
            model(frames[index % 3])
            if index < 12 or index % step == 0 or index == args.frames - 1:
                samples.append((index, resident_bytes(), bc.report(model).state_bytes))
    return _figures(before, samples)


def _figures(before: int, samples: Sequence[tuple[int, int, int]]) -> dict:
    late = [s for s in samples if s[0] >= 10] or list(samples)
    tail = late[-max(1, len(late) // 10) :]
    return {
        "rss_before": before,
        "rss_growth_after_frame_10": int(statistics.median(s[1] for s in tail)) - late[0][1],
        "rss_last": late[-1][1],
        "state_bytes_frame_10": late[0][2],
        "state_growth_after_frame_10": late[-1][2] - late[0][2],
        "samples": [{"frame": i, "rss": rss, "state_bytes": state} for i, rss, state in samples],
    }


def main(argv: Sequence[str] | None = None) -> dict:
    """Measure, print and write.

    Returns:
        What goes into the JSON file.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mask-rcnn_r50_fpn")
    parser.add_argument("--size", type=_size, default=(128, 192), metavar="HxW")
    parser.add_argument("--block-size", type=int, default=64)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args(argv)
    # The system's allocator as it is: one that keeps pages could hide a leak, or look like one.
    from .machine import describe

    results = {
        "benchmark": "memory",
        "machine": describe("system default"),
        "settings": {key: value for key, value in vars(args).items() if key != "json"},
        **measure(args),
    }
    mib = 2**20
    print(
        f"{args.frames} frames: state {results['state_bytes_frame_10'] / mib:.1f} MiB, grown by "
        f"{results['state_growth_after_frame_10'] / mib:.3f} MiB after frame 10; resident "
        f"{results['rss_last'] / mib:.1f} MiB, grown by "
        f"{results['rss_growth_after_frame_10'] / mib:.1f} MiB"
    )
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + "\n")
    return results


if __name__ == "__main__":
    main()

r"""A budget of milliseconds, held while another process takes a core away.

A network runs over a clip under ``GainPolicy(target_ms=...)``. From a third of the clip on until
two thirds of it another process computes, as if another program had been started. What is measured
is the whole frame, from the decoded picture to the result: data preprocessor, network and policy.

    python -m benchmarks.time_budget configs/demo/maskrcnn_blockcopy_demo.py --clip vtest.avi \
        --data-root DATA --targets 120,180 --json time_budget.json
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from benchmarks.command import (
    integers,
    json_file,
    new_parser,
    prepare_process,
    settings_of,
    write_json,
)

_BUSY = "while True: pass"
_DENSE_FRAMES = 15


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = new_parser("time_budget", __doc__)
    parser.add_argument("config", help="config, or file.py:factory; as for benchmarks.policies")
    parser.add_argument("--weights", help="checkpoint (default: that of the config)")
    parser.add_argument("--clip", required=True, help="as for benchmarks.policies")
    parser.add_argument("--data-root", action="append", default=[], help="folder of the clip")
    parser.add_argument("--block-size", type=int, help="px (default: that of the config, or 64)")
    parser.add_argument("--targets", type=integers, required=True, help="milliseconds a frame")
    parser.add_argument("--others", type=int, default=1, help="processes that take cores (1)")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--json", type=json_file, required=True, help="file for the figures")
    return parser.parse_args(arguments)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The dense frame's time, and a row for each target."""
    from benchmarks.policies.network import build_network
    from benchmarks.policies.plan import Model, parse_clip

    clip = parse_clip(args.clip, args.data_root)
    network = build_network(Model("network", args.config, args.weights))
    if args.block_size:
        network.block_size = args.block_size
    frames = network.frames(clip, clip.frames)
    rows = [_hold(network, frames, target, args.others) for target in args.targets]
    return {"dense_ms": _dense(network, frames), "rows": rows}


def _dense(network, frames) -> float:
    """Median milliseconds of a dense frame, on a quiet machine."""
    seconds = []
    for index, frame in enumerate(frames):
        if index == _DENSE_FRAMES:
            break
        seconds.append(_run(network, frame))
    return 1e3 * median(seconds[1:] or seconds)


def _hold(network, frames, target: float, others: int) -> dict[str, Any]:
    """One run under a target."""
    from tqdm import tqdm

    import blockcopy_plugins as bc

    policy = dict(type="GainPolicy", target_ms=target)
    config = bc.BlockCopyConfig(block_size=network.block_size, policy=policy)
    bc.blockcopy_(network.module, config, network.adapter)
    third = len(frames) // 3
    seconds, executed = [], []
    try:
        with _OtherProcesses(others) as busy:
            for index, frame in enumerate(
                tqdm(frames, desc=f"{target} ms", leave=False, disable=None)
            ):
                busy.run(third <= index < 2 * third)
                seconds.append(_run(network, frame))
                executed.append(bc.handle(network.module).last.executed_rate)
    finally:
        bc.restore_(network.module)
    parts = {
        "first third": slice(1, third),
        "with others": slice(third, 2 * third),
        "last third": slice(2 * third, None),
        "last two thirds": slice(third, None),
    }
    return {
        "target_ms": target,
        "frames": len(seconds),
        "parts": {
            name: {"ms": 1e3 * fmean(seconds[part]), "executed_rate": fmean(executed[part])}
            for name, part in parts.items()
        },
    }


def _run(network, frame) -> float:
    """Seconds of a frame, as a user of the framework runs it."""
    import torch

    # What the comparison of policies makes of the result (masks as run lengths) is not part of it.
    run = getattr(network.module, "test_step", network.run)
    start = time.perf_counter()
    with torch.inference_mode():
        run(frame)
    return time.perf_counter() - start


class _OtherProcesses:
    """Processes that compute while they are wanted, and are gone afterwards."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._running: list[subprocess.Popen] = []

    def run(self, wanted: bool) -> None:
        """Start or stop them."""
        if wanted and not self._running:
            command = [sys.executable, "-c", _BUSY]
            self._running = [subprocess.Popen(command) for _ in range(self._count)]
        elif not wanted:
            self.__exit__()

    def __enter__(self) -> _OtherProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.kill()
            process.wait()
        self._running = []


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    args = parse_args(arguments)
    allocator = prepare_process()
    import torch

    from benchmarks.machine import describe

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    found = measure(args)
    print(f"dense: {found['dense_ms']:.0f} ms")
    for row in found["rows"]:
        for name, part in row["parts"].items():
            print(
                f"target {row['target_ms']} ms, {name:15}: {part['ms']:.1f} ms, "
                f"{part['executed_rate']:.3f} executed"
            )
    results = {
        "benchmark": "time_budget",
        "machine": describe(allocator),
        "settings": settings_of(args, "json", "data_root"),
        **found,
    }
    write_json(results, args.json)


if __name__ == "__main__":
    main()
